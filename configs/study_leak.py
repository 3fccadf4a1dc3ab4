"""How much of "half an image is enough" is the enlargement: masks on the sensor's pixels or scaled.

    python -m sparse_ist_tf.study --config=configs/study_leak.py --workdir=runs/study_leak \
        --config.base.dataset.data_dir=DATA_DIR

On CIFAR-10, whose images have 32 px, enlarged 2 and 4 times (cells of 4 and of 2 pixels), on the
Aerial Image Dataset, reduced from 150 px, and on the default set. Fixed masks at 0, 0.25, 0.5 and
0.75, 4 subnets, 30 epochs, packaged:vit_micro; then packaged:vit_micro_sensor, which has seen such
patches, at 0 and 0.5. 120 trainings with three seeds. Every mask is encoded anew, so CIFAR-10 is a
part of it, 4,000 and 2,000 images in a folder `cifar10_part`, which the snippet in docs/study.md
writes; "cifar10" in its place is the whole of it, in ten times the time.

    python -m sparse_ist_tf.study --config=configs/study_leak.py --workdir=runs/study_leak_large \
        --config.only='("8_large",)'

enlarges 750 and 500 images, `cifar10_small`, 7 times, to 224 px in cells of 2 pixels, for a DINOv2
ViT-S/14 whose weights lie in `weights/dinov2_small.safetensors`: 24 trainings with three seeds.
docs/study.md says what they came to: hiding half costs 7.85 ± 0.89 points on CIFAR-10 enlarged
twice, and would seem to cost 6.93 ± 0.40 with the leak; enlarged 7 times 7.67 ± 0.70 and 3.93 ±
1.14.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import config as train_config
from sparse_ist_tf import study_config

CIFAR10, SMALL = "folder:cifar10_part", "folder:cifar10_small"
RATIOS = (0.0, 0.25, 0.5, 0.75)
_GRIDS = ("masks.grid", ("sensor", "scaled"))
_DINOV2 = (
    ("encoder.weights", "weights/dinov2_small.safetensors"),
    ("encoder.image_size", 224),
    ("encoder.mean", (0.485, 0.456, 0.406)),
    ("encoder.std", (0.229, 0.224, 0.225)),
)


def _known(names, sizes):
    """The encoder that has seen patches enlarged by themselves."""
    return (
        ("masks.ratio", RATIOS[::2]),
        ("encoder.weights", ("packaged:vit_micro_sensor",)),
        ("dataset.name", names),
        ("encoder.image_size", sizes),
    )


def get_config() -> ConfigDict:
    """The settings."""
    config = study_config.paper_study("aid")
    default = train_config.get_config()
    config.variants = (("DINOv2 ViT-S/14", _DINOV2),)
    config.grids = {
        "1_default_set": (
            ("masks.ratio", RATIOS),
            _GRIDS,
            ("dataset.name", (default.dataset.name,)),
            ("encoder.image_size", (default.encoder.image_size,)),
        ),
        "2_cifar10_enlarged_twice": (
            ("masks.ratio", RATIOS),
            _GRIDS,
            ("dataset.name", (CIFAR10,)),
            ("encoder.image_size", (64,)),
        ),
        "3_cifar10_enlarged_4_times": (
            ("masks.ratio", RATIOS),
            _GRIDS,
            ("dataset.name", (CIFAR10,)),
            ("encoder.image_size", (128,)),
        ),
        "4_aid_reduced": (
            ("masks.ratio", RATIOS),
            _GRIDS,
            ("dataset.name", ("aid",)),
            ("encoder.image_size", (64,)),
        ),
        "5_small_cells_known": _known((CIFAR10,), (64, 128)),
        "6_aid_known": _known(("aid",), (64,)),
        "7_default_set_known": _known((default.dataset.name,), (default.encoder.image_size,)),
        "8_large": (
            ("masks.ratio", RATIOS),
            _GRIDS,
            ("dataset.name", (SMALL,)),
            ("variant", ("DINOv2 ViT-S/14",)),
        ),
    }
    config.only = tuple(config.grids)[:-1]
    return config
