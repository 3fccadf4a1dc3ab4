"""Pre-trains vit_micro as the packaged weights were: long, on one accelerator, under JAX.

    pip install "jax[cuda13]"
    KERAS_BACKEND=jax python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_micro.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_micro

Every step shows each image whole and with patches hidden; the masked view learns half of its loss
from the whole view's output. A quarter of an hour on an H200. Without KERAS_BACKEND it does the
same on processors, some hundred times slower: pretrain's defaults are for those. What it reached
is in the model card, sparse_ist_tf/encoder/packaged/vit_micro.md.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import pretrain_config


def get_config() -> ConfigDict:
    """The settings."""
    config = pretrain_config.get_config()
    config.seed = 3
    config.mask_ratios, config.mask_probabilities = (0.5, 0.75), (0.7, 0.3)
    config.distillation = 0.5
    config.augment = ("flip", "crop", "color", "three_augment", "mixup", "cutmix")
    config.crop_area = 0.25
    config.mix_probability = 0.8
    config.projector = 768
    config.batch_size = 1024
    config.learning_rate = 3e-3
    config.warmup_steps = 400
    config.decay = 0.8
    config.total_steps = 37000
    config.log_every, config.eval_every, config.checkpoint_every = 100, 1000, 1000
    return config
