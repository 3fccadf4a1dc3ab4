"""The embedded default: 5,000 images of MNIST, half of the patches hidden, 4 subnets.

    python -m sparse_ist_tf.train --config=configs/mnist5k.py

is what `python -m sparse_ist_tf.train` runs.
"""

from sparse_ist_tf.config import get_config  # noqa: F401
