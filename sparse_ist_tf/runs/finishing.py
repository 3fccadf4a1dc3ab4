"""What a run leaves at its end: head.keras, masks.png, the report and the results."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_ist_tf.checkpoints.loading import load_configured
from sparse_ist_tf.checkpoints.writing import save_encoder
from sparse_ist_tf.encoder.bundle import ViTEncoder, vit_encoder
from sparse_ist_tf.files import replacing, writing
from sparse_ist_tf.inputs.datasets import image_errors
from sparse_ist_tf.ist.head import build_model
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.masks import write_mask_preview
from sparse_ist_tf.masks.preview import spread_over_classes
from sparse_ist_tf.reports.report import write_report
from sparse_ist_tf.runs.evaluation import Evaluation
from sparse_ist_tf.runs.parts import features_of, last_partition, with_tuned_encoder
from sparse_ist_tf.runs.progress import Progress
from sparse_ist_tf.workers.ledger import Ledger
from sparse_ist_tf.workers.link import Link

if TYPE_CHECKING:
    from sparse_ist_tf.runs.training import Run

_SHOWN = 12  # images of masks.png


def finish(run: "Run") -> dict:
    """Writes what a run leaves at its end; called by the chief alone.

    Returns:
        The results, as results.json has them.

    Raises:
        RunError: if an image can't be read or a file not be written.
    """
    directory, trainer, test = run.directory, run.trainer, run.splits["test"]
    arrays, progress = directory.checkpoint()
    state, progress = HeadState.of_arrays(arrays), Progress.of_dict(progress)
    evaluation, features = _as_written(run) if run.tokens else (run.evaluation, run.test_features)
    table, metrics = evaluation.accuracies(state, trainer.round, features), directory.metrics()
    directory.last_metrics()  # raises where there is none
    central, mean = table.pop("centralized"), Ledger.mean(progress.ledgers)
    best = None if central is None else max(line["centralized_accuracy"] for line in metrics)
    results = {
        "algorithm": run.config.ist.algorithm,
        "num_subnets": trainer.options.num_subnets,
        "num_workers": len(progress.ledgers),
        "rounds": trainer.round,
        "steps": trainer.step,
        "local_steps": trainer.options.local_steps,
        "test_size": test.size,
        "accuracy": table,
        "best_accuracy": max(line["test_accuracy"] for line in metrics),
        "centralized_accuracy": central,
        "centralized_best_accuracy": best,
        "bytes": mean.as_dict(),
        "bytes_by_worker": progress.as_dict()["bytes_by_worker"],
        "training_bytes": mean.training,
        "synchronous_bytes": progress.synchronous_bytes,
        "features": run.feature_keys,
        **evaluation.finished_accuracies(state, trainer.round, features),
        "bytes_per_image": _bytes_per_image(run),
        "int8_bytes": _int8_bytes(run),
        **trainer.told(),
    }
    path = directory.path / "head.keras"
    with writing(path), replacing(path) as temporary:
        build_model(state.folded()).save(temporary)
    _write_masks(run, directory.path / "masks.png")
    write_report(directory.path, directory.config(), results, metrics)
    directory.save_results(results)
    return results


def _as_written(run: "Run"):
    """Writes the tuned encoder, and tests with what was written, as others will."""
    path = run.directory.path / "encoder.safetensors"
    tuned = vit_encoder(run.encoder, "encoder.trainable_blocks")
    save_encoder(path, tuned.model, tuned.mean, tuned.std, dtype="float32")
    config = with_tuned_encoder(run.config, path.parent)
    encoder, test = load_configured(config.encoder), run.splits["test"]
    features = features_of(run.config, encoder).of(test, Link.alone())
    return Evaluation(run.config, run.evaluation.spec, encoder, test), features


def _int8_bytes(run: "Run") -> int | None:
    """What an int8 classifier of one subnet has to hold, about; None for what doesn't export."""
    if not isinstance(run.encoder, ViTEncoder):
        return None
    spec, encoder = run.evaluation.spec, run.encoder.model.count_params()
    partition = last_partition(run.config, spec, run.trainer.round)
    parts = partition.num_subnets if partition else 1
    widths = [spec.feature_dim, *(width // parts for width in spec.hidden), spec.num_classes]
    return int(encoder + sum(a * b + 4 * b for a, b in itertools.pairwise(widths)))


def _bytes_per_image(run: "Run") -> dict:
    encoder, test = run.encoder, run.splits["test"]
    scaling = run.features.scaling
    found = run.features.transport.bytes_per_image(test, run.masks, scaling, encoder.feature_dim)
    return {"quality": run.features.transport.quality, **found}


def _write_masks(run: "Run", path: Path) -> None:
    test, encoder = run.splits["test"], run.encoder
    count = min(_SHOWN, test.size)
    chosen = spread_over_classes(test.labels, count)
    with image_errors():
        rows = test.pick(run.features.scaling, chosen).batch(count)
        batch = next(rows.as_numpy_iterator())
    positions = run.masks.positions(batch["index"], encoder.num_patches)
    with writing(path):
        write_mask_preview(path, batch["image"], positions, encoder.patch_size)
