"""Images of your own: a folder per class, with or without train/ and test/ above them.

    python -m sparse_ist_tf.train --config=configs/folder.py --config.dataset.name=folder:photos

Non-IID shards: each of four subnets draws from examples of its own, unevenly of each class. An
unreadable image is left out and counted. The accuracy depends on the images.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import config as defaults


def get_config() -> ConfigDict:
    """The settings."""
    config = defaults.get_config()
    config.dataset.name = "folder:photos"
    config.dataset.on_bad_image = "skip"
    config.dataset.shards = "dirichlet"
    config.dataset.dirichlet_alpha = 0.5
    config.total_epochs = 30.0
    config.schedule = "cosine"
    return config
