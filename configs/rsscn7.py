"""The paper's protocol on RSSCN7, 7 classes; aid.py says what is in it.

    python -m sparse_ist_tf.train --config=configs/rsscn7.py --config.dataset.data_dir=DATA_DIR

1,400 images to train on and as many to test. No accuracy is recorded.
"""

from ml_collections import ConfigDict

from sparse_ist_tf.config import paper_config


def get_config() -> ConfigDict:
    """The settings."""
    return paper_config("rsscn7")
