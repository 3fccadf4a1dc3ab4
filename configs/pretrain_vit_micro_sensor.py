"""Goes on with vit_micro for what sensors record, at 64 and at 128 px, as vit_micro_sensor did.

    KERAS_BACKEND=jax python -m sparse_ist_tf.pretrain \
        --config=configs/pretrain_vit_micro_sensor.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_micro_sensor

From packaged:vit_micro. In three quarters of the steps every patch is enlarged from its own pixels,
from an image of 64, 32 or 16 px; in the others the whole image is. The weights it ends with are
seven tenths of what it trained and three of its start's. It took 8 minutes on an NVIDIA H200; what
it reached is in the model card, sparse_ist_tf/encoder/packaged/vit_micro_sensor.md.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import pretrain_config


def get_config() -> ConfigDict:
    """The settings."""
    config = pretrain_config.accelerator_config()
    config.seed = 5
    config.weights = "packaged:vit_micro"
    config.start_share = 0.3
    config.masks.grid, config.masks.scaled_share = "sensor", 0.25
    config.sensor_sizes, config.sensor_probabilities = (64, 32, 16), (0.45, 0.45, 0.1)
    config.image_sizes, config.size_probabilities = (64, 128), (0.6, 0.4)
    config.learning_rate = 2e-3
    config.warmup_steps = 800
    config.distillation = 0.5
    config.projector = 768
    config.eval_mask_ratios = (0.0, 0.5)
    config.total_steps = 8400
    return config
