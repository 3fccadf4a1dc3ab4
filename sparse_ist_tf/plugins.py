"""Other people's modules, which add to the package's tables while they are imported."""

import importlib
import importlib.util
import sys
from pathlib import Path

from absl import flags

from sparse_ist_tf.errors import RequestError


def define_flag() -> None:
    """Defines --plugin, whose modules load_plugins() imports."""
    flags.DEFINE_list(
        "plugin",
        [],
        "Modules or .py files to import first, which register algorithms, encoders or targets.",
    )


def load_plugins() -> None:
    """Imports what --plugin names, as load_plugin() does."""
    for name in flags.FLAGS.plugin:
        load_plugin(name)


def load_plugin(name: str) -> None:
    """Imports a module.

    Args:
        name: of a module, such as "mine.targets", or the path of a .py file.

    Raises:
        RequestError: if it can't be imported.
    """
    try:
        if not name.endswith(".py"):
            importlib.import_module(name)
            return
        spec = importlib.util.spec_from_file_location(Path(name).stem, name)
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up while they are made.
        sys.modules.setdefault(spec.name, module)
        spec.loader.exec_module(module)
    except RequestError:
        raise
    except Exception as error:  # a plugin is a program
        raise RequestError(f"plugin={name!r}: {type(error).__name__}: {error}") from None
