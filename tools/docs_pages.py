"""Pages of the documentation that come from the code: the API by room, and configuration keys.

A hook of mkdocs, see mkdocs.yml.
"""

import contextlib
import importlib
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from house import PACKAGE, ROOMS, Source, read_sources  # noqa: E402
from whole_package import whole_package  # noqa: E402

from sparse_ist_tf.keys import as_markdown  # noqa: E402

_open = contextlib.ExitStack()


def rooms() -> dict[str, list[Source]]:
    """The files of each room, from left to right; such as hold nothing to import are left out."""
    sources = [source for source in read_sources(ROOT) if not source.path.endswith("__main__.py")]
    return {
        room: [source for source in sources if source.place.split("/")[0] == room] for room in ROOMS
    }


@event_priority(100)  # before mkdocstrings reads its options
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Shows mkdocstrings the package, and adds the rooms to the navigation."""
    handlers = config.plugins["mkdocstrings"].config.handlers
    handlers["python"]["paths"] = [str(_open.enter_context(whole_package()))]
    pages = [{room: f"api/{room}.md"} for room in rooms()]
    config.nav.append({"API": ["api/index.md", *pages]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each room, and one that lists them."""
    index = "# API\n\nRooms from left to right; a room imports only from those before it.\n\n"
    index += "| room | modules |\n|---|---|\n"
    for room, sources in rooms().items():
        names, page = [], f"# {room}\n"
        for source in sources:
            names.append(".".join([PACKAGE, source.module]).rstrip("."))
            # What a room's face passes on is shown where it is made.
            options = "    options: { members: false }\n" * source.path.endswith("__init__.py")
            page += f"\n::: {names[-1]}\n{options}"
        files.append(File.generated(config, f"api/{room}.md", content=page))
        links = (f"[`{name.removeprefix(PACKAGE + '.')}`]({room}.md#{name})" for name in names)
        index += f"| [{room}]({room}.md) | {', '.join(links)} |\n"
    files.append(File.generated(config, "api/index.md", content=index))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts a table of keys where a line says "{{ keys of MODULE }}"."""
    return re.sub(r"^{{ keys of ([\w.]+) }}$", _keys, markdown, flags=re.MULTILINE)


def _keys(match: re.Match[str]) -> str:
    return as_markdown(importlib.import_module(match[1]).table())


def on_shutdown() -> None:
    """Removes the copy."""
    _open.close()
