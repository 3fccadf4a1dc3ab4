"""Where a drill takes place: small trainings in a folder of their own, and the undisturbed run."""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from sparse_ist_tf.benchmarks.faults.drill import Drill, Outcome
from sparse_ist_tf.benchmarks.faults.network import Network
from sparse_ist_tf.benchmarks.faults.pictures import draw_pictures
from sparse_ist_tf.benchmarks.faults.processes import Process, ends, expect
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.workers.launch import LIFELINE, free_ports

RUN_S = 300.0  # a whole training takes seconds, more beside other work
END_S = 120.0  # until who noticed a fault is gone, on a busy machine too
SHORT_S = 15.0  # the least patience with which workers that start at once meet there
CHECKPOINT_EVERY = 20  # rounds
SMALL = (
    "--config.encoder.weights=random:vit_pico",
    "--config.head.hidden=(48, 32)",
    "--config.centralized_baseline=False",
    "--config.total_epochs=20",
    "--config.ist.local_steps=4",
    "--config.eval_every_rounds=40",
    f"--config.checkpoint_every_rounds={CHECKPOINT_EVERY}",
)
Arguments = Sequence[str]


class Trial:
    """A run directory, a cache of features, and the processes that work there; none outlives it.

    Args:
        folder: of its own, which is made, and removed in the end.
        peer_timeout_s: cluster.peer_timeout_s of its workers, in seconds.
        undisturbed: the folder of the trial to compare with, whose cache is copied; None for that
            one itself, which stays.
    """

    def __init__(self, folder: Path, peer_timeout_s: float, undisturbed: Path | None):
        self.folder, self.peer_timeout_s = folder, peer_timeout_s
        self.workdir, self.cache = folder / "run", folder / "cache"
        self._undisturbed = undisturbed
        self._processes: list[Process] = []

    def __enter__(self) -> "Trial":
        self.folder.mkdir()
        if self._undisturbed:
            shutil.copytree(self._undisturbed / "cache", self.cache)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        if self._undisturbed:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(
        self,
        worker: int,
        addresses: Sequence[str],
        arguments: Arguments = (),
        network: Network | None = None,
    ) -> Process:
        """Starts one worker of a cluster.

        Args:
            worker: its index.
            addresses: host:port of all.
            arguments: behind those that all trials have.
            network: that it is in, at the side of its index.
        """
        task = {"type": "worker", "index": worker}
        cluster = json.dumps({"cluster": {"worker": list(addresses)}, "task": task})
        command = self._command(arguments)
        if network:
            command = network.within(worker, command)
        return self._run(command, {"TF_CONFIG": cluster})

    def start_pair(
        self,
        each: tuple[Arguments, Arguments] = ((), ()),
        network: Network | None = None,
    ) -> list[Process]:
        """Starts two workers at free ports, or in a network.

        Args:
            each: arguments of each.
            network: of two sides.
        """
        addresses = network.addresses if network else loopback(2)
        return [self.start(worker, addresses, each[worker], network) for worker in range(2)]

    def launch(self, *arguments: str) -> Process:
        """Starts a command that starts two local workers."""
        return self._run(self._command(["--num_workers=2", *arguments]), {})

    def _command(self, arguments: Arguments) -> list[str]:
        return [
            *(sys.executable, "-m", "sparse_ist_tf.train", "--config.dataset.name=digits", *SMALL),
            *(f"--workdir={self.workdir}", f"--config.features.cache_dir={self.cache}"),
            f"--config.cluster.peer_timeout_s={self.peer_timeout_s:g}",
            *arguments,
        ]

    def _run(self, command: list[str], extra: Mapping[str, str]) -> Process:
        hidden = ("TF_CONFIG", LIFELINE)
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        kept |= {"PYTHONUNBUFFERED": "1", "TF_DETERMINISTIC_OPS": "1", "GRPC_VERBOSITY": "NONE"}
        kept |= {"XDG_CACHE_HOME": str(self.folder), **extra}
        output = self.folder / f"output_{len(self._processes)}.txt"
        self._processes.append(Process(command, kept, output))
        return self._processes[-1]

    def newest(self) -> int:
        """The round of the newest checkpoint; 0 where there is none."""
        names = [path.stem for path in self.workdir.glob("checkpoints/round_*.safetensors")]
        return max((int(name.removeprefix("round_")) for name in names), default=0)

    def reach_checkpoint(self, processes: Sequence[Process], count: int = 1) -> None:
        """Waits until workers are in mid-run.

        Args:
            processes: that are at work.
            count: checkpoints that this start has to add.

        Raises:
            RunError: if they don't get there.
        """
        before = self.newest()

        def is_there() -> bool:
            if any(process.status is not None for process in processes):
                told = "; ".join(process.told() for process in processes)
                raise RunError(f"ended before a checkpoint was there: {told}")
            return self.newest() >= before + count * CHECKPOINT_EVERY

        expect(is_there, RUN_S, "a checkpoint")

    def outcome(
        self,
        statuses: tuple[int | None, ...],
        line: str = "",
        detected_s: float | None = None,
        arguments: Arguments = (),
    ) -> Outcome:
        """What followed a fault, once the same command has gone on to the end, if it had to.

        Args:
            statuses: as Outcome.
            line: as Outcome.
            detected_s: as Outcome.
            arguments: of both workers that go on.

        Raises:
            RunError: if they don't get to the end.
        """
        if not (self.workdir / "results.json").exists():
            self.end_undisturbed(arguments)
        return Outcome(statuses, line, detected_s, self._is_same())

    def end_undisturbed(self, arguments: Arguments = ()) -> None:
        """Has two workers train to the end.

        Raises:
            RunError: if they don't get there.
        """
        pair = self.start_pair((arguments, arguments))
        if any(ends(pair, RUN_S)) or not (self.workdir / "results.json").exists():
            told = "; ".join(process.told() for process in pair)
            raise RunError(f"the same command doesn't come to its end: {told or 'nothing is said'}")

    def _is_same(self) -> bool:
        return self._undisturbed is not None and same_end(self.workdir, self._undisturbed / "run")


class Workshop:
    """Where drills take place one behind the other: a temporary folder that goes in the end.

    SIGTERM and SIGHUP end it as Ctrl-C does, with all that it has started.
    """

    def __enter__(self) -> "Workshop":
        self._previous = {
            number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
        }
        self.folder = Path(tempfile.mkdtemp(prefix="sparse_ist_faults_"))
        self._count, self._undisturbed = 0, {}
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def pictures(self) -> Path:
        """A folder of images, two classes of 80."""
        path = self.folder / "images"
        if not path.exists():
            draw_pictures(path)
        return path

    def trial(self, drill: Drill) -> Trial:
        """A place for a drill; an undisturbed run is made for the first."""
        arguments = [f"--config.dataset.name=folder:{self.pictures}"] if drill.is_of_folder else []
        key = "folder" if drill.is_of_folder else "digits"
        if key not in self._undisturbed:
            with Trial(self.folder / f"undisturbed_{key}", 60.0, None) as trial:
                trial.end_undisturbed(arguments)
            self._undisturbed[key] = trial.folder
        self._count += 1
        return Trial(self.folder / f"{self._count}", drill.peer_timeout_s, self._undisturbed[key])


def _interrupt(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def loopback(count: int) -> list[str]:
    """Addresses of this machine at which nothing listens."""
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


def same_end(one: Path, other: Path) -> bool:
    """Whether two finished run directories hold the same weights and accuracies.

    Args:
        one: a run directory.
        other: another.
    """
    results = [json.loads((path / "results.json").read_text()) for path in (one, other)]
    return same_weights(one, other) and results[0]["accuracy"] == results[1]["accuracy"]


def same_weights(one: Path, other: Path) -> bool:
    """Whether two run directories' newest checkpoints are of one round and the same to the bit.

    Args:
        one: a run directory.
        other: another.
    """
    found = [max(p.glob("checkpoints/round_*.safetensors"), default=None) for p in (one, other)]
    if None in found or found[0].name != found[1].name:
        return False
    states = [load_file(path) for path in found]
    return states[0].keys() == states[1].keys() and all(
        np.array_equal(states[0][name], value) for name, value in states[1].items()
    )
