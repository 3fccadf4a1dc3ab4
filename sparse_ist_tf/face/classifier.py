"""A classifier for notebooks: fit, predict, evaluate, save, export."""

import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from ml_collections import ConfigDict

from sparse_ist_tf.allowed import Value
from sparse_ist_tf.config import get_config, table, validate
from sparse_ist_tf.encoder.features import FeatureOptions, Features
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.face.heads import train_head
from sparse_ist_tf.face.history import history_of, show_into, told
from sparse_ist_tf.face.images import Classes, Given, as_split, held_out, read
from sparse_ist_tf.face.layers import Encoder
from sparse_ist_tf.face.model import MaskedClassifier
from sparse_ist_tf.face.runs import hold_encoder, train
from sparse_ist_tf.inputs.layouts.held import hold, release
from sparse_ist_tf.ist.head import build_model, parameters_of, probabilities
from sparse_ist_tf.keys import assign, check_types, no_such_key
from sparse_ist_tf.runs.finished_run import FinishedRun

# Keys that a classifier has arguments for, or can't keep in a .keras file.
_OF_COMMANDS = ("dataset.name", "encoder.", "transport.")


class IstClassifier:
    """Classifies images of which parts are hidden, by a head that IST trains on frozen features.

    It trains in this process, which gives the head that any number of workers would give.

    Args:
        encoder: what `encoder.weights` may be, an Encoder, or a Keras model as Encoder takes it;
            None to train on features.
        mask_ratio: hidden share of an image's patches, in [0, 1).
        kind: of masks, "fixed", "random" or "shared"; "shared" for a file that takes whole images.
        num_subnets: N.
        hidden: neurons of the hidden layers.
        seed: of masks, partitions, batches and initial weights.
        settings: any other keys of train's configuration, such as {"learning_rate": 3e-4}.

    Attributes:
        class_names: a text per class, once fitted.
        model: the whole as a Keras model from images to probabilities, once fitted.
        run: the FinishedRun, with everything that train leaves, in a folder that goes with this
            object; None where it was trained on features or loaded. si.train keeps one.

    Raises:
        RequestError: if an argument isn't allowed, or the encoder can't be loaded.

    Example:
        >>> import numpy as np
        >>> import sparse_ist_tf as si
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(200) % 2
        >>> features = rng.normal(labels[:, None], 1, (200, 8)).astype("float32")
        >>> head = si.IstClassifier(None, hidden=(16,))
        >>> history = head.fit(features, labels, epochs=5, verbose=0)
        >>> head.predict(features).shape
        (200, 2)
    """

    def __init__(
        self,
        encoder: "str | Encoder | keras.Model | None" = "packaged:vit_micro",
        *,
        mask_ratio: float = 0.5,
        kind: str = "fixed",
        num_subnets: int = 4,
        hidden: Iterable[int] = (1000, 1000),
        seed: int = 0,
        settings: Mapping[str, Value] | None = None,
    ):
        config = get_config()
        named: dict[str, Value] = {
            "masks.ratio": mask_ratio,
            "masks.kind": kind,
            "ist.num_subnets": num_subnets,
        }
        named |= {"head.hidden": tuple(hidden), "seed": seed, "centralized_baseline": False}
        for key in settings or {}:
            if key.startswith(_OF_COMMANDS) or key in named:
                raise RequestError(f"settings: has {key}, must be an argument, or use si.train")
        if {"total_steps", "total_examples"} & (settings or {}).keys():
            config.total_epochs = 0.0
        for key, value in {**named, **(settings or {})}.items():
            _assign(config, key, value)
        self.encoder: Encoder | None = None
        if isinstance(encoder, str):
            config.encoder.weights = encoder
        elif encoder is not None:
            self.encoder = encoder if isinstance(encoder, Encoder) else Encoder(encoder)
            config.encoder.weights = hold_encoder(self.encoder.loaded)
        elif kind != "fixed":
            raise RequestError(f"kind={kind!r}: is of images, must not be given for features")
        check_types(config, table())
        validate(config, 1)
        self.config, self._on_features = config, encoder is None
        self.class_names: tuple[str, ...] = ()
        self.model: MaskedClassifier | None = None
        self.run: FinishedRun | None = None
        self._kept: contextlib.ExitStack | None = None

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        epochs: float = 16,
        batch_size: int = 64,
        validation_data: Any = None,
        class_names: Iterable[str] | None = None,
        verbose: int = 1,
    ) -> keras.callbacks.History:
        """Trains anew.

        Args:
            x: images, or features where the encoder is None: an array, a list of images of any
                size, or a tf.data.Dataset of (image, label), which is read into memory.
            y: labels, whole numbers from 0 or texts; None for a tf.data.Dataset.
            epochs: passes of every subnet over the examples.
            batch_size: of a subnet.
            validation_data: what the merged head is tested with: (x, y) or a tf.data.Dataset;
                where None a fifth of every class, which isn't trained on.
            class_names: one per class; texts or numbers of the labels where None.
            verbose: 0 for silence.

        Returns:
            Keras' History: "loss", "accuracy" and "val_accuracy" of every tested round.

        Raises:
            RequestError: if the data or a setting isn't possible.
            RunError: if a loss is not finite, or a file can't be written.
        """
        config = ConfigDict(self.config.to_dict())
        _assign(config, "batch_size", batch_size)
        if config.total_epochs:
            config.total_epochs = float(epochs)
        validate(config, 1)
        given = self._labelled(x, y)
        classes = Classes.of(given.labels, class_names)
        parts = {"train": (given.inputs, classes.indices(given.labels))}
        if validation_data is None:
            parts = held_out(*parts["train"], classes.names, config.dataset.split_seed)
        else:
            pair = validation_data if isinstance(validation_data, tuple) else (validation_data,)
            test = self._labelled(*pair)
            parts["test"] = (test.inputs, classes.indices(test.labels))
        if self._on_features:
            return self._fit_features(config, parts, classes, verbose)
        return self._fit_images(config, parts, classes, verbose)

    def _read(self, x, y=None) -> Given:
        given = read(x, y)
        if given.are_features != self._on_features:
            wanted = "features, floats [n, d]" if self._on_features else "images"
            raise RequestError(f"x: must be {wanted} for this classifier's encoder")
        if self._on_features and self.model:
            given.check_width(self.model.head.input_shape[-1])
        return given

    def _labelled(self, x, y=None) -> Given:
        given = self._read(x, y)
        if given.labels is None:
            raise RequestError("y: must be given, or x be a tf.data.Dataset with labels")
        return given

    def _fit_features(self, config, parts, classes, verbose):
        records: list[dict] = []
        with told(verbose):
            state = train_head(
                config, parts["train"], parts["test"], len(classes.names), show_into(records)
            )
        self.class_names, self.run = classes.names, None
        head = build_model(state.folded())
        self.model = MaskedClassifier(None, None, head, list(classes.names))
        return history_of(records, config.batch_size, len(parts["train"][1]))

    def _fit_images(self, config, parts, classes, verbose):
        splits = {
            part: as_split(images, labels, classes.names, part)
            for part, (images, labels) in parts.items()
        }
        stack = contextlib.ExitStack()
        config.dataset.name = hold(splits)
        stack.callback(release, config.dataset.name)
        folder = Path(stack.enter_context(_Folder()))
        if config.encoder.weights.startswith(
            "held:"
        ):  # code that changes can't be told from its name
            config.features.cache_dir = str(folder / "features")
        with told(verbose):
            run = train(config, folder / "run")
        if self._kept:
            self._kept.close()
        self._kept, self.run, self.class_names = stack, run, classes.names
        self.encoder = self.encoder or Encoder.of(run.encoder)
        masks = run.images.masks
        names = ("seed", "pattern", "grid", "resize")
        options = {name: getattr(masks, name) for name in names}
        masking = self.encoder.visible_patches(masks.ratio, masks.kind, **options)
        head = build_model(run.parameters)
        self.model = MaskedClassifier(masking, self.encoder, head, list(classes.names))
        return history_of(run.directory.metrics(), config.batch_size, splits["train"].size)

    def features(self, x: Any, batch_size: int = 64) -> np.ndarray:
        """What the head takes of images, the fixed mask of image k being mask k.

        Args:
            x: images as fit takes them; features, which stay as they are.
            batch_size: images at a time.

        Returns:
            float32[n, feature_dim].

        Raises:
            RequestError: if it isn't fitted, or x isn't what it was fitted on.
        """
        self._fitted()
        given = self._read(x)
        if self._on_features:
            return np.asarray(given.inputs)
        options = FeatureOptions(batch_size=batch_size)
        features = Features(self.encoder.loaded, self.model.masking.masks, options=options)
        return features.encode(as_split(given.inputs), progress=False)

    def predict(self, x: Any, batch_size: int = 64) -> np.ndarray:
        """The probability of each class.

        Args:
            x: as features().
            batch_size: images at a time.

        Returns:
            float32[n, number of classes]; rows add up to 1.

        Raises:
            RequestError: as features().
        """
        return probabilities(parameters_of(self._fitted().head), self.features(x, batch_size))

    def evaluate(self, x: Any, y: Any = None, batch_size: int = 64) -> dict[str, float]:
        """Accuracy and loss.

        Args:
            x: as fit.
            y: as fit.
            batch_size: images at a time.

        Returns:
            {"accuracy": in [0, 1], "loss": mean cross-entropy in nats}.

        Raises:
            RequestError: as features(), or if labels are missing or of no class.
        """
        self._fitted()
        given = self._labelled(x, y)
        labels = Classes(self.class_names).indices(given.labels)
        found = self.predict(given.inputs, batch_size)
        chosen = found[np.arange(len(labels)), labels]
        return {
            "accuracy": float(np.mean(found.argmax(axis=1) == labels)),
            "loss": float(-np.log(np.maximum(chosen, 1e-12)).mean()),
        }

    def save(self, path: str | Path) -> None:
        """Writes the model, encoder included, as a .keras file, which load() reads.

        Raises:
            RequestError: if it isn't fitted, or the path ends otherwise.
        """
        if not str(path).endswith(".keras"):
            raise RequestError(f"{path}: must end in .keras")
        self._fitted().save(path)

    def export(self, folder: str | Path, target: str = "phone", **options: Any) -> list[Path]:
        """Writes .tflite files for a kind of device, each proven on the validation images.

        Args:
            folder: where they go.
            target: "phone", "coral", "micro", or what has been added.
            **options: as export.plan.Options: artefacts, subnets, quantize, bound and so on.

        Returns:
            The files.

        Raises:
            RequestError: if it has no run, or something asked for can't be made.
            RunError: if a file misses its bound, or can't be written.
        """
        if self.run is None:
            raise RequestError("export: needs the run of a classifier that was fitted on images")
        from sparse_ist_tf.export.devices.targets import find_target
        from sparse_ist_tf.export.pipeline import Exporter
        from sparse_ist_tf.export.plan import Options

        run = FinishedRun.for_export(self.run.path)
        exporter = Exporter(run, find_target(target), Options(**options), Path(folder))
        if not exporter.export():
            raise RunError(f"{folder}: not every file is as good as it must be; see above")
        return sorted(Path(folder).rglob("*.tflite"))

    def _fitted(self) -> MaskedClassifier:
        if self.model is None:
            raise RequestError("the classifier isn't fitted: fit comes first")
        return self.model


def load(path: str | Path) -> IstClassifier:
    """Reads what IstClassifier.save wrote.

    Returns:
        A classifier that predicts and evaluates, and has no run. Fitted anew it has the file's
        encoder and masks, and a head of the default widths and subnets.

    Raises:
        RequestError: if the file isn't there or holds something else.
    """
    if not Path(path).is_file():
        raise RequestError(f"{path}: there is no such file")
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras' readers raise whatever a damaged archive makes them
        text = " ".join(str(error).split())[:200]
        raise RequestError(f"{path}: can't be read as a .keras file ({text})") from None
    if not isinstance(model, MaskedClassifier):
        raise RequestError(f"{path}: holds a {type(model).__name__}, must be of IstClassifier.save")
    if model.encoder is None:
        classifier = IstClassifier(None)
    else:
        masks = model.masking
        classifier = IstClassifier(
            model.encoder, mask_ratio=masks.mask_ratio, kind=masks.kind, seed=masks.seed
        )
        settings = {"masks.grid": masks.grid, "masks.pattern": masks.pattern}
        settings["dataset.resize"] = masks.resize
        for key, value in settings.items():
            _assign(classifier.config, key, value)
    classifier.model, classifier.class_names = model, model.class_names
    return classifier


class _Folder(tempfile.TemporaryDirectory):
    """A folder that is gone with the program, at the latest."""

    def __init__(self):
        super().__init__(prefix="sparse_ist_tf-", ignore_cleanup_errors=True)


def _assign(config: ConfigDict, key: str, value: Value) -> None:
    try:
        assign(config, key, value)
    except (KeyError, AttributeError, TypeError):
        names = [known.name for known in table()]
        raise RequestError(f"{key}: {no_such_key(key, names)}") from None
