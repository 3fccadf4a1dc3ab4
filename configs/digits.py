"""The embedded default: 1,797 handwritten digits, half of the patches hidden, 4 subnets.

    python -m sparse_ist_tf.train --config=configs/digits.py

is what `python -m sparse_ist_tf.train` runs.
"""

from sparse_ist_tf.config import get_config  # noqa: F401
