"""What is compared, by names: settings, data sets and links, each in one table."""

# From a name to keys of train's configuration, as --config has them.
SETTINGS: dict[str, tuple[str, ...]] = {
    "ist": (),
    "local_sgd": ("ist.algorithm=local_sgd",),
    # A round is a step, behind which gradients are averaged: 20 of them take hours on a thin link.
    "data_parallel": ("ist.algorithm=data_parallel", "ist.local_steps=1"),
}
REFERENCE = "data_parallel"  # whose accuracy in the end is what the others have to reach
DATASETS: dict[str, tuple[str, ...]] = {
    "aid": ("dataset.name=aid", "total_epochs=30"),
    "cifar10": ("dataset.name=cifar10", "total_epochs=30"),
    "mnist5k": ("dataset.name=mnist5k",),
    "digits": ("dataset.name=digits",),
}
LINKS = ("unshaped", "100mbit/5ms", "10mbit/20ms", "1mbit/100ms/1%")
