"""Is IST as good as a centralised head? By the number of subnets, and against a tuned head.

    python -m sparse_ist_tf.study --config=configs/study_gap.py --workdir=runs/study_gap_aid \
        --config.base.dataset.data_dir=DATA_DIR

On the Aerial Image Dataset, or with --config.base.dataset.name=cifar10 on CIFAR-10. Fixed masks at
0.5, 30 epochs, packaged encoder; every subnet takes as many steps as the centralised head, in the
fourth grid a share of them. "published" is what the paper's code does, initial weights included; in
the sixth grid nothing is hidden, in the seventh the feature is CLS and the mean of the patches'
tokens, in the last two the encoder sees images of 128 px instead of 64, four times the patches. 75
trainings with three seeds: on one core about a minute each for AID, two for CIFAR-10;
--config.only='("1_subnets",)' runs a part. With the packaged weights 4 subnets reached 80.69 ± 1.04
% on AID, the centralised head 80.69 ± 0.14 %. What it printed stands in docs/study.md.
It was measured with --config.base.masks.grid=scaled.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import study_config

_TUNED = (
    ("schedule", "cosine"),
    ("optimizer.name", "adamw"),
    ("optimizer.kwargs", {"weight_decay": 0.05}),
)
_TUNED_HEAD = (("ist.algorithm", "centralized"), ("head.dropout", 0.5), *_TUNED)


def get_config() -> ConfigDict:
    """The settings."""
    config = study_config.paper_study("aid")
    published = (("ist.variant", "published"), ("head.initializer", "torch_uniform"))
    config.variants = (
        ("centralised, tuned", _TUNED_HEAD),
        ("IST, tuned", _TUNED),
        ("published", published),
    )
    config.grids = {
        "1_subnets": (("ist.num_subnets", (1, 2, 4, 8, 16)),),
        "2_tuned": (("variant", ("centralised, tuned",)),),
        "3_published": (("ist.num_subnets", (2, 4, 8, 16)), ("variant", ("published",))),
        "4_shared_examples": (
            ("ist.num_subnets", (1, 2, 4, 8, 16)),
            ("share_total", (True,)),
        ),
        "5_tuned_subnets": (("ist.num_subnets", (4,)), ("variant", ("IST, tuned",))),
        "6_nothing_hidden": (("masks.ratio", (0.0,)), ("ist.num_subnets", (1, 4))),
        "7_cls_and_mean": (("encoder.pool", ("cls_mean",)), ("masks.ratio", (0.0, 0.5))),
        "8_larger_images": (
            ("encoder.image_size", (128,)),
            ("masks.ratio", (0.0, 0.5, 0.75)),
        ),
        "9_subnets_of_larger_images": (
            ("encoder.image_size", (128,)),
            ("ist.num_subnets", (1, 2)),
        ),
    }
    return config
