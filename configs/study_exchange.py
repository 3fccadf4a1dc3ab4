"""What rarer rounds and rounded messages cost: `ist.link` with alike and with unlike shards.

    python -m sparse_ist_tf.study --config=configs/study_exchange.py --workdir=runs/study_exchange \
        --config.base.dataset.data_dir=DATA_DIR

On the Aerial Image Dataset (30 epochs), the default set (16) and CIFAR-10 (10), half hidden, 4
subnets, three seeds: every link with the same examples for all subnets, `fast` and `thin` with
shards by Dirichlet's distribution of 0.3, with and without logits adjusted on the first set.

    python -m sparse_ist_tf.study --config=configs/study_exchange.py --workdir=runs/study_bytes \
        --config.only='("8_bytes",)' --config.num_workers=4 --config.seeds='(0,)' --config.jobs=1

draws accuracy against the bytes that a worker sent, beside what one would use otherwise.
docs/thin_links.md says what they came to.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import study_config

# Of those tried the better setting of each (docs/thin_links.md).
_DILOCO = (
    ("ist.algorithm", "diloco"),
    ("ist.link", "thinnest"),
    ("ist.outer_learning_rate", 0.9),
    ("ist.outer_momentum", 0.3),
)
_VARIANTS = (
    ("IST, fast", (("ist.link", "fast"),)),
    ("IST, thin", (("ist.link", "thin"),)),
    ("IST, thinnest", (("ist.link", "thinnest"),)),
    ("DiLoCo", _DILOCO),
    ("local SGD", (("ist.algorithm", "local_sgd"), ("ist.link", "fast"))),
    ("data parallel", (("ist.algorithm", "data_parallel"), ("ist.link", "fast"))),
)


def _grids(number, dataset, epochs):
    """Of a data set: all links with alike shards, the fast and the thin one with unlike ones."""
    same = ("dataset.name", (dataset,)), ("total_epochs", (epochs,))
    alike = ("ist.link", ("fast", "thin", "thinnest"))
    unlike = ("ist.link", ("fast", "thin"))
    return {
        f"{number}_{dataset}_alike": (alike, *same),
        f"{number + 1}_{dataset}_unlike": (unlike, ("dataset.shards", ("dirichlet",)), *same),
    }


def get_config() -> ConfigDict:
    """The settings."""
    config = study_config.paper_study("aid")
    config.base.ist.local_steps = 0
    config.variants = _VARIANTS
    config.grids = {
        **_grids(1, "aid", 30.0),
        **_grids(3, "mnist5k", 16.0),
        **_grids(5, "cifar10", 10.0),
        "7_not_adjusted": (
            ("ist.link", ("fast", "thin")),
            ("dataset.shards", ("dirichlet",)),
            ("ist.logit_adjustment", (False,)),
        ),
        "8_bytes": (("variant", tuple(name for name, _ in _VARIANTS)),),
    }
    config.only = tuple(config.grids)[:-1]
    return config
