"""What unlike devices cost, and what reduces it: non-IID shards and unequal capacities.

    python -m sparse_ist_tf.study --config=configs/study_devices.py --workdir=runs/study_devices \
        --config.base.dataset.data_dir=DATA_DIR

On the Aerial Image Dataset, packaged encoder, fixed masks at 0.5, 4 subnets, 30 epochs. 36
trainings with three seeds, about a minute each on one core; 24 minutes in all on 2 cores, beside
other work: 75.07 ± 0.42 % with all examples for every subnet, 73.93 ± 1.21 % with non-IID shards,
with earlier weights. All of it is in docs/study.md.
It was measured with --config.base.masks.grid=scaled and, before there was another way, as with
--config.base.ist.logit_adjustment=False.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import study_config


def get_config() -> ConfigDict:
    """The settings."""
    config = study_config.paper_study("aid")
    config.grids = {
        "shards": (
            ("ist.local_steps", (1, 5, 20, 100)),
            ("dataset.shards", ("all", "dirichlet")),
        ),
        "moments": (("ist.moments", ("carry", "reset")), ("dataset.shards", ("dirichlet",))),
        "capacities": (
            ("ist.capacities", ((), (4, 2, 1, 1))),
            ("ist.scale_inputs", (True, False)),
        ),
    }
    return config
