"""A whole run: features, rounds, evaluations, checkpoints, and the results at the end."""

import contextlib
import dataclasses
import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from sparse_ist_tf.checkpoints.loading import load_configured, save_encoder
from sparse_ist_tf.codec.thin_link import bytes_per_image
from sparse_ist_tf.encoder.cache import cache_key, cache_path
from sparse_ist_tf.encoder.features import shared_features
from sparse_ist_tf.encoder.finetuning import FrozenTokens, trained_variables
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.files import replacing
from sparse_ist_tf.inputs.datasets import image_errors
from sparse_ist_tf.ist.head import build_model
from sparse_ist_tf.ist.synchronous import synchronous_bytes
from sparse_ist_tf.masks import num_visible, write_mask_preview
from sparse_ist_tf.reports.metrics import ScalarLog
from sparse_ist_tf.reports.report import write_report
from sparse_ist_tf.reports.run_directory import RunDirectory, writing
from sparse_ist_tf.runs.finished import finished_accuracies
from sparse_ist_tf.runs.parts import (
    CENTRALIZED,
    accuracies,
    head_spec,
    load_splits,
    make_trainer,
    mask_options,
    optimizer_config,
    parameters_of,
    thin_link,
    with_tuned_encoder,
)
from sparse_ist_tf.runs.schedules import rounds_between, steps_of_round, total_steps
from sparse_ist_tf.workers.cluster import Cluster, lost_peers, make_strategy
from sparse_ist_tf.workers.ledger import PURPOSES, Ledger, human_bytes
from sparse_ist_tf.workers.link import Link

_COLLECTIVE_TIMEOUT_S = 1800.0  # others wait while the chief evaluates; a dead peer shows sooner
_LOW = 2**20  # a count of bytes travels as two numbers that float32 holds exactly


class Run:
    """One worker's part of a run.

    Args:
        config: valid.
        directory: written by the chief alone.
        link: to the other workers.

    Raises:
        RequestError: if the encoder, the masks or the data can't be used, or the checkpoint was
            made of others.
    """

    def __init__(self, config: ConfigDict, directory: RunDirectory, link: Link):
        self.config, self.directory, self.link = config, directory, link
        optimizer_config(config)  # raises before any image is read
        self.encoder = load_configured(config.encoder)
        if config.encoder.trainable_blocks:
            trained_variables(self.encoder, config.encoder.trainable_blocks)  # raises, as above
        self.masks, self.thin_link = mask_options(config), thin_link(config)
        for ratio in (self.masks.ratio, *config.masks.test_ratios):
            _check_masks(dataclasses.replace(self.masks, ratio=ratio), self.encoder.num_patches)
        self.splits = self._load_splits()
        self.ledger = Ledger()
        self.steps = total_steps(config, self.splits["train"].size)
        self.rounds = self._count_rounds()
        self.feature_keys = {
            part: cache_key(self.encoder, split, self.masks, config.encoder.dtype, self.thin_link)
            for part, split in self.splits.items()
        }
        found = self._find_checkpoint()
        self.epoch = self._epoch_of(self.start_step)
        if link.chief:
            print(self.encoder.describe(), file=sys.stderr, flush=True)
        self.tokens = self._frozen_tokens() if config.encoder.trainable_blocks else None
        self.test_features = None if self.tokens else self._features("test", 0)
        self._make_trainers(None if self.tokens else self._features("train", self.epoch))
        self._restore(found)

    def _load_splits(self):
        if self.config.dataset.name == "digits" or self.config.dataset.name.startswith("folder:"):
            return load_splits(self.config)
        splits = load_splits(self.config) if self.link.chief else None  # may have to prepare them
        self.link.all_gather(np.ones((1, 1), np.float32))
        return splits or load_splits(self.config)

    def _count_rounds(self) -> int:
        step, rounds = 0, 0
        while step < self.steps:
            step += steps_of_round(self.config, step, self.steps)
            rounds += 1
        return rounds

    def _epoch_of(self, step: int) -> int:
        if self.masks.kind != "random":
            return 0
        return step * self.config.batch_size // self.splits["train"].size

    def _features(self, part: str, epoch: int) -> np.ndarray:
        config = self.config
        return shared_features(
            self.encoder,
            self.splits[part],
            self.masks,
            self.link,
            self.ledger,
            dtype=config.encoder.dtype,
            cache_dir=config.features.cache_dir,
            batch_size=config.encoder.batch_size,
            epoch=epoch,
            progress=self.link.chief,
            thin_link=self.thin_link,
        )

    def _frozen_tokens(self) -> dict[str, FrozenTokens]:
        """Where blocks of the encoder train: what is below them."""
        blocks = self.config.encoder.trainable_blocks
        cache_dir = cache_path(self.config.features.cache_dir, "").parent
        first = self.encoder.model.depth - blocks
        parts = (
            FrozenTokens(self.encoder, split, self.masks, first, cache_dir)
            for split in self.splits.values()
        )
        return dict(zip(self.splits, parts, strict=True))

    def _make_trainers(self, features: np.ndarray | None) -> None:
        config, train = self.config, self.splits["train"]
        spec = head_spec(config, self.encoder.feature_dim, train.num_classes)
        data = (features, train.labels)
        tuning = {"encoder": self.encoder, "tokens": self.tokens["train"]} if self.tokens else None
        self.trainer = make_trainer(config, spec, self.link, *data, self.ledger, self.steps, tuning)
        self.central = None  # the whole head that the chief trains beside, for comparison
        baseline = config.centralized_baseline and config.ist.algorithm != "centralized"
        if baseline and self.link.chief:
            import tensorflow as tf

            alone = ConfigDict(config.to_dict())
            alone.ist.algorithm, alone.dataset.shards = "centralized", "all"
            link = Link(tf.distribute.get_strategy(), 0, 1)
            self.central = make_trainer(alone, spec, link, *data, Ledger(), self.steps)

    def _find_checkpoint(self):
        """The chief's checkpoint, and what all workers have to know of it."""
        found = self.directory.checkpoint() if self.link.chief else None
        head = np.zeros(3, np.float32)
        if found:
            progress = found[1]
            if progress["features"] != self.feature_keys:
                raise RequestError(
                    f"--workdir={self.directory.path}: its checkpoint was made of other features: "
                    "the images or the encoder's weights have changed; give another folder"
                )
            head[:] = progress["round"], progress["step"], len(progress["bytes_by_worker"])
        head = self.link.broadcast(head, (3,)).astype(int)
        self.start_round, self.start_step, self.start_workers = (int(n) for n in head)
        return found

    def _restore(self, found) -> None:
        chief, directory = self.link.chief, self.directory
        self.earlier = {"data_parallel": 0, "local_sgd": 0}
        if chief:
            self.scalars = ScalarLog(directory.path / "tensorboard")
            self.scalars.restart(directory.rewind_metrics(self.start_step))
        if not self.start_step:
            return
        state, progress = found or (None, None)
        packed = _pack_counts(progress["bytes_by_worker"]) if found else None
        packed = self.link.broadcast(packed, (self.start_workers, len(PURPOSES), 2))
        before = _unpack_counts(packed)
        if self.start_workers == self.link.num_workers:
            before = before[self.link.worker]
        else:
            before = _mean_counts(before)
        for purpose, count in before.items():
            self.ledger.add(purpose, count)
        self.trainer.restore(state, self.start_round, self.start_step)
        if chief:
            self.earlier = progress["synchronous_bytes"]
            print(f"goes on from step {self.start_step:,} of {self.steps:,}", flush=True)
        if self.central:
            mark = f"{CENTRALIZED}/"
            state = {k.removeprefix(mark): v for k, v in state.items() if k.startswith(mark)}
            self.central.restore(state, self.start_round, self.start_step)

    def train(self) -> None:
        """All rounds that are left, with evaluations and checkpoints; the last is always both."""
        config, trainer, size = self.config, self.trainer, self.splits["train"].size
        every = {what: rounds_between(config, what, size) for what in ("eval", "checkpoint")}
        tested = ""
        bar = tqdm(
            total=self.rounds,
            initial=trainer.round,
            desc="rounds",
            unit="round",
            disable=not self.link.chief,
            mininterval=0.5,
        )
        with bar:
            while trainer.step < self.steps:
                self._refresh_masks()
                steps = steps_of_round(config, trainer.step, self.steps)
                record = trainer.run_round(steps)
                if self.central:
                    self.central.run_round(steps)
                last = trainer.step >= self.steps
                evaluates = last or trainer.round % every["eval"] == 0
                saves = last or trainer.round % every["checkpoint"] == 0
                if evaluates or saves:
                    state, ledgers = trainer.gather(), self._gather_ledgers()
                    if evaluates and self.link.chief:
                        tested = f", test {self._evaluate(state, ledgers, record):.3f}"
                    if saves and self.link.chief:
                        self._save(state, ledgers)
                bar.set_postfix_str(
                    f"loss {record['loss']:.3f}, accuracy {record['train_accuracy']:.3f}{tested}, "
                    f"sent {human_bytes(self.ledger.training)}",
                    refresh=False,
                )
                bar.update(1)

    def _refresh_masks(self) -> None:
        epoch = self._epoch_of(self.trainer.step)
        if self.tokens:
            self.tokens["train"].epoch = epoch
        elif epoch != self.epoch:
            self.epoch = epoch
            features = self._features("train", epoch)
            for trainer in filter(None, (self.trainer, self.central)):
                trainer.set_features(features)

    def _gather_ledgers(self) -> list[dict[str, int]]:
        """The bytes that each worker has sent, by purpose."""
        mine = _pack_counts([self.ledger.as_dict()])[0]
        return _unpack_counts(self.link.all_gather(mine))

    def _accuracies(self, state) -> dict:
        return accuracies(
            self.config,
            self.trainer.spec,
            state,
            self.trainer.round,
            self.test_features,
            self.splits["test"].labels,
        )

    def _evaluate(self, state, ledgers, record) -> float:
        if self.tokens:
            self.test_features = self.trainer.features_of(self.tokens["test"])
        table = self._accuracies(self._with_central(parameters_of(state)))
        mean = _mean_counts(ledgers)
        record = {
            **record,
            "test_accuracy": table["merged"],
            "centralized_accuracy": table["centralized"],
            "bytes": mean,
            "training_bytes": Ledger(mean).training,
        }
        self.directory.append_metrics(record)
        self.scalars.add(record)
        return table["merged"]

    def _with_central(self, state) -> dict[str, np.ndarray]:
        beside = self.central.gather() if self.central else {}
        return {**state, **{f"{CENTRALIZED}/{name}": value for name, value in beside.items()}}

    def _save(self, state, ledgers) -> None:
        progress = {
            "round": self.trainer.round,
            "step": self.trainer.step,
            "bytes_by_worker": ledgers,
            "synchronous_bytes": self._synchronous_bytes(),
            "features": self.feature_keys,
        }
        self.directory.save_checkpoint(self._with_central(state), progress)

    def _synchronous_bytes(self) -> dict[str, int]:
        """What the synchronous algorithms would have sent per worker so far."""
        steps = self.trainer.step - self.start_step
        now = synchronous_bytes(
            self.trainer.spec,
            self.trainer.num_slots,
            self.link.num_workers,
            steps,
            self.trainer.round - self.start_round,
        )
        return {name: self.earlier[name] + count for name, count in now.items()}

    def finish(self) -> dict:
        """head.keras, masks.png, the report and the results; on the chief alone."""
        directory = self.directory
        state, progress = directory.checkpoint()
        if self.tokens:
            self._keep_encoder()
        table, metrics = self._accuracies(state), directory.metrics()
        mean = _mean_counts(progress["bytes_by_worker"])
        results = {
            "algorithm": self.config.ist.algorithm,
            "num_subnets": self.trainer.options.num_subnets,
            "num_workers": self.link.num_workers,
            "rounds": self.trainer.round,
            "steps": self.trainer.step,
            "test_size": self.splits["test"].size,
            "accuracy": {k: v for k, v in table.items() if k != "centralized"},
            "best_accuracy": max(record["test_accuracy"] for record in metrics),
            "centralized_accuracy": table["centralized"],
            "centralized_best_accuracy": None,
            "bytes": mean,
            "bytes_by_worker": progress["bytes_by_worker"],
            "training_bytes": Ledger(mean).training,
            "synchronous_bytes": progress["synchronous_bytes"],
            "features": self.feature_keys,
            **self._finished_accuracies(state),
            "bytes_per_image": self._bytes_per_image(),
        }
        if table["centralized"] is not None:
            best = max(record["centralized_accuracy"] for record in metrics)
            results["centralized_best_accuracy"] = best
        path = directory.path / "head.keras"
        with writing(path), replacing(path) as temporary:
            build_model(parameters_of(state)).save(temporary)
        self._write_masks()
        write_report(directory.path, directory.config(), results, metrics)
        directory.save_results(results)
        return results

    def _keep_encoder(self) -> None:
        """Writes the tuned encoder, and tests with what was written, as others will."""
        path, encoder = self.directory.path / "encoder.safetensors", self.encoder
        save_encoder(path, encoder.model, encoder.mean, encoder.std, dtype="float32")
        self.encoder = load_configured(with_tuned_encoder(self.config, path.parent).encoder)
        self.test_features = self._features("test", 0)

    def _finished_accuracies(self, state) -> dict:
        trainer, test = self.trainer, self.splits["test"]
        return finished_accuracies(
            self.config,
            self.encoder,
            test,
            trainer.spec,
            state,
            trainer.round,
            self.test_features,
        )

    def _bytes_per_image(self) -> dict:
        encoder, masks, quality = self.encoder, self.masks, self.thin_link.quality
        sizes = bytes_per_image(
            self.splits["test"],
            encoder.image_size,
            encoder.patch_size,
            lambda indices: masks.positions(indices, encoder.num_patches),
            quality=quality,
            feature_dim=encoder.feature_dim,
            mask_seed=None if masks.kind == "shared" else masks.seed,
            epoch=0 if masks.kind == "random" else None,
        )
        return {"quality": quality, **sizes}

    def _write_masks(self) -> None:
        test, encoder = self.splits["test"], self.encoder
        count = min(12, test.size)
        with image_errors():
            rows = test.dataset(encoder.image_size, stop=count, batch_size=count)
            batch = next(rows.as_numpy_iterator())
        places = self.masks.positions(batch["index"], encoder.num_patches)
        path = self.directory.path / "masks.png"
        with writing(path):
            write_mask_preview(path, batch["image"], places, encoder.patch_size)


def _check_masks(masks, num_patches: int) -> None:
    try:
        num_visible(num_patches, masks.ratio)
        masks.positions(np.arange(1), num_patches)
    except ValueError as error:
        raise RequestError(f"masks.ratio: {error}") from None


def _pack_counts(ledgers) -> np.ndarray:
    counts = [[divmod(ledger.get(purpose, 0), _LOW) for purpose in PURPOSES] for ledger in ledgers]
    return np.array(counts, np.float32)


def _unpack_counts(packed: np.ndarray) -> list[dict[str, int]]:
    high, low = packed.astype(np.int64)[..., 0], packed.astype(np.int64)[..., 1]
    rows = (high * _LOW + low).tolist()
    return [Ledger(dict(zip(PURPOSES, row, strict=True))).as_dict() for row in rows]


def _mean_counts(ledgers) -> dict[str, int]:
    mean = {p: round(np.mean([ledger.get(p, 0) for ledger in ledgers])) for p in PURPOSES}
    return {purpose: count for purpose, count in mean.items() if count}


def train_and_evaluate(config: ConfigDict, workdir: str | Path, cluster: Cluster) -> dict | None:
    """Trains one worker's part, or goes on from the last checkpoint.

    Args:
        config: valid.
        workdir: the run directory, written by the chief alone.
        cluster: this process's place.

    Returns:
        On the chief the results, as results.json has them; None elsewhere.

    Raises:
        RequestError: if the data or the run directory can't be used.
        RunError: if a peer is lost, a loss is not finite, or a file can't be written.
    """
    directory, chief = RunDirectory(workdir), cluster.worker == 0
    with contextlib.ExitStack() as stack:
        if chief:
            stack.enter_context(directory.opened(config.to_dict()))
        finished = directory.results() if chief else None
        if finished and cluster.num_workers == 1:
            return finished
        with lost_peers(cluster):
            strategy = make_strategy(cluster, config.cluster.peer_timeout_s)
            link = Link(strategy, cluster.worker, cluster.num_workers, _COLLECTIVE_TIMEOUT_S)
            link.check_order()
            known = np.array([finished is not None], np.float32)
            if link.broadcast(known, (1,))[0]:
                return finished
            run = Run(config, directory, link)
            run.train()
        return run.finish() if chief else None
