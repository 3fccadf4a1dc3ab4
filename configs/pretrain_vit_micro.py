"""Pre-trains vit_micro, supervised, with patches dropped at random.

    python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_micro.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_micro

`tiny-imagenet` is a folder with train/ and test/, each with a folder per class. What the packaged
weights reached with it, and in how many steps, is in their model card,
sparse_ist_tf/encoder/packaged/vit_micro.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The settings."""
    config = ConfigDict()
    config.seed = 0
    config.dataset = {"name": "folder:tiny-imagenet", "data_dir": "", "split_seed": 0}
    config.dataset.on_bad_image = "error"
    config.dataset.cache_dir = ""  # decoded images; ~/.cache/sparse_ist_tf/images where empty

    config.preset = "vit_micro"
    config.dtype = "bfloat16"
    config.mean, config.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    config.objective = "supervised"
    config.label_smoothing = 0.1
    config.distillation = 0.0
    config.decoder = {"width": 96, "depth": 2, "num_heads": 3}  # of the masked autoencoder

    # Most steps hide much, which is cheap; some show all, so that whole images stay familiar.
    config.mask_ratios = (0.75, 0.5, 0.0)
    config.mask_probabilities = (0.5, 0.4, 0.1)
    config.augment = ("flip", "crop")

    config.optimizer = {"name": "muon"}
    config.optimizer.kwargs = {"weight_decay": 0.05, "adam_weight_decay": 0.0, "adam_beta_2": 0.99}
    config.learning_rate = 2e-3
    config.schedule = "trapezoid"
    config.decay = 0.28
    config.warmup_steps = 200
    config.batch_size = 256
    config.total_steps = 5000

    config.eval_mask_ratios = (0.0, 0.5, 0.75)
    config.eval_images = 2000
    config.log_every = 20
    config.eval_every = 400
    config.checkpoint_every = 200
    return config
