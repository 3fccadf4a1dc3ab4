"""Pre-trains vit_pico, supervised, with patches dropped at random.

    python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_pico.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_pico

As vit_micro, but a small encoder is cheap and underfits: more steps, a higher rate, less decay,
and whole images more often. What it reached is in its model card,
sparse_ist_tf/encoder/packaged/vit_pico.md.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import pretrain_config as defaults


def get_config() -> ConfigDict:
    """The settings."""
    config = defaults.get_config()
    config.preset = "vit_pico"
    config.mask_probabilities = (0.4, 0.4, 0.2)
    config.optimizer.kwargs.weight_decay = 0.02
    config.learning_rate = 3e-3
    config.total_steps = 6000
    return config
