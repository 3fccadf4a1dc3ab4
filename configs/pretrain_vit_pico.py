"""Pre-trains vit_pico with vit_micro for its teacher, on one accelerator, under JAX.

    KERAS_BACKEND=jax python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_pico.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_pico

After configs/pretrain_vit_micro.py, whose run directory is `teacher`. A small encoder underfits, so
it learns most from the teacher's outputs for whole images, and its weights decay less. It reached
49.02 / 42.72 / 34.41 % on Tiny-ImageNet's validation images at 0 / 50 / 75 % hidden, in 4 minutes
on an NVIDIA H200; more is in its model card, sparse_ist_tf/encoder/packaged/vit_pico.md.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import pretrain_config


def get_config() -> ConfigDict:
    """The settings."""
    config = pretrain_config.accelerator_config()
    config.preset = "vit_pico"
    config.teacher = "runs/pretrain_vit_micro"
    config.distillation = 0.8
    config.projector = 384
    config.optimizer.kwargs.weight_decay = 0.02
    config.total_steps = 16700
    return config
