"""Pre-trains vit_micro further, with images that are mixed and a projector that is thrown away.

    python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_micro.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_micro
    python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_micro_mixed.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_micro_mixed

The first command is quick to learn and soon overfits; the second goes on from its weights. The
packaged weights were made so; what each reached stands in their model card,
sparse_ist_tf/encoder/packaged/vit_micro.md.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import pretrain_config


def get_config() -> ConfigDict:
    """The settings."""
    config = pretrain_config.get_config()
    config.seed = 2
    config.weights = "runs/pretrain_vit_micro/encoder.safetensors"
    config.augment = ("flip", "crop", "mixup", "cutmix")
    config.crop_area = 0.25
    config.projector = 768
    config.decay = 0.75
    config.total_steps = 9000
    return config
