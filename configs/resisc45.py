"""The paper's protocol on NWPU-RESISC45, 45 classes.

Adam at 1e-3, batches of 64, 30 epochs, 20 local steps, fixed masks; tested after every epoch.

    python -m sparse_ist_tf.train --config=configs/resisc45.py --config.dataset.data_dir=DATA_DIR

No accuracy is recorded: it has not been run, its archive has to be downloaded by hand.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import config as defaults


def get_config() -> ConfigDict:
    """The settings."""
    config = defaults.get_config()
    config.dataset.name = "resisc45"
    config.total_epochs = 30.0
    config.eval_every_rounds, config.eval_every_epochs = 0, 1.0
    config.checkpoint_every_rounds, config.checkpoint_every_epochs = 0, 3.0
    return config
