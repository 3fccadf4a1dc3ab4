"""Goes on with vit_micro for images of 64 and of 128 px, as the packaged weights did.

    KERAS_BACKEND=jax python -m sparse_ist_tf.pretrain \
        --config=configs/pretrain_vit_micro_sizes.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_micro_sizes

After configs/pretrain_vit_micro.py, from whose encoder it starts. Half of the steps see images of
twice the side, four times the patches, so that `encoder.image_size=128` finds features that know
that size. The weights it ends with are seven tenths of what it trained and three of its start's,
since this training alone makes the features at 64 px worse for other data. It reached 60.40 / 53.21
/ 42.00 % on Tiny-ImageNet's validation images at 0 / 50 / 75 % hidden, at 128 px 63.84 / 60.66 /
54.43 %, in 16 minutes on an NVIDIA H200; more is in the model card,
sparse_ist_tf/encoder/packaged/vit_micro.md.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import pretrain_config


def get_config() -> ConfigDict:
    """The settings."""
    config = pretrain_config.accelerator_config()
    config.seed = 4
    config.weights = "runs/pretrain_vit_micro/encoder.safetensors"
    config.start_share = 0.3
    config.image_sizes, config.size_probabilities = (64, 128), (0.5, 0.5)
    config.learning_rate = 2e-3
    config.distillation = 0.5
    config.projector = 768
    config.total_steps = 16100
    return config
