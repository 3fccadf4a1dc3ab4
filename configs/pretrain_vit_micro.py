"""Pre-trains vit_micro as the packaged weights began: long, on one accelerator, under JAX.

    pip install "jax[cuda13]"
    KERAS_BACKEND=jax python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_micro.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_micro

Every step shows each image whole and with patches hidden; the masked view learns half of its loss
from the whole view's output. Without KERAS_BACKEND it does the same on processors, far slower:
pretrain's defaults are for those. It reached 58.88 / 52.34 / 42.80 % on Tiny-ImageNet's validation
images at 0 / 50 / 75 % hidden, in 13 minutes on an NVIDIA H200; more is in the model card,
sparse_ist_tf/encoder/packaged/vit_micro.md. configs/pretrain_vit_micro_sizes.py goes on from there.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import pretrain_config


def get_config() -> ConfigDict:
    """The settings."""
    config = pretrain_config.accelerator_config()
    config.distillation = 0.5
    config.projector = 768
    config.total_steps = 37000
    return config
