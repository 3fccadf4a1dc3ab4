"""Goes on with vit_micro for patches that are each enlarged by itself, for two epochs.

    python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_micro_sensor_short.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_micro_sensor_short

From the packaged weights, which saw images that were enlarged as a whole. What a sensor records has
64, 32 or 16 pixels a side here, so that a patch is one of 8, 4 or 2 pixels a side. Half of what two
epochs change is written. What they brought, and why configs/pretrain_vit_micro_sensor.py goes on
for longer, is in docs/pretraining.md.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import pretrain_config


def get_config() -> ConfigDict:
    """The settings."""
    config = pretrain_config.get_config()
    config.weights = "packaged:vit_micro"
    config.start_share = 0.5
    config.sensor_sizes, config.sensor_probabilities = (64, 32, 16), (0.3, 0.5, 0.2)
    config.mask_ratios, config.mask_probabilities = (0.5, 0.0, 0.75), (0.5, 0.3, 0.2)
    config.learning_rate = 5e-4
    config.warmup_steps = 100
    config.decay = 0.8
    config.total_steps = 780
    config.eval_every = 260
    return config
