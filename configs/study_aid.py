"""The paper's Table 4 and Figures 3, 4 and 7 on the Aerial Image Dataset, and some that it lacks.

    python -m sparse_ist_tf.study --config=configs/study_aid.py --workdir=runs/study_aid \
        --config.base.dataset.data_dir=DATA_DIR

180 trainings with three seeds; `--config.seeds=(0,)` makes it a third. Figure 3 wants keras' own
ResNet-50, which keras downloads; without a network its trainings fail, the others don't. The last
grid has two workers, so that bytes are really sent. One seed took 42 minutes on 2 cores beside
other work: 74.60 % with 4 subnets and half hidden, with earlier weights. All of it is in
docs/study.md.
It was measured with --config.base.masks.grid=scaled.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import study_config
from sparse_ist_tf.studies.paper import paper_grids


def get_config() -> ConfigDict:
    """The settings."""
    config = study_config.paper_study("aid", checkpoint_every_epochs=3.0)
    config.grids = paper_grids(figure_3_ratios=(0.0, 0.5), figure_4_ratios=(0.5, 0.7, 0.9))
    return config
