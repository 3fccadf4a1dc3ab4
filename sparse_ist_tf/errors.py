"""The two ways in which a command ends badly, and what it says without ending."""

import difflib
import sys
from collections.abc import Iterable


class RequestError(ValueError):
    """A request that can't be met as it stands: commands print it and exit with status 2."""


class RunError(RuntimeError):
    """A failure while a good request was carried out: commands print it and exit with status 1."""


def warn(text: str) -> None:
    """Prints what the user should know of work that goes on, as one line on stderr."""
    print(f"warning: {' '.join(text.split())}", file=sys.stderr, flush=True)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a message about a word that isn't known.

    Returns:
        A question with the word that is nearest, in parentheses; "" where none is near.
    """
    near = difflib.get_close_matches(word, words, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
