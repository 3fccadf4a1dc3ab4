"""How far work has come: a bar where a terminal shows it, else a plain line now and then.

A worker's output goes through its launcher, which says in its environment on which terminal it ends
up: the bar is as wide as that one is now.
"""

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from tqdm import tqdm
from tqdm.utils import disp_len

TERMINAL = "SPARSE_IST_TERMINAL"  # the launcher's, for workers
_EVERY_S = 5.0  # between plain lines
_REFRESH_S = 0.5  # of a bar
_NARROW = 100  # columns, below which the rate is left out
_SHORT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"
_BAR = 4  # columns, at least
_EDGE = 3  # columns, with room for a ^C
_COLUMNS = 80  # where nobody knows


def terminal() -> str:
    """The terminal that this process's stderr ends up on, as a path; "" where there is none."""
    with contextlib.suppress(OSError, ValueError):
        return os.ttyname(sys.stderr.fileno())
    return os.environ.get(TERMINAL, "")


def for_workers() -> Mapping[str, str]:
    """What workers whose output this process passes on have to find in their environment."""
    return {TERMINAL: terminal()}


def columns() -> int:
    """How wide the terminal is now; 80 where it doesn't say."""
    with contextlib.suppress(OSError):
        file = os.open(terminal(), os.O_RDONLY | os.O_NOCTTY)
        try:
            return os.get_terminal_size(file).columns or _COLUMNS
        finally:
            os.close(file)
    return _COLUMNS


def _short(rate):
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _form(width):
    return _SHORT if width < _NARROW else None


class Bar:
    """Shows on stderr how much of some work is done; a context that ends with the work.

    Args:
        total: how much there is.
        what: is done, such as "encoding digits/train".
        unit: of it, in the plural.
        initial: how much of it was done before.
        is_shown: nothing is where False.
        stays: the bar of a finished work stays on the terminal.
        delay_s: seconds before anything is shown.
    """

    def __init__(
        self,
        total: int,
        what: str,
        unit: str,
        *,
        initial: int = 0,
        is_shown: bool = True,
        stays: bool = True,
        delay_s: float = 0.0,
    ):
        self.total, self.what, self.unit, self.stays = total, what, unit, stays
        self.done, self.initial = initial, initial
        self._said: Sequence[str] = ()
        self._first: Sequence[str] = ()
        self._width = 0
        self._is_shown, self._began, self._delay_s = is_shown, time.monotonic(), delay_s
        self._told = self._began  # when something was last shown
        self._last = initial  # what was then done
        self._bar: tqdm | None = None
        if is_shown and terminal():
            self._bar = tqdm(
                total=total,
                initial=initial,
                desc=what,
                unit=f" {unit}",
                leave=stays,
                delay=delay_s,
                mininterval=_REFRESH_S,
                ncols=columns() - _EDGE,
                bar_format=_form(columns() - _EDGE),
                file=sys.stderr,
            )
            self._bar.dynamic_ncols = lambda _: (columns() - _EDGE, None)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._fit()
            self._bar.close()
        elif (
            self._is_shown and (self.stays or kind) and self.done not in (self.initial, self._last)
        ):
            self._tell(time.monotonic())

    def update(self, count: int, said: Sequence[str] = (), first: Sequence[str] = ()) -> None:
        """Says that more is done.

        Args:
            count: of it.
            said: what else is to be known, such as "loss 1.234"; as much is shown as fits.
            first: words with which that begins, by which it is kept where room is short.
        """
        self._first = first
        self.to(self.done + count, said)

    def to(self, done: int, said: Sequence[str] = ()) -> None:
        """Says how much is done now; what else is to be known as in update."""
        now = time.monotonic()
        count, self.done, self._said = done - self.done, done, said or self._said
        if self._bar is not None:
            if due := now - self._told >= _REFRESH_S:
                self._fit()
                self._told = now
            if count:
                self._bar.update(count)
            elif due:
                self._bar.refresh()
        elif self._is_shown and now - max(self._told, self._began + self._delay_s) >= _EVERY_S:
            self._tell(now)

    def _fit(self) -> None:
        """Lets the bar have what there is room for."""
        bar, width = self._bar, columns() - _EDGE
        if width < self._width:  # tqdm would wipe what was there, beyond the terminal's edge
            bar.sp = bar.status_printer(sys.stderr)
        self._width = width
        bar.bar_format = _form(width)
        known = {**bar.format_dict, "ncols": None, "n": self.done}
        known["bar_format"] = (bar.bar_format or "{l_bar}{bar}{r_bar}").replace("{bar}", "")
        words = [part.split()[0] for part in self._said]
        wanted = [words.index(word) for word in self._first if word in words]
        chosen: list[int] = []
        for place in dict.fromkeys([*wanted, *range(len(words))]):
            more = sorted([*chosen, place])
            known["postfix"] = ", ".join(self._said[i] for i in more)
            if disp_len(bar.format_meter(**known)) + _BAR <= width:
                chosen = more
        bar.set_postfix_str(", ".join(self._said[i] for i in chosen), refresh=False)

    def _tell(self, now: float) -> None:
        """Writes a plain line."""
        self._told, self._last, seconds = now, self.done, now - self._began
        rate = (self.done - self.initial) / seconds if seconds > 0 else 0.0
        share = f"{100 * self.done // max(1, self.total)}%"
        parts = [
            f"{self.what}: {share}, {self.done:,} of {self.total:,}, {_short(rate)} {self.unit}/s"
        ]
        if rate and self.done < self.total:
            parts.append(f"{tqdm.format_interval((self.total - self.done) / rate)} left")
        print(", ".join([*parts, *self._said]), file=sys.stderr, flush=True)
