"""Pre-training an encoder on images whose patches are dropped at random.

Two objectives: supervised classification, and the masked autoencoder that fills in what is hidden.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from safetensors.numpy import load_file, save_file

from sparse_ist_tf.encoder.bundle import architecture
from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.encoder.vit import Block, LayerNorm, sincos_positions
from sparse_ist_tf.encoder.weights import load_encoder
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.inputs.masks import num_visible, select_patches


@dataclasses.dataclass(frozen=True)
class Images:
    """The two parts of a data set, decoded.

    Args:
        train: uint8[n, size, size, 3], in memory or mapped from a file.
        train_labels: int32[n].
        test: uint8[m, size, size, 3].
        test_labels: int32[m].
        num_classes: labels lie in [0, num_classes).

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.encoder.pretraining import Images
        >>> x, y = np.zeros((4, 64, 64, 3), "uint8"), np.zeros(4, "int32")
        >>> Images(x, y, x, y, num_classes=10).train.shape
        (4, 64, 64, 3)
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    num_classes: int


class Classifier(keras.Model):
    """An encoder with a linear classifier on its feature: the supervised objective.

    Args:
        encoder: a ViT.
        num_classes: outputs of the classifier.
        label_smoothing: in [0, 1).
        distillation: in [0, 1]. Above 0, every step also shows the whole image; the masked view
            learns this part of its loss from the whole view's output, held fixed.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.encoder.presets import create_encoder
        >>> from sparse_ist_tf.encoder.pretraining import Classifier
        >>> model = Classifier(create_encoder("vit_pico"), num_classes=10)
        >>> places = np.tile(np.arange(32), (2, 1))
        >>> model({"patches": np.zeros((2, 32, 192), "float32"), "positions": places}).shape
        TensorShape([2, 10])
    """

    metric = "accuracy"

    def __init__(self, encoder, num_classes, label_smoothing=0.0, distillation=0.0):
        super().__init__()
        self.encoder = encoder
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.distillation = distillation
        self.classifier = keras.layers.Dense(num_classes, dtype="float32", name="classifier")
        self.classifier.build((None, encoder.width))
        self.built = True

    def call(self, inputs):
        return self.classifier(ops.cast(self.encoder(inputs), "float32"))

    def loss_of(self, patches, positions, labels, whole):
        """Mean loss of a batch, and the share of images that the masked view gets right.

        Args:
            patches: float32[b, v, 3 * patch_size**2], the visible ones.
            positions: int32[b, v].
            labels: int32[b].
            whole: float32[b, num_patches, 3 * patch_size**2], every patch.

        Returns:
            (loss, accuracy), float32 scalars.
        """
        logits = self({"patches": patches, "positions": positions})
        right = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels)
        accuracy = ops.mean(ops.cast(right, "float32"))
        truth = ops.one_hot(labels, self.num_classes)
        truth = truth * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        loss = self._cross_entropy(truth, logits)
        if self.distillation:
            every = ops.broadcast_to(ops.arange(ops.shape(whole)[1]), ops.shape(whole)[:2])
            teacher = self({"patches": whole, "positions": every})
            soft = self._cross_entropy(ops.stop_gradient(ops.softmax(teacher)), logits)
            loss = (1 - self.distillation) * loss + self.distillation * soft
            loss = 0.5 * (loss + self._cross_entropy(truth, teacher))
        return loss, accuracy

    def _cross_entropy(self, truth, logits):
        return -ops.mean(ops.sum(truth * ops.log_softmax(logits), axis=-1))


class MaskedAutoencoder(keras.Model):
    """An encoder with a light decoder that fills in the hidden patches.

    Mask tokens take the hidden places, the decoder sees all tokens, and the loss is the mean
    squared error on hidden patches, each normalised by its own mean and deviation.

    Source: "Masked Autoencoders Are Scalable Vision Learners" (He et al., 2022), section 3.

    Args:
        encoder: a ViT.
        width: channels of the decoder.
        depth: blocks of the decoder.
        num_heads: attention heads of the decoder.

    Example:
        >>> from sparse_ist_tf.encoder.presets import create_encoder
        >>> from sparse_ist_tf.encoder.pretraining import MaskedAutoencoder
        >>> model = MaskedAutoencoder(create_encoder("vit_pico"), width=64, depth=1, num_heads=2)
    """

    metric = "loss"

    def __init__(self, encoder, width, depth, num_heads):
        super().__init__()
        self.encoder, self.width = encoder, width
        grid = encoder.image_size // encoder.patch_size
        pixels = 3 * encoder.patch_size**2
        init = keras.initializers.TruncatedNormal(stddev=0.02)
        self.table = sincos_positions(grid, width)
        self.embed = keras.layers.Dense(width, name="decoder_embed")
        self.embed.build((None, None, encoder.width))
        self.mask_token = self.add_weight(name="mask_token", shape=(1, 1, width), initializer=init)
        self.blocks = [
            Block(num_heads, 4 * width, encoder.activation, name=f"decoder_block_{i}")
            for i in range(depth)
        ]
        for block in self.blocks:
            block.build((None, None, width))
        self.norm = LayerNorm(name="decoder_norm")
        self.norm.build((None, None, width))
        self.predict_pixels = keras.layers.Dense(pixels, dtype="float32", name="decoder_pixels")
        self.predict_pixels.build((None, None, width))
        self.built = True

    def call(self, inputs):
        """Predicted normalised pixels of every patch: float32[b, num_patches, pixels]."""
        tokens = self.embed(self.encoder.tokens(inputs))
        seen = ops.one_hot(inputs["positions"], self.encoder.num_patches, dtype=tokens.dtype)
        seen = ops.transpose(seen, (0, 2, 1))  # [b, num_patches, v], one 1 in a visible row
        hidden = 1 - ops.sum(seen, axis=-1, keepdims=True)
        x = ops.matmul(seen, tokens[:, 1:]) + hidden * ops.cast(self.mask_token, tokens.dtype)
        x = x + ops.cast(self.table, x.dtype)
        x = ops.concatenate([tokens[:, :1], x], axis=1)
        for block in self.blocks:
            x = block(x)
        return self.predict_pixels(ops.cast(self.norm(x), "float32"))[:, 1:]

    def loss_of(self, patches, positions, labels, whole):
        """Mean squared error on the hidden patches; arguments as in Classifier.loss_of."""
        del labels
        predicted = self({"patches": patches, "positions": positions})
        mean = ops.mean(whole, axis=-1, keepdims=True)
        target = (whole - mean) / ops.sqrt(ops.var(whole, axis=-1, keepdims=True) + 1e-6)
        error = ops.mean(ops.square(predicted - target), axis=-1)
        visible = ops.sum(ops.one_hot(positions, self.encoder.num_patches), axis=1)
        hidden = 1 - visible
        loss = ops.sum(error * hidden) / ops.maximum(ops.sum(hidden), 1)
        return loss, loss


class Muon(keras.optimizers.Muon):
    """Keras' Muon with the Newton-Schulz iteration in bfloat16, as its authors run it.

    A CPU takes 0.6 times as long for an update of vit_micro (86 to 53 ms in one run).

    Example:
        >>> from sparse_ist_tf.encoder.pretraining import Muon
        >>> optimizer = Muon(learning_rate=1e-3)
    """

    def zeropower_via_newtonschulz5(self, x, steps):
        low = super().zeropower_via_newtonschulz5(ops.cast(x, "bfloat16"), steps)
        return ops.cast(low, x.dtype)


def learning_rate_at(step: int, config) -> float:
    """The learning rate of a step: a linear warm-up, then `config.schedule`.

    Args:
        step: counted from 0.
        config: learning_rate, warmup_steps, total_steps, schedule ("cosine", or "trapezoid":
            constant, then linear to zero over the last `decay` share of the steps), decay.

    Returns:
        The rate, at least 0.

    Example:
        >>> from types import SimpleNamespace as Config
        >>> from sparse_ist_tf.encoder.pretraining import learning_rate_at
        >>> learning_rate_at(50, Config(learning_rate=1.0, warmup_steps=0, total_steps=100,
        ...                             schedule="cosine", decay=0.0))
        0.5
    """
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        span = max(1, config.total_steps - config.warmup_steps)
        done = min(1.0, max(0, step - config.warmup_steps) / span)
        shape = 0.5 * (1 + math.cos(math.pi * done))
    else:
        left = (config.total_steps - step) / max(1.0, config.decay * config.total_steps)
        shape = min(1.0, max(0.0, left))
    return config.learning_rate * warmup * shape


class Pretraining:
    """A resumable pre-training run.

    Batches, masks and rates are functions of (seed, step); augmentation is drawn anew on resuming.

    Args:
        config: as sparse_ist_tf.pretrain_config makes it.
        images: the data.
        workdir: the run directory; checkpoint.safetensors, metrics.jsonl and encoder.safetensors.

    Raises:
        RequestError: if the run directory holds another run's checkpoint, or config.weights are
            not those of config.preset.

    Example:
        See configs/pretrain_vit_micro.py, and `python -m sparse_ist_tf.pretrain --help`.
    """

    def __init__(self, config, images: Images, workdir: str | Path):
        self.config, self.images, self.workdir = config, images, Path(workdir)
        keras.utils.set_random_seed(config.seed)
        policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[config.dtype]
        self.encoder = create_encoder(config.preset, dtype=policy)
        if config.weights:
            self._start_from(config.weights)
        self.model = self._make_model()
        self.optimizer = self._make_optimizer()
        self.optimizer.build(self.model.trainable_variables)
        self.augment = make_augmentation(config.augment, self.encoder.image_size)
        self.step = 0
        self._train_step = tf.function(self._train_step_eager, reduce_retracing=False)
        self._eval_step = tf.function(self._eval_step_eager, reduce_retracing=False)
        self.workdir.mkdir(parents=True, exist_ok=True)
        if self.checkpoint_path.exists():
            self._restore()

    @property
    def checkpoint_path(self) -> Path:
        """Where the run's state is kept."""
        return self.workdir / "checkpoint.safetensors"

    def _start_from(self, weights):
        given = load_encoder(weights).model
        wanted, found = architecture(self.encoder), architecture(given)
        unlike = [key for key in wanted if wanted[key] != found.get(key)]
        if unlike:
            raise RequestError(
                f"weights={weights!r}: not those of a {self.config.preset}: "
                + ", ".join(f"{key} is {found.get(key)}, not {wanted[key]}" for key in unlike)
            )
        for mine, theirs in zip(self.encoder.weights, given.weights, strict=True):
            mine.assign(theirs)

    def _make_model(self):
        config = self.config
        if config.objective == "supervised":
            return Classifier(
                self.encoder,
                self.images.num_classes,
                label_smoothing=config.label_smoothing,
                distillation=config.distillation,
            )
        return MaskedAutoencoder(self.encoder, **config.decoder)

    def _make_optimizer(self):
        config = self.config
        kwargs = dict(config.optimizer.kwargs)
        if config.optimizer.name == "muon":
            kwargs.setdefault("exclude_layers", ["embed", "classifier", "decoder_pixels"])
        names = {"adamw": keras.optimizers.AdamW, "muon": Muon}
        optimizer = names[config.optimizer.name](learning_rate=config.learning_rate, **kwargs)
        if config.optimizer.name == "adamw":
            optimizer.exclude_from_weight_decay(var_names=["bias", "scale", "offset", "token"])
        return optimizer

    def _views(self, images, positions):
        """Visible and all patches of images in [0, 255], normalised."""
        mean, std = tf.constant(self.config.mean), tf.constant(self.config.std)
        images = (tf.cast(images, tf.float32) / 255.0 - mean) / std
        every = tf.tile(tf.range(self.encoder.num_patches)[None], (tf.shape(images)[0], 1))
        whole = select_patches(images, every, self.encoder.patch_size)
        return tf.gather(whole, positions, batch_dims=1), whole

    def _train_step_eager(self, images, labels, positions):
        patches, whole = self._views(images, positions)
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss, metric = self.model.loss_of(patches, positions, labels, whole)
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss, metric

    def _eval_step_eager(self, images, labels, positions):
        patches, whole = self._views(images, positions)
        _, metric = self.model.loss_of(patches, positions, labels, whole)
        return metric

    def _batches(self):
        """(images, labels, positions) from the current step on, for ever."""
        config, images = self.config, self.images
        size, count = config.batch_size, len(images.train_labels)

        def generate():
            step, epoch, order = self.step, -1, None
            while True:
                rng = np.random.default_rng((config.seed, 1, step))
                picks = np.arange(step * size, (step + 1) * size)
                rows = np.empty(size, np.int64)
                for e in np.unique(picks // count):
                    if e != epoch:
                        order = np.random.default_rng((config.seed, 0, e)).permutation(count)
                        epoch = e
                    rows[picks // count == e] = order[picks[picks // count == e] % count]
                ratio = rng.choice(config.mask_ratios, p=config.mask_probabilities)
                places = draw_positions(rng, size, self.encoder.num_patches, float(ratio))
                rows = np.sort(rows)
                yield images.train[rows], images.train_labels[rows], places
                step += 1

        side, channels = self.encoder.image_size, 3
        signature = (
            tf.TensorSpec((size, side, side, channels), tf.uint8),
            tf.TensorSpec((size,), tf.int32),
            tf.TensorSpec((size, None), tf.int32),
        )
        data = tf.data.Dataset.from_generator(generate, output_signature=signature)
        data = data.map(lambda x, y, p: (self.augment(x), y, p), num_parallel_calls=1)
        return data.prefetch(4)

    def train(self, report: Callable[[dict], None] = print) -> dict:
        """Runs to config.total_steps, with evaluations and checkpoints on the way.

        Args:
            report: called with every evaluation's record.

        Returns:
            The last record.

        Raises:
            RunError: if the loss is not finite.
        """
        config, record = self.config, {}
        losses, started, first = [], time.perf_counter(), self.step
        for images, labels, positions in self._batches():
            if self.step >= config.total_steps:
                break
            self.optimizer.learning_rate.assign(learning_rate_at(self.step, config))
            loss, metric = self._train_step(images, labels, positions)
            losses.append((loss, metric))
            self.step += 1
            if self.step % config.log_every == 0:
                record = self._record(losses, started, first)
                losses = []
                if self.step % config.eval_every == 0 or self.step == config.total_steps:
                    record |= self.evaluate(config.eval_images)
                self._log(record, report)
                started, first = time.perf_counter(), self.step
            if self.step % config.checkpoint_every == 0:
                self.save()
        record = {"step": self.step} | self.evaluate(len(self.images.test_labels))
        self._log(record, report)
        self.save()
        return record

    def _record(self, losses, started, first):
        loss, metric = np.mean([[float(a), float(b)] for a, b in losses], axis=0)
        if not math.isfinite(loss):
            raise RunError(f"step {self.step}: the loss is {loss}; lower config.learning_rate")
        rate = (self.step - first) * self.config.batch_size / (time.perf_counter() - started)
        return {
            "step": self.step,
            "loss": round(float(loss), 4),
            f"train_{self.model.metric}": round(float(metric), 4),
            "learning_rate": learning_rate_at(self.step - 1, self.config),
            "images_per_s": round(rate),
        }

    def evaluate(self, limit: int) -> dict[str, float]:
        """The metric on the first `limit` test images at each of config.eval_mask_ratios.

        Args:
            limit: how many test images, spread evenly over the test part.

        Returns:
            {"test_accuracy@0.5": ...}, or test_loss for the masked autoencoder.
        """
        labels, size = self.images.test_labels, self.config.batch_size
        chosen = np.linspace(0, len(labels) - 1, min(limit, len(labels))).astype(np.int64)
        out = {}
        for ratio in self.config.eval_mask_ratios:
            rng = np.random.default_rng((self.config.seed, 2))
            total = 0.0
            for start in range(0, len(chosen), size):
                rows = chosen[start : start + size]
                places = draw_positions(rng, len(rows), self.encoder.num_patches, ratio)
                metric = self._eval_step(self.images.test[rows], labels[rows], places)
                total += float(metric) * len(rows)
            out[f"test_{self.model.metric}@{ratio}"] = round(total / len(chosen), 4)
        return out

    def _log(self, record, report):
        with open(self.workdir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        report(record)

    def save(self) -> None:
        """Writes checkpoint.safetensors, atomically."""
        arrays = {f"model/{i}": np.asarray(v) for i, v in enumerate(self.model.variables)}
        arrays |= {f"optimizer/{i}": np.asarray(v) for i, v in enumerate(self.optimizer.variables)}
        temporary = self.checkpoint_path.with_suffix(".tmp")
        save_file(
            arrays, temporary, metadata={"step": str(self.step), "preset": self.config.preset}
        )
        temporary.replace(self.checkpoint_path)

    def _restore(self):
        from safetensors import safe_open

        with safe_open(self.checkpoint_path, "np") as file:
            metadata = file.metadata()
        arrays = load_file(self.checkpoint_path)
        for name, variables in (
            ("model", self.model.variables),
            ("optimizer", self.optimizer.variables),
        ):
            for i, variable in enumerate(variables):
                value = arrays.get(f"{name}/{i}")
                if value is None or value.shape != tuple(variable.shape):
                    raise RequestError(
                        f"{self.checkpoint_path}: made by another configuration "
                        f"({metadata.get('preset')}); give --workdir another folder"
                    )
                variable.assign(value)
        self.step = int(metadata["step"])


def draw_positions(rng: np.random.Generator, count: int, num_patches: int, mask_ratio: float):
    """Visible places of `count` images, drawn uniformly without replacement.

    Args:
        rng: the source of chance.
        count: images.
        num_patches: patches of an image.
        mask_ratio: in [0, 1).

    Returns:
        int32[count, num_visible], ascending in a row.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.encoder.pretraining import draw_positions
        >>> draw_positions(np.random.default_rng(0), 2, 64, 0.75).shape
        (2, 16)
    """
    visible = num_visible(num_patches, mask_ratio)
    return np.sort(rng.random((count, num_patches)).argsort(axis=1)[:, :visible]).astype(np.int32)


def make_augmentation(names: tuple[str, ...], image_size: int) -> Callable:
    """A function over batches of images made of KerasCV layers.

    Args:
        names: any of "flip", "crop" (a random part of 35 to 100 % of the area, resized back),
            "color" (brightness, contrast, saturation, hue) and "rand_augment", in their order.
        image_size: side of the images in pixels.

    Returns:
        uint8[b, size, size, 3] to float32 of the same shape, in [0, 255].

    Raises:
        RequestError: if a name isn't known.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.encoder.pretraining import make_augmentation
        >>> augment = make_augmentation(("flip",), 64)
        >>> augment(np.zeros((2, 64, 64, 3), "uint8")).shape
        TensorShape([2, 64, 64, 3])
    """
    import keras_cv  # 2 s to import: only where images are augmented

    makers = {
        "flip": lambda: _flip,  # KerasCV's takes 36 ms for 256 images of 64 px, this one 3
        "crop": lambda: keras_cv.layers.RandomCropAndResize(
            (image_size, image_size), (0.35, 1.0), (3 / 4, 4 / 3)
        ),
        "color": lambda: keras_cv.layers.RandomColorJitter((0, 255), 0.2, 0.2, 0.2, 0.05),
        "rand_augment": lambda: keras_cv.layers.RandAugment((0, 255), 2, 0.3),
    }
    for name in names:
        if name not in makers:
            raise RequestError(f"config.augment: {name!r} is none of {', '.join(makers)}")
    layers = [makers[name]() for name in names]

    def _augment(images):
        images = tf.cast(images, tf.float32)
        for layer in layers:
            images = layer(images)
        return tf.ensure_shape(images, (None, image_size, image_size, 3))

    return _augment


def _flip(images):
    turned = tf.random.uniform((tf.shape(images)[0], 1, 1, 1)) < 0.5
    return tf.where(turned, images[:, :, ::-1], images)
