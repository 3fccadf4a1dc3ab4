"""Pre-trains an encoder as a masked autoencoder, by the paper's recipe.

    python -m sparse_ist_tf.pretrain --config=configs/pretrain_mae.py \
        --config.dataset.name=folder:PATH --num_workers=8 --workdir=runs/pretrain_mae

Source: "Masked Autoencoders Are Scalable Vision Learners" (He et al., 2022), table 8, with the
decoder of its section 4.1: ViT-B/16, 75 % hidden, normalised pixels as targets, AdamW with betas
0.9 and 0.95 and a decay of 0.05 that spares biases and norms, a learning rate of 1.5e-4 for 256
images that grows with the batch, 40 epochs of warm-up, a cosine over 800, random crops of 20 to 100
% and flips. Steps are those of ImageNet's 1,281,167 images in batches of 4,096. A small encoder on
a small data set wants a smaller decoder and fewer steps; docs/pretraining.md has such a run. Not
run at this size.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import pretrain_config as defaults

STEPS_PER_EPOCH = 1_281_167 // 4096


def get_config() -> ConfigDict:
    """The settings."""
    config = defaults.get_config()
    config.preset = "vit_base"
    config.mean, config.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.objective = "mae"
    config.decoder = {"width": 512, "depth": 8, "num_heads": 16}
    config.mask_ratios, config.mask_probabilities = (0.75,), (1.0,)
    config.augment, config.crop_area = ("flip", "crop"), 0.2

    config.optimizer = {"name": "adamw", "kwargs": {}}
    config.optimizer.kwargs = {"beta_1": 0.9, "beta_2": 0.95, "weight_decay": 0.05}
    config.learning_rate, config.scale_learning_rate = 1.5e-4, True
    config.batch_size = 4096
    config.schedule = "cosine"
    config.warmup_steps = 40 * STEPS_PER_EPOCH
    config.total_steps = 800 * STEPS_PER_EPOCH

    config.eval_mask_ratios = (0.75,)
    config.probe.every = 20 * STEPS_PER_EPOCH
    config.eval_every = 20 * STEPS_PER_EPOCH
    config.checkpoint_every = STEPS_PER_EPOCH
    return config
