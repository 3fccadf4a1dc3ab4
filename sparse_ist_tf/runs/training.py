"""A whole run: features, rounds, evaluations, checkpoints, and the results at the end."""

import contextlib
import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from sparse_ist_tf.checkpoints.loading import load_configured
from sparse_ist_tf.encoder.bundle import vit_encoder
from sparse_ist_tf.encoder.cache import cache_path
from sparse_ist_tf.encoder.finetuning import FrozenTokens, trained_variables
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.batches import BatchStream
from sparse_ist_tf.inputs.datasets import IN_PACKAGES
from sparse_ist_tf.inputs.layouts.summary import summary
from sparse_ist_tf.ist.finetuning import Tuning
from sparse_ist_tf.ist.local import logit_adjustments
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.ist.synchronous import synchronous_bytes
from sparse_ist_tf.ist.trainer import TrainingData
from sparse_ist_tf.masks import MaskOptions, num_visible
from sparse_ist_tf.reports.data_record import DataRecord
from sparse_ist_tf.reports.metrics import ScalarLog
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.runs.evaluation import Evaluation
from sparse_ist_tf.runs.finishing import finish
from sparse_ist_tf.runs.parts import (
    features_of,
    head_spec,
    load_splits,
    make_trainer,
    mask_options,
    optimizer_config,
    trainer_options,
    training_masks,
    training_shards,
    with_channels,
)
from sparse_ist_tf.runs.progress import Progress
from sparse_ist_tf.runs.rounds_log import RoundsLog
from sparse_ist_tf.runs.schedules import local_steps, rounds_between, steps_of_round, total_steps
from sparse_ist_tf.runs.trained import is_trained
from sparse_ist_tf.runs.views import Views, fixed_views, in_turns
from sparse_ist_tf.shown.bars import Bar
from sparse_ist_tf.streams import Stream
from sparse_ist_tf.workers.agreement import agree, command_facts
from sparse_ist_tf.workers.cluster import Cluster, lost_peers, make_strategy
from sparse_ist_tf.workers.ledger import PURPOSES, Ledger, human_bytes
from sparse_ist_tf.workers.link import Link, Shape
from sparse_ist_tf.workers.preparing import place_of
from sparse_ist_tf.workers.stopping import Stop

_COLLECTIVE_TIMEOUT_S = 1800.0  # others wait while the chief evaluates; a dead peer shows sooner


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
        self.masks = mask_options(config)
        for ratio in (self.masks.ratio, *config.masks.test_ratios):
            _check_masks(dataclasses.replace(self.masks, ratio=ratio), self.encoder.num_patches)
        self.splits = self._load_splits()
        self.data = DataRecord.of(config.dataset.name, self.splits)
        self.steps = total_steps(config, self.splits["train"].size)
        self.rounds = self._count_rounds()
        self.features = features_of(config, self.encoder)
        self.feature_keys = {part: self.features.key(s) for part, s in self.splits.items()}
        agree(link, datasets.facts(self.splits) | self._facts())
        found = self._find_checkpoint()
        if link.chief:
            directory.save_data(self.data)
            if not found:
                print(summary(config.dataset.name, self.splits), flush=True)
            print(self.encoder.describe(), file=sys.stderr, flush=True)
        self.tokens = self._frozen_tokens() if config.encoder.trainable_blocks else None
        self.features = with_channels(self.features, self.splits["train"], link, directory)
        self.test_features = None if self.tokens else self._features("test", [self.masks])
        self._make_trainers()
        if link.chief:
            print(self._describe_rounds(), file=sys.stderr, flush=True)
        self._restore(found)

    def _load_splits(self):
        name = self.config.dataset.name
        if name in IN_PACKAGES or place_of(name):
            return load_splits(self.config)
        splits = load_splits(self.config) if self.link.chief else None  # may have to prepare them
        self.link.wait_for_all()
        return splits or load_splits(self.config)

    def _facts(self) -> dict[str, str]:
        """What workers must have alike before they share any work, besides the images' names."""
        shown = self.masks.positions(np.arange(64), self.encoder.num_patches)
        drawn = Stream.PARTITION.rng(self.config.seed, 0).permutation(1000)
        chance = hashlib.sha256(shown.tobytes() + drawn.tobytes()).hexdigest()
        features = ", ".join(key[:16] for key in self.feature_keys.values())
        digest = self.encoder.digest[:16]
        return {"encoder's weights": digest, "features": features, "what chance draws": chance[:16]}

    def _count_rounds(self) -> int:
        step, rounds = 0, 0
        while step < self.steps:
            step += steps_of_round(self.config, step, self.steps)
            rounds += 1
        return rounds

    def _describe_rounds(self) -> str:
        """How long rounds are, and a warning where that makes subnets of no use to each other."""
        count, options = local_steps(self.config, self.steps), self.trainer.options
        told = f"rounds: {self.rounds:,} of {min(count, self.steps):,} local steps"
        if self.config.ist.local_steps_schedule != "constant":
            told += f" at most, {self.config.ist.local_steps_schedule}"
        is_dealt = self.trainer.partition_of(options, self.trainer.spec.hidden, 0) is not None
        if self.rounds == 1 and is_dealt and options.num_subnets > 1:
            told += (
                "\nwarning: neurons are dealt once and trained in one company only, so the merged "
                f"head is worse than it could be; ist.local_steps={count} is all of the run"
            )
        return told

    def _features(self, part: str, masks: Sequence[MaskOptions]) -> np.ndarray:
        return fixed_views(self.features, self.splits[part], self.link, masks)

    def _frozen_tokens(self) -> dict[str, FrozenTokens]:
        """Where blocks of the encoder train: what is below them."""
        blocks = self.config.encoder.trainable_blocks
        cache_dir = cache_path(self.config.features.cache_dir, "").parent
        encoder = vit_encoder(self.encoder, f"encoder.trainable_blocks={blocks}")
        first = encoder.model.spec.depth - blocks
        parts = (
            FrozenTokens(encoder, split, self.masks, first, cache_dir)
            for split in self.splits.values()
        )
        return dict(zip(self.splits, parts, strict=True))

    def _make_trainers(self) -> None:
        config, train = self.config, self.splits["train"]
        spec = head_spec(config, self.encoder.feature_dim, train.num_classes)
        channels = self.features.transport.channels
        self.evaluation = Evaluation(config, spec, self.encoder, self.splits["test"], channels)
        tuning = None
        if self.tokens:
            blocks, factor = config.encoder.trainable_blocks, config.encoder.learning_rate_factor
            encoder = vit_encoder(self.encoder, f"encoder.trainable_blocks={blocks}")
            tuning = Tuning(encoder, blocks, factor, self.tokens["train"])
        configs = [config]
        if config.centralized_baseline and config.ist.algorithm != "centralized":
            alone = ConfigDict(config.to_dict())
            alone.ist.algorithm, alone.dataset.shards = "centralized", "all"
            configs.append(alone)
        options = [trainer_options(some, self.steps) for some in configs]
        data = self._training_data(configs, options)

        def make(k, link):
            return make_trainer(configs[k], spec, link, options[k], data[k], tuning)

        self.trainer = make(0, self.link)
        self.baseline = None  # the whole head that the chief trains beside, for comparison
        if len(configs) > 1 and self.link.chief:
            self.baseline = make(1, Link.alone())
        for trainer in filter(None, (self.trainer, self.baseline)):
            trainer.scratch = self.directory.path

    def _training_data(self, configs, options) -> list[TrainingData]:
        """Of every trainer; where masks are random of its next round alone."""
        train, self.views = self.splits["train"], None
        shards = [
            training_shards(*some, train.labels) for some in zip(configs, options, strict=True)
        ]
        adjustments = [logit_adjustments(train.labels, some, train.num_classes) for some in shards]
        if self.masks.kind != "random" or self.tokens:
            masks = training_masks(self.config)
            features = None if self.tokens else self._features("train", masks)
            labels = np.tile(train.labels, len(masks))
            locate = in_turns(train.size, len(masks), self.config.seed)
            pairs = zip(shards, adjustments, strict=True)
            return [TrainingData(features, labels, s, locate, a) for s, a in pairs]
        streams = [
            [BatchStream(shard, o.batch_size, o.seed, n) for n, shard in enumerate(some)]
            for o, some in zip(options, shards, strict=True)
        ]
        self.views = Views(self.features, train, self.link, streams, self.steps)
        step = min(self.start_step, self.steps - 1)
        self.views.advance(step, steps_of_round(self.config, step, self.steps))
        return [
            dataclasses.replace(self.views.data(k), adjustments=some)
            for k, some in enumerate(adjustments)
        ]

    def _find_checkpoint(self) -> tuple[HeadState, Progress] | None:
        """The chief's checkpoint, and what all workers have to know of it."""
        stored = self.directory.checkpoint() if self.link.chief else None
        found = stored and (HeadState.of_arrays(stored[0]), Progress.of_dict(stored[1]))
        start = np.zeros(3, np.int64)
        if found:
            progress = found[1]
            self.directory.check_data(self.data)
            if not progress.is_of(self.features.key, self.splits):
                raise RequestError(
                    f"--workdir={self.directory.path}: its checkpoint was made of other features: "
                    "the images or the encoder's weights have changed; give another folder"
                )
            start[:] = progress.round, progress.step, len(progress.ledgers)
        start = self.link.broadcast(start, purpose="control").tolist()
        self.start_round, self.start_step, self.start_workers = start
        return found

    def _restore(self, found: tuple[HeadState, Progress] | None) -> None:
        chief, directory = self.link.chief, self.directory
        self.earlier: Mapping[str, int] = {"data_parallel": 0, "local_sgd": 0}
        if chief:
            self.scalars = ScalarLog(directory.path / "tensorboard")
            self.scalars.restart(directory.rewind_metrics(self.start_step))
        if not self.start_step:
            return
        state, progress = found or (None, None)
        counts = Shape((self.start_workers, len(PURPOSES)), np.int64)
        if progress:
            counts = np.stack([ledger.counts() for ledger in progress.ledgers])
        before = [Ledger.of_counts(row) for row in self.link.broadcast(counts, purpose="control")]
        same = self.start_workers == self.link.num_workers
        self.link.go_on_from(before[self.link.worker] if same else Ledger.mean(before))
        self.trainer.restore(state, self.start_round, self.start_step)
        if progress:
            self.earlier = progress.synchronous_bytes
            print(f"goes on from step {self.start_step:,} of {self.steps:,}", flush=True)
        if self.baseline:
            self.baseline.restore(state.baseline, self.start_round, self.start_step)

    def train(self, stop: Stop, log: RoundsLog | None = None) -> None:
        """All rounds that are left, with evaluations and checkpoints; the last is always both.

        Args:
            stop: ends this process behind a round, once a checkpoint of it is written; the workers
                end together.
            log: of the rounds, before what may follow them; none where None.
        """
        config, trainer, size = self.config, self.trainer, self.splits["train"].size
        every = {what: rounds_between(config, what, size) for what in ("eval", "checkpoint")}
        tested: list[str] = []
        asked = 0
        shown = {"initial": trainer.round, "is_shown": self.link.chief}
        bar = Bar(self.rounds, "rounds", "rounds", **shown)
        with stop.at_round_ends(trainer.ask_to_stop), bar:
            while trainer.step < self.steps and not asked:
                steps = steps_of_round(config, trainer.step, self.steps)
                self._draw_masks(steps)
                record = trainer.run_round(steps)
                if log:
                    log.add(trainer.round, trainer.step, self.link.ledger)
                if self.baseline:
                    self.baseline.run_round(steps)
                asked, last = trainer.asked_to_stop(), trainer.step >= self.steps
                evaluates = last or trainer.round % every["eval"] == 0
                saves = last or asked or trainer.round % every["checkpoint"] == 0
                if evaluates or saves:
                    state, ledgers = self._gather()
                    if evaluates and self.link.chief:
                        tested = [f"test {self._evaluate(state, ledgers, record):.3f}"]
                    if saves and self.link.chief:
                        self._save(state, ledgers)
                sent = f"sent {human_bytes(self.link.ledger.training)}"
                numbers = f"loss {record['loss']:.3f}", f"accuracy {record['train_accuracy']:.3f}"
                bar.update(1, [*numbers, *tested, sent], first=("test", "loss"))
            self.link.part()
        asked = asked or stop.number
        if asked and (trainer.step < self.steps or self.link.chief):
            stop.end(asked, f" after round {trainer.round}")

    def _draw_masks(self, steps: int) -> None:
        """Where they are random: the views of the next steps."""
        if self.views and self.views.advance(self.trainer.step, steps):
            for k, trainer in enumerate(filter(None, (self.trainer, self.baseline))):
                trainer.set_data(self.views.data(k))

    def _gather(self) -> tuple[HeadState | None, list[Ledger]]:
        """The state, on the chief, and the bytes that each worker has sent."""
        state = self.trainer.gather()
        if self.baseline:
            state.baseline = self.baseline.gather()
        counts = self.link.all_gather(self.link.ledger.counts(), purpose="control")
        return state, [Ledger.of_counts(row) for row in counts]

    def _evaluate(self, state: HeadState, ledgers: list[Ledger], record: dict) -> float:
        if self.tokens:
            self.test_features = self.trainer.features_of(self.tokens["test"])
        table = self.evaluation.accuracies(state, self.trainer.round, self.test_features)
        mean = Ledger.mean(ledgers)
        record = {
            **record,
            "test_accuracy": table["merged"],
            "centralized_accuracy": table["centralized"],
            "bytes": mean.as_dict(),
            "training_bytes": mean.training,
        }
        self.directory.append_metrics(record)
        self.scalars.add(record)
        return table["merged"]

    def _save(self, state: HeadState, ledgers: list[Ledger]) -> None:
        trainer = self.trainer
        progress = Progress(
            round=trainer.round,
            step=trainer.step,
            ledgers=ledgers,
            synchronous_bytes=self._synchronous_bytes(),
            features=self.feature_keys,
            is_last=trainer.step >= self.steps,
        )
        self.directory.save_checkpoint(state.arrays(), progress.as_dict())

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


def _check_masks(masks: MaskOptions, num_patches: int) -> None:
    try:
        num_visible(num_patches, masks.ratio)
        masks.positions(np.arange(1), num_patches)
    except ValueError as error:
        raise RequestError(f"masks.ratio: {error}") from None


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | Path,
    cluster: Cluster,
    stop: Stop | None = None,
    rounds_log: str | Path | None = None,
) -> dict | None:
    """Trains one worker's part, or goes on from the last checkpoint.

    What is left when all is trained the chief does alone, without meeting anyone.

    Args:
        config: valid.
        workdir: the run directory, written by the chief alone.
        cluster: this process's place.
        stop: ends the process behind a round; None where nothing does.
        rounds_log: a folder for a RoundsLog; None for none.

    Returns:
        On the chief the results, as results.json has them; None elsewhere.

    Raises:
        RequestError: if the data or the run directory can't be used.
        RunError: if a peer is lost, a loss is not finite, or a file can't be written.
    """
    directory, chief = RunDirectory(workdir), cluster.worker == 0
    stop = stop or Stop()
    with contextlib.ExitStack() as stack, datasets.suggesting_skip():
        if chief:
            stack.enter_context(directory.opened(config.to_dict()))
        if is_trained(directory, config):
            if not chief:
                print(f"{directory.path} is trained: nothing is left for worker {cluster.worker}.")
                return None
            return directory.results() or finish(Run(config, directory, Link.alone()))
        with lost_peers(cluster):
            facts = command_facts("train", config.to_dict())
            strategy = make_strategy(cluster, config.cluster.peer_timeout_s, facts)
            stop.take_back()
            link = Link(strategy, cluster.worker, cluster.num_workers, _COLLECTIVE_TIMEOUT_S)
            link.check_order()
            run = Run(config, directory, link)
            run.train(stop, RoundsLog(rounds_log, cluster.worker) if rounds_log else None)
        return finish(run) if chief else None
