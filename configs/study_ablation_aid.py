"""Which remedy of IST does what: ablations on the Aerial Image Dataset with the packaged encoder.

    python -m sparse_ist_tf.study --config=configs/study_ablation_aid.py \
        --workdir=runs/study_ablation_aid --config.base.dataset.data_dir=DATA_DIR

Fixed masks at 0.5, 4 subnets, 30 epochs; every subnet takes as many steps as the centralised head.
114 trainings with three seeds, about a minute each on one core; one seed took 14 minutes on 2
cores, and led from 72.87 % (published) to 74.60 % (corrected) with 4 subnets, from 51.67 to 71.87 %
with 16, with earlier weights. What it printed stands in docs/study.md.
It was measured with --config.base.masks.grid=scaled.
"""

from ml_collections import ConfigDict

from sparse_ist_tf import study_config

_SLOTS = (("ist.moments", "slot"), ("ist.biases", "slot"))
_LOST = ("ist.keep_last_step", False)
_UNSCALED = ("ist.scale_inputs", False)
_TORCH = ("head.initializer", "torch_uniform")
_CENTRAL = ("ist.algorithm", "centralized")
_DECAY = (("optimizer.name", "adamw"), ("optimizer.kwargs", {"weight_decay": 0.05}))

# From the published code to the corrected one, one remedy after the other.
STEPS = {
    "published": (("ist.variant", "published"), _TORCH),
    "+ last step kept": (*_SLOTS, _UNSCALED, _TORCH),
    "+ biases exchanged": (("ist.moments", "slot"), _UNSCALED, _TORCH),
    "+ moments carried": (_UNSCALED, _TORCH),
    "+ scaling": (_TORCH,),
    "+ initial weights (corrected)": (),
}
# The corrected one, but for one thing.
CHANGES = {
    "without scaling": (_UNSCALED, ("head.initializer", "he_normal")),
    "biases stay in the slot": (("ist.biases", "slot"),),
    "moments stay in the slot": (("ist.moments", "slot"),),
    "moments reset": (("ist.moments", "reset"),),
    "last step lost": (_LOST,),
    "1 local step": (("ist.local_steps", 1),),
    "5 local steps": (("ist.local_steps", 5),),
    "100 local steps": (("ist.local_steps", 100),),
    "growing local steps": (("ist.local_steps_schedule", "grow"),),
    "consensus at the end": (("ist.local_steps_schedule", "consensus"),),
    "warm-up of 400 steps": (("warmup_steps", 400),),
    "cosine": (("schedule", "cosine"),),
    "500 neurons a subnet": (("head.hidden", (500, 500)), ("ist.widths", "subnet")),
    "He initialisation": (("head.initializer", "he_normal"),),
    "LeCun initialisation": (("head.initializer", "lecun_normal"),),
    "Glorot initialisation": (("head.initializer", "glorot_uniform"),),
    "torch initialisation": (("head.initializer", "torch_uniform"),),
    "standardised features": (("head.standardize", True),),
    "batch normalisation": (("head.normalization", "batch"),),
    "label smoothing 0.1": (("label_smoothing", 0.1),),
    "AdamW, decay 0.05": _DECAY,
}
# The centralised head, as it is and tuned.
CENTRAL = {
    "centralised": (_CENTRAL,),
    "centralised, cosine": (_CENTRAL, ("schedule", "cosine")),
    "centralised, dropout 0.5": (_CENTRAL, ("head.dropout", 0.5)),
    "centralised, AdamW 0.05": (_CENTRAL, *_DECAY),
    "centralised, cosine, dropout 0.5": (
        _CENTRAL,
        ("schedule", "cosine"),
        ("head.dropout", 0.5),
    ),
    "centralised, cosine, dropout 0.5, AdamW 0.05": (
        _CENTRAL,
        ("schedule", "cosine"),
        ("head.dropout", 0.5),
        *_DECAY,
    ),
}


def get_config() -> ConfigDict:
    """The settings."""
    config = study_config.paper_study("aid")
    config.variants = tuple((STEPS | CHANGES | CENTRAL).items())
    config.grids = {
        "1_remedies": (("variant", tuple(STEPS)), ("ist.num_subnets", (4, 16))),
        "2_settings": (("variant", tuple(CHANGES)),),
        "3_centralised": (("variant", tuple(CENTRAL)),),
    }
    return config
