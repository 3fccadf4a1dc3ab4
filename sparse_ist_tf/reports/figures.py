"""Figures as PNG bytes, legible in grey."""

import io
from collections.abc import Mapping, Sequence


def training_figure(metrics: Sequence[Mapping], results: Mapping) -> bytes:
    """Loss, accuracy and bytes over the steps of a run.

    Args:
        metrics: the records of metrics.jsonl.
        results: as results.json has it; its centralised accuracy becomes a line.

    Returns:
        A PNG.

    Example:
        >>> from sparse_ist_tf.reports.figures import training_figure
        >>> record = {"step": 1, "loss": 2.0, "train_accuracy": 0.1, "test_accuracy": 0.2,
        ...           "training_bytes": 10}
        >>> training_figure([record], {})[1:4]
        b'PNG'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [record["step"] for record in metrics]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, accuracy, sent = figure.subplots(1, 3)
    loss.plot(steps, [record["loss"] for record in metrics], "k-", label="training loss")
    loss.set(title="Loss", xlabel="steps of a subnet", ylabel="cross-entropy (nats)")
    for key, style, label in (
        ("train_accuracy", "k--", "training, subnets"),
        ("test_accuracy", "k-", "test, merged head"),
    ):
        accuracy.plot(steps, [100 * record[key] for record in metrics], style, label=label)
    if results.get("centralized_accuracy") is not None:
        value = 100 * results["centralized_accuracy"]
        accuracy.axhline(value, color="0.5", linestyle=":", label="test, centralised head")
    accuracy.set(title="Accuracy", xlabel="steps of a subnet", ylabel="accuracy (%)")
    accuracy.legend(loc="lower right", frameon=False)
    megabytes = [record["training_bytes"] / 1e6 for record in metrics]
    sent.plot(steps, megabytes, "k-")
    sent.set(title="Sent by a worker", xlabel="steps of a subnet", ylabel="MB (weights, moments)")
    for axes in (loss, accuracy, sent):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
