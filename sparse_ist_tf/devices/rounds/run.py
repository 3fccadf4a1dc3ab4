"""A run whose subnets are trained by devices: as train's, but that no training image is here."""

from collections.abc import Callable

from ml_collections import ConfigDict

from sparse_ist_tf.config import hidden_widths, ist_options
from sparse_ist_tf.devices.rounds.crew import Crew
from sparse_ist_tf.devices.rounds.trainer import AskedToStopError, DeviceTrainer, Patience
from sparse_ist_tf.devices.wire.records import Joined
from sparse_ist_tf.encoder.bundle import vit_encoder
from sparse_ist_tf.encoder.frozen import FrozenEncoder
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.folding import fold
from sparse_ist_tf.export.graphs.forms import Network
from sparse_ist_tf.export.training.files import make_trainable
from sparse_ist_tf.export.training.recipe import Recipe
from sparse_ist_tf.inputs.split import Split
from sparse_ist_tf.keys import lookup
from sparse_ist_tf.masks import num_visible
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.runs.evaluation import Evaluation
from sparse_ist_tf.runs.parts import head_spec, mask_options, optimizer_config, trainer_options
from sparse_ist_tf.runs.rounds_log import RoundsLog
from sparse_ist_tf.runs.training import Run
from sparse_ist_tf.workers.link import Link
from sparse_ist_tf.workers.stopping import Stop

JOURNAL = "devices.json"
# What devices can do: they come and go, and encode their images once.
_NEEDED = {
    "ist.algorithm": ("ist",),
    "masks.kind": ("fixed", "shared"),
    "masks.views": (1,),
    "dataset.resize": ("antialias", "bilinear", "area"),
    "transport.codec": ("none",),
    "transport.features": ("float32",),
    "encoder.trainable_blocks": (0,),
    "head.standardize": (False,),
    "head.normalization": ("none",),
    "head.dropout": (0.0,),
}
_NEEDED_OF_IST = {"moments": ("carry", "reset"), "biases": ("carry",), "keep_last_step": (True,)}


def check_config(config: ConfigDict) -> None:
    """Makes sure that devices can do what a configuration asks for.

    Args:
        config: valid.

    Raises:
        RequestError: naming the key.
    """
    ist = ist_options(config)
    found = [(name, lookup(config, name), allowed) for name, allowed in _NEEDED.items()]
    found += [(f"ist.{name}", ist[name], allowed) for name, allowed in _NEEDED_OF_IST.items()]
    for name, value, allowed in found:
        if value not in allowed:
            told = " or ".join(map(repr, allowed))
            raise RequestError(f"{name}={value!r}: must be {told} where devices train")
    optimizer_config(config)
    widths, count = hidden_widths(config), config.ist.num_subnets
    recipe_of(config, 1, 2)(tuple(w // count for w in widths), (1.0,) * len(widths))


def recipe_of(
    config: ConfigDict, feature_dim: int, num_classes: int
) -> Callable[[tuple[int, ...], tuple[float, ...]], Recipe]:
    """What a subnet's training file is made of, by its hidden sizes and scales."""

    def make(hidden, scales):
        return Recipe(
            feature_dim=feature_dim,
            hidden=hidden,
            num_classes=num_classes,
            scales=scales,
            optimizer=optimizer_config(config),
            label_smoothing=float(config.label_smoothing),
            batch_size=int(config.batch_size),
        )

    return make


def invitation(config: ConfigDict, encoder: FrozenEncoder, train: Split) -> Joined:
    """What a device is told when it comes.

    Args:
        config: of the run.
        encoder: its.
        train: for the classes' names.

    Raises:
        RequestError: if the encoder isn't a ViT.
    """
    vit, masks = vit_encoder(encoder, "devices"), mask_options(config)
    visible = tuple(range(num_visible(encoder.num_patches, masks.ratio)))
    network = Network("encoder", (), fold(vit.model, vit.mean, vit.std), visible)
    told = {"kind": masks.kind, "ratio": masks.ratio, "pattern": masks.pattern, "seed": masks.seed}
    told |= {"grid": masks.grid, "resize": masks.resize}
    return Joined(
        class_names=tuple(train.class_names),
        masks=told,
        image_size=int(encoder.image_size),
        patch_size=int(encoder.patch_size),
        encoder=convert(network, "float32"),
        batch_size=int(config.batch_size),
    )


class DeviceRun(Run):
    """A run of which devices do the training.

    Args:
        config: valid.
        directory: of the run.
        crew: the devices; None where nothing is left to train.
        patience: with them.
    """

    def __init__(self, config: ConfigDict, directory: RunDirectory, crew: Crew, patience: Patience):
        self.crew, self.patience = crew, patience
        super().__init__(config, directory, Link.alone())

    def _make_trainers(self) -> None:
        config, train = self.config, self.splits["train"]
        spec = head_spec(config, self.encoder.feature_dim, train.num_classes)
        self.evaluation = Evaluation(config, spec, self.encoder, self.splits["test"])
        self.views = self.baseline = None
        recipe = recipe_of(config, spec.feature_dim, spec.num_classes)

        def make_file(hidden, scales):
            return make_trainable(recipe(hidden, scales))

        options = trainer_options(config, self.steps)
        self.trainer = DeviceTrainer(spec, options, self.link, self.crew, self.patience, make_file)
        self.trainer.scratch = self.directory.path

    def train(self, stop: Stop, log: RoundsLog | None = None) -> None:
        """As Run.train; a signal ends it too while a round waits for devices."""
        try:
            super().train(stop, log)
        except AskedToStopError:
            if self.trainer.step:
                self._save(*self._gather())
            stop.end(stop.number, f" before round {self.trainer.round} was closed")
