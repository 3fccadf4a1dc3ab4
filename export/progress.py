"""What export shows while it works: which file, how many, and the time that is left."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

_EVERY_S = 5.0  # between lines where there is no terminal
_FORM = "{percentage:3.0f}%|{bar:12}| {elapsed}<{remaining} {desc}"


class FileBar:
    """A bar over files on a terminal, elsewhere a line now and then; both go to stderr.

    Args:
        weights: by the files' names, in order, how much work each is.
        shown: whether anything is.
    """

    def __init__(self, weights: Mapping[str, float], shown: bool = True):
        self._weights, self._shown = dict(weights), shown
        self._total, self._done = sum(weights.values()), 0.0
        self._name = ""
        self._started, self._printed = time.monotonic(), float("-inf")
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total, bar_format=_FORM, leave=False, dynamic_ncols=True, mininterval=0
            )

    def begin(self, name: str) -> None:
        """Says which file comes now; the one before is done."""
        if self._name:
            self.advance(1.0)
        self._name, number = name, list(self._weights).index(name) + 1
        self._say(f"{number}/{len(self._weights)} {name}")

    def advance(self, share: float) -> None:
        """How much of the file is done, in [0, 1]."""
        names = list(self._weights)
        before = sum(self._weights[name] for name in names[: names.index(self._name)])
        self._done = before + share * self._weights[self._name]
        if self._bar is not None:
            self._bar.n = self._done
            self._bar.refresh()

    def aside(self, report: Callable[[str], None], text: str) -> None:
        """Reports a line that stays."""
        if self._bar is not None:
            self._bar.clear()
        report(text)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_description_str(text)
            return
        now = time.monotonic()
        if self._shown and now - self._printed >= _EVERY_S:
            self._printed = now
            left = ""
            if self._done:
                seconds = (now - self._started) * (self._total / self._done - 1)
                left = f", about {seconds:,.0f} s left"
            print(f"{text}{left}", file=sys.stderr, flush=True)
