"""How every command starts and ends."""

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
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
        except Exception as error:
            raise SystemExit(say(_flag_error(error, argv, names))) from None

    def guarded(argv):
        backend = os.environ.get("KERAS_BACKEND") or backends[0]
        try:
            if backend not in backends:
                allowed = " or ".join(backends)
                raise RequestError(f"KERAS_BACKEND={backend}: must be {allowed} for this command")
            if unknown := [word for word in argv[1:] if word not in words]:
                allowed = f"; must be some of {', '.join(words)}" if words else ""
                raise RequestError(f"{unknown[0]!r}: flags begin with --{allowed}")
            return main(argv)
        except (RequestError, RunError, OSError) as error:
            raise SystemExit(say(error)) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None

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
