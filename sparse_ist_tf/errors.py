"""The two ways in which a command ends badly, and what it says without ending."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator


class RequestError(ValueError):
    """A request that can't be met as it stands: commands print it and exit with status 2."""


class RunError(RuntimeError):
    """A failure while a good request was carried out: commands print it and exit with status 1."""


class BadImageError(RunError):
    """An image that can't be read."""


def warn(text: str) -> None:
    """Prints what the user should know of work that goes on, as one line on stderr."""
    print(f"warning: {' '.join(text.split())}", file=sys.stderr, flush=True)


def say(error: BaseException) -> int:
    """Prints an error as one line on stderr; returns 2 for a bad request, 1 for a failure."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return 2 if isinstance(error, RequestError) else 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps off stderr what libraries in C++ log, of TensorFlow while it is imported and of LiteRT.

    Exceptions come through; so does Python's own output from other threads once this is over.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a message about a word that isn't known.

    Returns:
        A question with the word that is nearest, in parentheses; "" where none is near.
    """
    near = difflib.get_close_matches(word, words, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def printable(text: str) -> str:
    r"""A name from a disk as one line that any terminal takes.

    Returns:
        With control characters, line separators and bytes that are no UTF-8 as escapes.

    Example:
        >>> from sparse_ist_tf.errors import printable
        >>> print(printable("a" + chr(10) + "b.png"))
        a\nb.png
    """
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte, as os.fsdecode has it
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
