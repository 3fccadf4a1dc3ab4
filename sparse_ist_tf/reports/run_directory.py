"""The run directory: configuration, metrics, checkpoints and results, each written atomically."""

import contextlib
import importlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from sparse_ist_tf.codec.few_bits import Channels
from sparse_ist_tf.config import completed
from sparse_ist_tf.errors import RequestError, RunError, warn
from sparse_ist_tf.files import remove_leftovers, write_file, writing
from sparse_ist_tf.reports.checkpoint_file import read_checkpoint, write_checkpoint
from sparse_ist_tf.reports.data_record import DataRecord
from sparse_ist_tf.workers.preparing import place_of

if TYPE_CHECKING:
    import keras

locks = importlib.import_module("msvcrt" if os.name == "nt" else "fcntl")
KEPT_CHECKPOINTS = 2
Complete = Callable[[Mapping], ConfigDict]
# Keys that change where or how fast, not what; a run may go on with others.
FREE_KEYS = (
    "cluster.peer_timeout_s",
    "checkpoint_every",
    "checkpoint_every_epochs",
    "checkpoint_every_rounds",
    "dataset.cache_dir",
    "dataset.data_dir",
    "features.cache_dir",
)
_FIRST_FILES = {".lock", "config.json", "data.json", "channels.json"}


class RunDirectory:
    """What a run leaves behind; only the chief writes."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def check(self, config: Mapping, complete: Complete = completed) -> None:
        """Makes sure that the directory holds no run of another configuration.

        Args:
            config: plain dictionaries, lists and tuples.
            complete: makes a stored configuration one of today; by default for one of train.

        Raises:
            RequestError: naming the key that differs.
        """
        stored = self._read("config.json")
        if stored is None:
            return
        plain = [json.loads(json.dumps(complete(c).to_dict())) for c in (stored, config)]
        if complete is completed and self.results() is None:
            plain = [_without_place(some) for some in plain]  # training compares the images
        if key := _first_difference(*plain):
            raise RequestError(
                f"--workdir={self.path}: holds a run with another {key}; give another folder, or "
                "remove it"
            )

    @contextlib.contextmanager
    def opened(
        self, config: Mapping, complete: Complete = completed, patience_s: float = 15.0
    ) -> Iterator[None]:
        """Holds the directory, so that no other process works in it, and writes config.json.

        A directory that was made for a request that turns out bad goes again.

        Args:
            config: as check.
            complete: as check.
            patience_s: how long to wait for a process that is just ending, in seconds.

        Raises:
            RequestError: as check, or if another process works there.
            RunError: if it can't be written.
        """
        with writing(self.path):
            is_new = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "a")  # noqa: SIM115
        with lock:
            deadline = time.monotonic() + patience_s
            while not _locked(lock):
                if time.monotonic() > deadline:
                    raise RequestError(f"--workdir={self.path}: another process is at work there")
                time.sleep(0.2)
            self.check(config, complete)
            remove_leftovers(self.path)
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            write_file(self.path / "config.json", text)
            try:
                yield
            except RequestError:
                if is_new and {path.name for path in self.path.iterdir()} <= _FIRST_FILES:
                    shutil.rmtree(self.path, ignore_errors=True)
                raise

    def _read(self, name: str) -> dict[str, Any] | None:
        """What a file of JSON holds; None where there is none."""
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RunError(f"{self.path / name} is damaged")
        return found

    def config(self) -> dict[str, Any]:
        """The run's configuration.

        Raises:
            RequestError: if there is none.
            RunError: if it is damaged.
        """
        found = self._read("config.json")
        if found is None:
            raise RequestError(f"{self.path}: is no run directory, it has no config.json")
        return found

    def data(self) -> DataRecord | None:
        """What the run was trained on; None where it was begun by a version that kept none of it.

        Raises:
            RunError: if it is damaged.
        """
        found = self._read("data.json")
        try:
            return None if found is None else DataRecord.of_dict(found)
        except (KeyError, TypeError, AttributeError):
            raise RunError(f"{self.path / 'data.json'} is damaged") from None

    def check_data(self, now: DataRecord) -> None:
        """Makes sure that the data is what a training began with, as far as it is known.

        Raises:
            RequestError: saying what has changed.
            RunError: as data().
        """
        known = self.data()
        if change := known.change(now) if known else "":
            raise RequestError(
                f"--workdir={self.path}: its data has changed since its training began: {change}; "
                "give another folder"
            )

    def save_data(self, record: DataRecord) -> None:
        """Keeps what the run is trained on.

        Raises:
            RunError: if it can't be written.
        """
        write_file(self.path / "data.json", json.dumps(record.as_dict()) + "\n")

    def channels(self) -> Channels | None:
        """What the transport knows of features; None where these cross in enough bits.

        Raises:
            RunError: if it is damaged.
        """
        found = self._read("channels.json")
        try:
            return None if found is None else Channels.of_dict(found)
        except (KeyError, TypeError, ValueError):
            raise RunError(f"{self.path / 'channels.json'} is damaged") from None

    def save_channels(self, channels: Channels) -> None:
        """Keeps what the transport knows of features.

        Raises:
            RunError: if it can't be written.
        """
        write_file(self.path / "channels.json", json.dumps(channels.as_dict()) + "\n")

    def save_checkpoint(
        self, state: Mapping[str, np.ndarray], progress: Mapping, phase: str = "round"
    ) -> None:
        """Keeps a state, and drops all but the newest two.

        Args:
            state: whole arrays by name.
            progress: plain values; "round" numbers the file.
            phase: what is trained; each has checkpoints of its own.

        Raises:
            RunError: if it can't be written; the older ones stay.
        """
        name = f"checkpoints/{phase}_{progress['round']:08d}.safetensors"
        write_checkpoint(self.path / name, state, progress)
        for old in self._checkpoints(phase)[:-KEPT_CHECKPOINTS]:
            old.unlink(missing_ok=True)

    def _checkpoints(self, phase: str) -> list[Path]:
        return sorted(self.path.glob(f"checkpoints/{phase}_*.safetensors"))

    def newest_checkpoint(self) -> tuple[int, str] | None:
        """What tells one state of the checkpoints from the next; None where there is none."""
        paths = self.path.glob("**/[!.]*.safetensors")
        found = []
        for path in paths:
            with contextlib.suppress(OSError):  # the chief is at work
                found.append((path.stat().st_mtime_ns, path.name))
        return max(found, default=None)

    def checkpoint(self, phase: str = "round") -> tuple[dict[str, np.ndarray], dict] | None:
        """State and progress of the newest checkpoint that is whole."""
        for path in reversed(self._checkpoints(phase)):
            try:
                return read_checkpoint(path)
            except RunError as error:
                warn(f"{error} and not used")
        return None

    def append_metrics(self, record: Mapping) -> None:
        """Adds a line to metrics.jsonl, and sees to it that it is on the disk.

        Raises:
            RunError: if it can't be written.
        """
        path = self.path / "metrics.jsonl"
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())  # so that a checkpoint has no evaluation that is lost

    def metrics(self) -> list[dict]:
        """The records of metrics.jsonl up to the first that is damaged.

        Which is the last line where a process was killed, and may be more after a power cut.
        """
        path = self.path / "metrics.jsonl"
        records: list[dict] = []
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        for line in lines:
            if (record := _record(line)) is None:
                break
            records.append(record)
        if (lost := len([line for line in lines[len(records) :] if line])) > 1:
            first = len(records) + 1
            warn(f"{path} is damaged from line {first} on; {lost} lines are not used")
        return records

    def last_metrics(self) -> dict:
        """The last record of metrics.jsonl.

        Raises:
            RunError: if none is whole.
        """
        if records := self.metrics():
            return records[-1]
        raise RunError(f"{self.path / 'metrics.jsonl'}: is missing or damaged")

    def rewind_metrics(self, step: int) -> list[dict]:
        """Drops the records behind a step, which a resumed run will write again."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_file(self.path / "metrics.jsonl", text)
        return kept

    def head(self) -> "keras.Model":
        """The merged head, head.keras as a Keras model.

        Raises:
            RunError: if it is missing or damaged.
        """
        import keras

        path = self.path / "head.keras"
        try:
            return keras.saving.load_model(path)
        except Exception as error:  # Keras' readers raise whatever a damaged archive makes them
            reason = str(error).splitlines()[0]
            raise RunError(f"{path} is missing or damaged: {reason}") from None

    def save_results(self, results: Mapping) -> None:
        """Writes results.json, which marks the run as finished."""
        write_file(self.path / "results.json", json.dumps(results, indent=2) + "\n")

    def results(self) -> dict | None:
        """The results of a finished run, else None.

        Raises:
            RunError: if they are damaged.
        """
        return self._read("results.json")


def _locked(file: IO) -> bool:
    """Whether this process has the file for itself from now on, until it is closed."""
    try:
        if locks.__name__ == "fcntl":
            locks.flock(file, locks.LOCK_EX | locks.LOCK_NB)
        else:
            locks.locking(file.fileno(), locks.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _record(line: bytes) -> dict | None:
    """A line of metrics.jsonl; None where it is damaged."""
    try:
        record = json.loads(line.decode())
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("step"), int | float)
    return record if whole else None


def _without_place(config: dict) -> dict:
    """A configuration whose folder or file of images, if it has one, may lie anywhere."""
    name = config["dataset"]["name"]
    name = name.partition(":")[0] + ":" if place_of(name) else name
    return config | {"dataset": config["dataset"] | {"name": name}}


def _first_difference(old: object, new: object, prefix: str = "") -> str | None:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return None if old == new else f"{prefix} ({old!r}, not {new!r})"
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}.{key}" if prefix else key
        if name not in FREE_KEYS:
            if key not in old or key not in new:
                return name
            if found := _first_difference(old[key], new[key], name):
                return found
    return None
