"""Pre-trains vit_micro, supervised, with patches dropped at random.

    python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_micro.py \
        --config.dataset.name=folder:tiny-imagenet --workdir=runs/pretrain_vit_micro

`tiny-imagenet` is a folder with train/ and test/, each with a folder per class. What the packaged
weights reached with it, and in how many steps, is in their model card,
sparse_ist_tf/encoder/packaged/vit_micro.md.
"""

from sparse_ist_tf.pretrain_config import get_config  # noqa: F401
