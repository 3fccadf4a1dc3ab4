"""The paper's protocol on NWPU-RESISC45, 45 classes.

Adam at 1e-3, batches of 64, 30 epochs, fixed masks, tested after every epoch; rounds and messages
are the default link's (--config.ist.link=fast has the paper's 20 local steps).

    python -m sparse_ist_tf.train --config=configs/resisc45.py --config.dataset.data_dir=DATA_DIR

No accuracy is recorded: it has not been run, its archive has to be downloaded by hand.
"""

from ml_collections import ConfigDict

from sparse_ist_tf.config import paper_config


def get_config() -> ConfigDict:
    """The settings."""
    return paper_config("resisc45")
