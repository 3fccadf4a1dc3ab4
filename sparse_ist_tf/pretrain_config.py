"""The configuration of pretrain: its keys, and what they may hold."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from sparse_ist_tf.allowed import Number, Numbers
from sparse_ist_tf.config import RATIO
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.keys import (
    Key,
    When,
    check,
    check_optimizer,
    choice,
    defaults,
    updated,
)

RATIOS = Numbers("numbers in [0, 1)", RATIO)
SHARE = Number(0, 1)
COLOR = Numbers("three numbers", counts=(3,))
# Options of each optimizer that an update honours here: nothing reads the averages of use_ema, and
# nothing scales the loss.
_EVERY = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps")
OPTIMIZERS = {
    "muon": (
        *("adam_beta_1", "adam_beta_2", "adam_weight_decay", "epsilon", "exclude_layers"),
        *("exclude_embeddings", "muon_a", "muon_b", "muon_c", "adam_lr_ratio", "momentum"),
        *("ns_steps", "nesterov", "rms_rate", *_EVERY),
    ),
    "adamw": ("beta_1", "beta_2", "epsilon", "amsgrad", *_EVERY),
}


# fmt: off
def table() -> list[Key]:
    """Pretrain's keys in their order in --help."""
    decoder, probe = (When("objective", ("mae",)),), (When("probe.every"),)
    classifier = (When("objective", ("supervised",)),)
    positive, share = Number(0, above=True), Numbers("numbers in [0, 1]", SHARE)
    sides = Numbers("whole numbers of at least 1", Number(1), whole=True)
    muon = {"weight_decay": 0.05, "adam_weight_decay": 0.0, "adam_beta_2": 0.99}
    return [
        Key("seed", 0, Number(0), "of weights, batches, masks and what changes in images"),
        Key("dataset.name", "folder:tiny-imagenet", None, "the images, as dataset.name of train"),
        Key("dataset.data_dir", "", None, "as dataset.data_dir of train"),
        Key("dataset.split_seed", 0, Number(0), "of the split where the data has none"),
        choice("dataset.on_bad_image", ("error", "skip"), "what a bad image does"),
        Key("dataset.cache_dir", "", None, "decoded images; else ~/.cache/sparse_ist_tf/images"),
        Key("preset", "vit_micro", None, "the encoder's architecture"),
        Key("weights", "", None, "what it starts from, as encoder.weights of train; else drawn"),
        Key("start_share", 0.0, SHARE, "of these in what is written", (When("weights"),)),
        choice("dtype", ("bfloat16", "float32"), "in which it computes"),
        Key("mean", (0.5, 0.5, 0.5), COLOR, "of red, green and blue, of pixels in [0, 1]"),
        Key("std", (0.5, 0.5, 0.5), COLOR, "likewise"),
        choice("objective", ("supervised", "mae"), "classes, or the pixels that are hidden"),
        Key("label_smoothing", 0.1, SHARE, "share of the truth that all classes get", classifier),
        Key("distillation", 0.0, SHARE, "share that a view learns from a whole one", classifier),
        Key("teacher", "", None, "run directory of a pre-trained classifier to learn from",
            (*classifier, When("distillation"))),
        Key("projector", 0, Number(0), "hidden units of a perceptron that is dropped", classifier),
        Key("decoder.width", 96, Number(1), "of the masked autoencoder", decoder),
        Key("decoder.depth", 2, Number(1), "its blocks", decoder),
        Key("decoder.num_heads", 3, Number(1), "its attention heads", decoder),
        # Most steps hide much, which is cheap; some show all, so that whole images stay familiar.
        Key("mask_ratios", (0.75, 0.5, 0.0), RATIOS, "hidden shares of the patches, one a step"),
        Key("mask_probabilities", (0.5, 0.4, 0.1), share, "share of the steps that have each"),
        choice("masks.grid", ("sensor", "scaled"),
               "pixels that patches are cut from: as recorded, or once all are enlarged"),
        Key("masks.scaled_share", 0.0, SHARE, "share of the steps that scale all at first even so",
            (When("masks.grid", ("sensor",)),)),
        Key("sensor_sizes", (), sides, "sides in pixels of what a sensor records, one a step; the "
            "preset's where empty"),
        Key("sensor_probabilities", (), share, "share of the steps that have each"),
        Key("image_sizes", (), sides, "sides in pixels, one a step; the preset's where empty"),
        Key("size_probabilities", (), share, "share of the steps that have each"),
        Key("augment", ("flip", "crop"), None,
            "and color, three_augment, mixup, cutmix; rand_augment, but not under JAX"),
        Key("crop_area", 0.35, Number(0, 1, above=True),
            "share of an image that a crop has at least", (When("augment", ("crop",)),)),
        Key("mix_probability", 0.5, SHARE, "share of the images that are mixed",
            (When("augment", ("mixup", "cutmix")),)),
        choice("optimizer.name", tuple(OPTIMIZERS), "of all weights"),
        Key("optimizer.kwargs", muon, None, "its options"),
        Key("learning_rate", 2e-3, positive, "after the warm-up"),
        Key("scale_learning_rate", False, None, "it is for 256 images: times batch_size / 256"),
        choice("schedule", ("trapezoid", "cosine"), "of the learning rate"),
        Key("decay", 0.28, SHARE, "last share of the steps", (When("schedule", ("trapezoid",)),)),
        Key("warmup_steps", 200, Number(0), "over which the learning rate rises"),
        Key("batch_size", 256, Number(1), "of all workers together"),
        Key("total_steps", 5000, Number(1), "how long it trains"),
        Key("eval_mask_ratios", (0.0, 0.5, 0.75), RATIOS, "at which it is tested"),
        Key("eval_images", 2000, Number(1), "of a test on the way; the last one has all"),
        Key("probe.every", 0, Number(0), "steps between measurements of linear accuracy; 0: none"),
        Key("probe.images", 10000, Number(1), "that the classifier learns from", probe),
        Key("probe.mask_ratios", (0.0,), RATIOS, "at which it is measured", probe),
        Key("log_every", 20, Number(1), "steps between records"),
        Key("eval_every", 400, Number(1), "steps between tests"),
        Key("checkpoint_every", 200, Number(1), "steps between checkpoints"),
        Key("cluster.peer_timeout_s", 60.0, positive, "that a silent peer is waited for"),
    ]
# fmt: on


def get_config() -> ConfigDict:
    """The default: vit_micro, supervised, for a few processor cores.

    The packaged weights are of configs/pretrain_vit_micro.py, configs/pretrain_vit_micro_sizes.py
    and configs/pretrain_vit_pico.py.
    """
    return defaults(table())


def accelerator_config() -> ConfigDict:
    """What the trainings of both packaged encoders have in common: long, on one accelerator."""
    config = get_config()
    config.seed = 3
    config.masks.grid = "scaled"
    config.mask_ratios, config.mask_probabilities = (0.5, 0.75), (0.7, 0.3)
    config.augment = ("flip", "crop", "color", "three_augment", "mixup", "cutmix")
    config.crop_area = 0.25
    config.mix_probability = 0.8
    config.batch_size = 1024
    config.learning_rate = 3e-3
    config.warmup_steps = 400
    config.decay = 0.8
    config.log_every, config.eval_every, config.checkpoint_every = 100, 1000, 1000
    return config


def completed(config: Mapping) -> ConfigDict:
    """A stored configuration as one of today: keys that came later have their defaults.

    But for masks.grid: images were scaled first when it was no key.
    """
    found = get_config()
    found.masks.grid = "scaled"
    return updated(found, config)


def validate(config: ConfigDict, num_workers: int = 1) -> None:
    """Checks a configuration of pre-training, but for its preset and data, before any work is done.

    Raises:
        RequestError: naming the key, its value and what is allowed.
    """
    check(config, table())
    check_optimizer(config, OPTIMIZERS)
    odds = config.mask_probabilities
    if not _are_shares(odds, len(config.mask_ratios)):
        raise RequestError(
            f"mask_probabilities={tuple(odds)}: must be one share per mask_ratios, adding up to 1"
        )
    _check_sizes(config, "image_sizes", "size_probabilities")
    _check_sizes(config, "sensor_sizes", "sensor_probabilities")
    if config.image_sizes and config.objective == "mae":
        raise RequestError(
            f"image_sizes={tuple(config.image_sizes)}: must be empty with objective='mae'"
        )
    if config.objective == "mae" and 0 in config.mask_ratios:
        raise RequestError("mask_ratios has 0: must be above 0 for objective='mae'")
    decoder = config.decoder
    if decoder.width % 4 or decoder.width % decoder.num_heads:
        raise RequestError(
            f"decoder.width={decoder.width}: must be a multiple of 4 and of decoder.num_heads="
            f"{decoder.num_heads}"
        )
    if num_workers < 1:
        raise RequestError(f"num_workers={num_workers}: must be at least 1")
    if config.batch_size % num_workers:
        raise RequestError(
            f"batch_size={config.batch_size}: must be a multiple of num_workers={num_workers}"
        )
    mixes = {"mixup", "cutmix"}.intersection(config.augment)
    if mixes and config.batch_size % (2 * num_workers):
        raise RequestError(
            f"batch_size={config.batch_size}: must be a multiple of {2 * num_workers}, twice "
            f"num_workers, since images are mixed in pairs ({', '.join(sorted(mixes))})"
        )


def _check_sizes(config, key, shares):
    sizes, odds = tuple(config[key]), tuple(config[shares])
    differ = len(set(sizes)) == len(sizes)
    if (sizes or odds) and not (differ and _are_shares(odds, len(sizes))):
        raise RequestError(
            f"{shares}={odds}: must be one share per {key}={sizes}, which differ, adding up to 1"
        )


def _are_shares(odds: Sequence[float], count: int) -> bool:
    return 0 < len(odds) == count and min(odds) >= 0 and abs(sum(odds) - 1) <= 1e-6
