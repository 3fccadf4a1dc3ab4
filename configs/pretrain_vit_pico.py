"""Pre-trains vit_pico with vit_micro for its teacher, on one accelerator, under JAX.

    KERAS_BACKEND=jax python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_pico.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_pico

After configs/pretrain_vit_micro.py, whose run directory is `teacher`. A small encoder underfits, so
it learns most from the teacher's outputs for whole images, and its weights decay less. Four minutes
on an H200. What it reached is in its model card, sparse_ist_tf/encoder/packaged/vit_pico.md.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import pretrain_config


def get_config() -> ConfigDict:
    """The settings."""
    config = pretrain_config.get_config()
    config.seed = 3
    config.preset = "vit_pico"
    config.teacher = "runs/pretrain_vit_micro"
    config.mask_ratios, config.mask_probabilities = (0.5, 0.75), (0.7, 0.3)
    config.distillation = 0.8
    config.augment = ("flip", "crop", "color", "three_augment", "mixup", "cutmix")
    config.crop_area = 0.25
    config.mix_probability = 0.8
    config.projector = 384
    config.optimizer.kwargs.weight_decay = 0.02
    config.batch_size = 1024
    config.learning_rate = 3e-3
    config.warmup_steps = 400
    config.decay = 0.8
    config.total_steps = 16700
    config.log_every, config.eval_every, config.checkpoint_every = 100, 1000, 1000
    return config
