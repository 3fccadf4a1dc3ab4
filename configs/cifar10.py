"""The paper's protocol on CIFAR-10.

Adam at 1e-3, batches of 64, 30 epochs, fixed masks, tested after every epoch; rounds and messages
are the default link's (--config.ist.link=fast has the paper's 20 local steps).

    python -m sparse_ist_tf.train --config=configs/cifar10.py --config.dataset.data_dir=DATA_DIR

On a fast link, in bfloat16 and with --config.masks.grid=scaled, seeds 0 to 2 reached 79.89 ± 0.51 %
with the merged head, 80.25 ± 0.32 % at the best evaluation, in about two minutes each on one
core (configs/study_gap.py; docs/study.md).
"""

from ml_collections import ConfigDict

from sparse_ist_tf.config import paper_config


def get_config() -> ConfigDict:
    """The settings."""
    return paper_config("cifar10")
