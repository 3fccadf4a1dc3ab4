"""The front door: `sparse-ist COMMAND ...`, or `python -m sparse_ist_tf COMMAND ...`.

    sparse-ist                       what there is
    sparse-ist train --help          flags and configuration keys of a command
    sparse-ist train --config=configs/aid.py

A command is the module of its name: `sparse-ist train` is `python -m sparse_ist_tf.train`.
"""

import contextlib
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from typing import NamedTuple

from sparse_ist_tf import __version__
from sparse_ist_tf.commands import say
from sparse_ist_tf.errors import RequestError, did_you_mean


class Command(NamedTuple):
    """A command of the front door."""

    meaning: str  # one line for people
    module: str
    words: tuple[str, ...] = ()  # that go before its arguments


COMMANDS = {
    "train": Command("train a head on features of masked images", "train"),
    "evaluate": Command("measure a finished run, or an exported file, again", "evaluate"),
    "export": Command("write .tflite files of a run for a kind of device, proven", "export"),
    "classify": Command("label pictures with an exported classifier", "classify"),
    "devices": Command("train on devices that hold the pictures, over Flower", "devices"),
    "study": Command("run a grid of trainings and write a report", "study"),
    "pretrain": Command("make an encoder", "pretrain"),
    "masks": Command("draw masked images into a PNG", "masks"),
    "weights": Command("write an encoder's weights for timm or Keras", "weights"),
    "benchmark": Command("measure this machine: speed, bytes, leaks, faults", "benchmark"),
    "cluster": Command("benchmark on hosts behind thin links, as root", "benchmark", ("cluster",)),
}
_HELP = ("--help", "-h", "--helpfull", "-help", "help")


def overview() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.meaning}" for name, command in COMMANDS.items()]
    head = ["usage: sparse-ist COMMAND [FLAGS]", ""]
    tail = ["", "sparse-ist COMMAND --help shows a command's flags and configuration keys."]
    return "\n".join([*head, *lines, *tail])


def main(argv: Sequence[str] | None = None) -> int:
    """Starts the command that the arguments name.

    Args:
        argv: without the program's name; the process's own where None.

    Returns:
        The exit status: 0 behind the overview, 2 where there is no such command.
    """
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or [""]
    if name in _HELP and rest and rest[0] in COMMANDS:
        name, rest = rest[0], ["--help"]
    if name in ("", *_HELP):
        with contextlib.suppress(BrokenPipeError):  # read by `head`
            print(overview(), flush=True)
        return 0
    if name == "--version":
        print(f"sparse-ist {__version__}")
        return 0
    if name not in COMMANDS:
        allowed = f"must be one of {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}"
        return say(RequestError(f"{name!r}: there is no such command; {allowed}"))
    command = COMMANDS[name]
    module = f"{__package__}.{command.module}"
    found = importlib.util.find_spec(module)
    # The program's name, which --help shows, is put in front of them by runpy.
    sys.argv = [found.origin, *command.words, *rest]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return _status(end)
    return 0


def _status(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
