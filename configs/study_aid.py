"""The paper's Table 4 and Figures 4 and 7 on the Aerial Image Dataset, with the packaged encoder.

    python -m sparse_ist_tf.study --config=configs/study_aid.py --workdir=runs/study_aid \
        --config.base.dataset.data_dir=DATA_DIR

171 trainings with three seeds; `--config.seeds=(0,)` makes it a third. The last grid has two
workers, so that bytes are really sent.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import study_config

RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def get_config() -> ConfigDict:
    """The settings."""
    config = study_config.get_config()
    base = config.base
    base.dataset.name = "aid"
    base.total_epochs = 30.0
    base.eval_every_rounds, base.eval_every_epochs = 0, 1.0
    base.checkpoint_every_rounds, base.checkpoint_every_epochs = 0, 3.0
    base.centralized_baseline = False  # one subnet is the centralised head
    config.grids = ConfigDict(
        {
            "table4_figure7": (("masks.ratio", RATIOS), ("ist.num_subnets", (1, 2, 4))),
            "figure4": (("masks.ratio", RATIOS), ("masks.kind", ("fixed", "random"))),
            "shared_masks": (
                ("masks.ratio", (0.25, 0.5, 0.75)),
                ("masks.kind", ("shared",)),
                ("masks.pattern", ("uniform", "grid", "center", "border")),
            ),
            "subnets": (("ist.num_subnets", (1, 2, 4, 8, 16)),),
            "bytes": (
                ("ist.algorithm", ("ist", "local_sgd", "data_parallel")),
                ("num_workers", (2,)),
            ),
        }
    )
    return config
