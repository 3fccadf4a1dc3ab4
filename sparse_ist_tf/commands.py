"""How every command starts and ends."""

import gc
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from absl import app, flags, logging
from ml_collections.config_flags import config_flags

from sparse_ist_tf.errors import RequestError, RunError, quiet, say
from sparse_ist_tf.keys import as_help, no_such_key

__all__ = ["quiet", "run", "say"]

LOGS = "SPARSE_IST_LOGS"  # with it libraries log as the environment says
_SILENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "NONE"}
_FLOATS = ("float16", "float32", "float64")

flags.disclaim_key_flags()  # --help shows a command's flags as its own


def run(
    main: Callable[[list[str]], int | None],
    define_flags: Callable[[], None] | None = None,
    words: Sequence[str] = (),
    backends: Sequence[str] = ("tensorflow",),
    config: ModuleType | None = None,
) -> None:
    """Runs a command: defines and parses its flags, calls main, ends with its exit status.

    A RequestError or a wrong flag is printed as one line and ends with status 2; a RunError, a full
    disk or a file that can't be read with status 1. Ctrl-C ends with status 130.

    Args:
        main: takes the arguments that are no flags and returns the exit status, None for 0.
        define_flags: defines the flags; ml_collections reads the command line while it does.
        words: arguments that are no flags and may be given.
        backends: of Keras, which the command runs on.
        config: the default of --config, with get_config() and table(); there is no such
            flag where None.
    """
    use_utf8()
    settle()
    logging.set_verbosity(logging.WARNING)
    names = [key.name for key in config.table()] if config else []
    try:
        if config:
            config_flags.DEFINE_config_file(
                "config",
                str(config.__file__),
                "Configuration file; the defaults where not given. Its keys, each of which "
                f"--config.KEY=VALUE sets:\n{as_help(config.table())}",
                lock_config=True,
            )
        if define_flags:
            define_flags()
    except Exception as error:  # a configuration file is a program
        raise SystemExit(say(_flag_error(error, sys.argv, names))) from None

    def parse(argv):
        try:
            rest = flags.FLAGS(argv)
            if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
                flags.FLAGS["config"].value.keys()  # a file that isn't there raises only here
            return rest
        except SystemExit:  # what --help asked for is printed; absl would call that a failure
            raise SystemExit(0) from None
        except Exception as error:
            raise SystemExit(say(_flag_error(error, argv, names))) from None

    def guarded(argv):
        try:
            settle_keras(backends)
            if unknown := [word for word in argv[1:] if word not in words]:
                allowed = f"; must be some of {', '.join(words)}" if words else ""
                raise RequestError(f"{unknown[0]!r}: flags begin with --{allowed}")
            return main(argv)
        except (RequestError, RunError, OSError) as error:
            status = say(error)
        except KeyboardInterrupt:
            status = 130
        # The error is gone, and now the pipelines that its frames held: one that still decodes with
        # Python when the interpreter ends would wait for it forever.
        gc.collect()
        raise SystemExit(status)

    app.run(guarded, flags_parser=parse)


def _flag_error(error: Exception, argv: list[str], names: Sequence[str]) -> RequestError:
    """What is wrong with the command line or the configuration file, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    where = [arg for arg in ("--config", *argv) if re.match(r"--?config(=|$)", arg)][-1]
    if isinstance(error, flags.Error | flags.IllegalFlagValueError) and len(lines) == 1:
        return RequestError(last.removeprefix("flag "))
    if isinstance(error, AttributeError | KeyError):
        if "'get_config'" in last:
            return RequestError(f"{where}: has no function get_config()")
        words = re.findall(r"\w+", str(error).replace("\\n", " "))
        for arg in argv:
            parts = re.sub(r"^--?(no)?config\.|=.*", "", arg).split(".")
            if arg.lstrip("-").startswith(("config.", "noconfig.")) and words[0] in parts:
                return RequestError(f"{arg}: {no_such_key('.'.join(parts), names)}")
    if isinstance(error, SyntaxError | ImportError | NameError):
        last = f"{type(error).__name__}: {last}"
    return RequestError(f"{where}: {last}")


def use_utf8() -> None:
    """Starts this process's program again in Python's UTF-8 mode, where names aren't UTF-8.

    In an ASCII locale that isn't coerced TensorFlow and JSON would see other names than the disk.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def settle() -> None:
    """Makes the terminal and libraries' logs as commands need them, whatever others left.

    What a terminal can't show is escaped, and Matplotlib draws without a notebook's windows.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ["MPLBACKEND"] = "agg"
    if not os.environ.get(LOGS):
        os.environ.update(_SILENT)
        for name in ("TF_CPP_MAX_VLOG_LEVEL", "TF_CPP_VMODULE", "GRPC_TRACE"):
            os.environ.pop(name, None)


def settle_keras(backends: Sequence[str] = ("tensorflow",)) -> None:
    """Says which backend Keras is to run on, before it is imported; keras.json doesn't count.

    Args:
        backends: that the command runs on, the first of them by default.

    Raises:
        RequestError: if KERAS_BACKEND is another, or keras.json is one that Keras fails on.
    """
    backend = os.environ.get("KERAS_BACKEND") or backends[0]
    if backend not in backends:
        allowed = " or ".join(backends)
        raise RequestError(f"KERAS_BACKEND={backend}: must be {allowed} for this command")
    os.environ["KERAS_BACKEND"] = backend
    for name in ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH", "KERAS_NNX_ENABLED"):
        os.environ.pop(name, None)
    home = os.path.expanduser("~")
    home = os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    path = os.path.join(os.path.expanduser(os.environ.get("KERAS_HOME", home)), "keras.json")
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: can't be read, and Keras reads it: {error}") from None
    except ValueError:
        return  # which Keras ignores
    good = {"floatx": _FLOATS, "image_data_format": ("channels_last", "channels_first")}
    if not isinstance(found, dict):
        raise RequestError(f"{path}: must be a JSON object")
    for key, allowed in good.items():
        if found.get(key, allowed[0]) not in allowed:
            raise RequestError(f"{path}: {key}={found[key]!r}: must be one of {', '.join(allowed)}")
    if not isinstance(found.get("epsilon", 1e-7), float):
        raise RequestError(f"{path}: epsilon={found['epsilon']!r}: must be a number such as 1e-7")
