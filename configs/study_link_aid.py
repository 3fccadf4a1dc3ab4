"""Accuracy against bytes of an image on the Aerial Image Dataset: what to send over a thin link.

    python -m sparse_ist_tf.study --config=configs/study_link_aid.py --workdir=runs/study_link_aid \
        --config.base.dataset.data_dir=DATA_DIR

26 trainings with one seed; `--config.seeds=(0,1,2)` makes them three times as many. Whole images as
JPEGs, visible patches as JPEGs of their own and raw, and features, which a sensor sends that has
the encoder itself. One seed took 16 minutes on 2 cores beside other work: 78.87 % with features of
206 bytes, 72.80 % with half of the patches as JPEGs of 481. All of it is in docs/study.md.
It was measured with --config.base.masks.grid=scaled, before there were features of 4, 3 and 2 bits.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import study_config

QUALITIES = (5, 15, 40, 75)


def get_config() -> ConfigDict:
    """The settings."""
    config = study_config.paper_study("aid", checkpoint_every_epochs=3.0)
    config.seeds = (0,)
    config.grids = {
        "1_whole_images": (
            ("transport.quality", QUALITIES),
            ("transport.codec", ("jpeg",)),
            ("masks.ratio", (0.0,)),
        ),
        "2_visible_patches": (
            ("transport.quality", QUALITIES),
            ("transport.codec", ("patches",)),
            ("masks.ratio", (0.0, 0.5, 0.75)),
        ),
        "3_raw_patches": (
            ("masks.ratio", (0.0, 0.5, 0.75, 0.9)),
            ("transport.codec", ("raw",)),
        ),
        "4_features": (
            ("transport.features", ("float32", "float16", "int8", "int4", "int3", "int2")),
            ("transport.codec", ("none",)),
            ("masks.ratio", (0.0,)),
        ),
    }
    return config
