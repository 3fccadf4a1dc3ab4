"""The two ways in which a command ends badly, and what it says without ending."""

import sys


class RequestError(ValueError):
    """A request that can't be met as it stands: commands print it and exit with status 2."""


class RunError(RuntimeError):
    """A failure while a good request was carried out: commands print it and exit with status 1."""


def warn(text: str) -> None:
    """Prints what the user should know of work that goes on, as one line on stderr.

    Args:
        text: what happened, to what.
    """
    print(f"warning: {' '.join(text.split())}", file=sys.stderr, flush=True)
