"""Running files in the TFLite Micro interpreter, in a process of its own.

    python -m sparse_ist_tf.export.files.micro MODEL INPUTS OUTPUTS ARENA

The interpreter writes its memory use to the process's standard error and can end the process when
it runs out: both are why it isn't run in the caller's.
"""

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.export.files.runtimes import ports

ALIGNMENT = 16


class MicroResult(NamedTuple):
    """What the TFLite Micro interpreter made of a file."""

    outputs: np.ndarray  # int8[n, ...], one row per example, in the file's own numbers
    # Bytes that it used, as it reports; on a 64-bit computer, where pointers are twice as large as
    # on most microcontrollers.
    arena: int


def available() -> bool:
    """Whether the TFLite Micro interpreter is installed."""
    return importlib.util.find_spec("tflite_micro") is not None


def require() -> None:
    """Checks that the TFLite Micro interpreter is installed.

    Raises:
        RequestError: if not, with the command that brings it.
    """
    if not available():
        raise RequestError(
            "target='micro': its files are proven in the TFLite Micro interpreter, which is not "
            "installed; run `pip install --pre tflite-micro`"
        )


def run(
    content: bytes, examples: Iterable[Mapping[str, np.ndarray]], arena: int | None = None
) -> MicroResult:
    """Runs examples one by one.

    Args:
        content: a .tflite file.
        examples: by input name: uint8 pixels, int32 positions, float32 features.
        arena: bytes to give it; None for plenty.

    Raises:
        RequestError: if the interpreter isn't installed.
        RunError: if it can't run the file, with its own words.
    """
    require()
    inputs, _ = ports(content)
    encoded = [[port.encode(example[port.name]) for port in inputs] for example in examples]
    with tempfile.TemporaryDirectory() as folder:
        model, data, out = (Path(folder) / name for name in ("model.tflite", "in.npz", "out.npy"))
        model.write_bytes(content)
        np.savez(data, *map(np.stack, zip(*encoded, strict=True)))
        command = [sys.executable, "-m", __name__, str(model), str(data), str(out)]
        command.append(str(arena or max(4 << 20, 12 * len(content))))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        used = arena_used(done, out)
        return MicroResult(np.load(out), used)


def needed_arena(content: bytes, example: Mapping[str, np.ndarray]) -> int:
    """Bytes of arena that a program should set aside, proven by running in exactly that much.

    Raises:
        RunError: if the file can't be run.
    """
    return proven_arena(lambda arena: run(content, [example], arena).arena)


def arena_used(done: subprocess.CompletedProcess, out: Path) -> int:
    """Bytes that the interpreter of a process used, as it reports.

    Args:
        done: the process, with its errors as text.
        out: the file that it was to write.

    Raises:
        RunError: if it failed, with its own words.
    """
    found = re.search(r"Arena allocation total (\d+) bytes", done.stderr)
    if done.returncode or not found or not out.exists():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        known = [line for line in lines if "Didn't find" in line or "arena" in line.lower()]
        reason = (known or lines or [f"status {done.returncode}"])[-1]
        raise RunError(f"TFLite Micro can't run it: {reason.strip()[:300]}")
    return int(found[1])


def proven_arena(run_in: Callable[[int | None], int]) -> int:
    """The bytes of arena that a run is seen to succeed in, at or little above what it uses.

    Args:
        run_in: runs in so many bytes, None for plenty, and gives what was used.

    Raises:
        RunError: if it can't be run.
    """
    used = run_in(None)
    # The interpreter needs a little room to move while it plans.
    for slack in (0, 256, 1024, 4096, 16384, 65536):
        size = -(-(used + slack) // ALIGNMENT) * ALIGNMENT
        try:
            run_in(size)
        except RunError:
            continue
        return size
    raise RunError(f"TFLite Micro reports {used} bytes of arena but fails in that and 64 KiB more")


def _main(argv: list[str]) -> None:
    from tflite_micro.python.tflite_micro import runtime

    model, data, out, arena = argv
    interpreter = runtime.Interpreter.from_file(model, arena_size=int(arena))
    inputs = list(np.load(data).values())  # in order
    outputs = []
    for example in zip(*inputs, strict=True):
        for index, value in enumerate(example):
            interpreter.set_input(value, index)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0])
    np.save(out, np.array(outputs))
    interpreter.print_allocations()


if __name__ == "__main__":
    _main(sys.argv[1:])
