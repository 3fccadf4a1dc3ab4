"""What is compared, by names: settings, data sets and links, each in one table."""

# From a name to keys of train's configuration, as --config has them.
SETTINGS: dict[str, tuple[str, ...]] = {
    "fast": ("ist.link=fast",),
    "thin": ("ist.link=thin",),
    "thinnest": ("ist.link=thinnest",),
    # int4 and 500 steps, with smaller outer ones than the published 0.7 with momentum 0.9.
    "diloco": (
        "ist.algorithm=diloco",
        "ist.link=thinnest",
        "ist.outer_learning_rate=0.9",
        "ist.outer_momentum=0.3",
    ),
    "local_sgd": ("ist.algorithm=local_sgd", "ist.link=fast"),
    # A round is a step, behind which gradients are averaged: 20 of them take hours on a thin link.
    "data_parallel": ("ist.algorithm=data_parallel", "ist.link=fast", "ist.local_steps=1"),
}
REFERENCE = "data_parallel"  # whose accuracy in the end is what the others have to reach
DATASETS: dict[str, tuple[str, ...]] = {
    "aid": ("dataset.name=aid", "total_epochs=30"),
    "cifar10": ("dataset.name=cifar10", "total_epochs=30"),
    "mnist5k": ("dataset.name=mnist5k",),
    "digits": ("dataset.name=digits",),
}
LINKS = ("unshaped", "100mbit/5ms", "10mbit/20ms", "1mbit/100ms/1%")
