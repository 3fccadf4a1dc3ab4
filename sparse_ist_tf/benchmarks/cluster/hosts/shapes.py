"""How thin a link is: its rate, its delay, its loss, and what follows from them."""

import dataclasses
import re

from sparse_ist_tf.errors import RequestError

UNSHAPED = "unshaped"
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_FORM = re.compile(
    r"(?P<rate>\d+(?:\.\d+)?)(?P<unit>kbit|mbit|gbit)|(?P<delay>\d+(?:\.\d+)?)ms|"
    r"(?P<loss>\d+(?:\.\d+)?)%"
)
_JUMBO_FROM = 50e6  # bit/s, from which fewer and larger frames keep the relay cheap
_ETHERNET = 14  # bytes before an IP packet
_QUEUE_S = 0.1  # how long a frame waits at most before it is dropped, beside a round trip


@dataclasses.dataclass(frozen=True)
class LinkShape:
    """How thin the link of each host is, in both directions alike.

    Args:
        rate: bit/s; 0 where nothing limits it.
        delay_s: seconds from a host to another, one way.
        loss: share of the frames between two hosts that are lost, in [0, 1).
    """

    rate: float = 0.0
    delay_s: float = 0.0
    loss: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "LinkShape":
        """The shape that a text such as 10mbit/20ms/1% names; its parts may be left out.

        Raises:
            RequestError: if it names none.
        """
        found: dict[str, float] = {}
        for part in [] if text == UNSHAPED else text.split("/"):
            match = _FORM.fullmatch(part)
            name = match.lastgroup if match else ""
            name = "rate" if name == "unit" else name
            value = float(match[name]) if match else 0.0
            if not match or name in found or not value or (name == "loss" and value >= 100):
                raise RequestError(
                    f"--links={text}: must be {UNSHAPED}, or some of a rate in kbit, mbit or gbit, "
                    "a delay in ms and a loss in %, such as 10mbit/20ms/1%"
                )
            found[name] = value * _UNITS.get(match["unit"], 1.0)
        return cls(
            found.get("rate", 0.0), found.get("delay", 0.0) / 1000, found.get("loss", 0.0) / 100
        )

    def __str__(self) -> str:
        unit, size = [u for u in _UNITS.items() if u[1] <= max(self.rate, 1e3)][-1]
        parts = [f"{self.rate / size:g}{unit}"] if self.rate else []
        parts += [f"{1000 * self.delay_s:g}ms"] if self.delay_s else []
        parts += [f"{100 * self.loss:g}%"] if self.loss else []
        return "/".join(parts) or UNSHAPED

    @property
    def is_unshaped(self) -> bool:
        """Whether nothing limits it."""
        return self == LinkShape()

    @property
    def needs_emulation(self) -> bool:
        """Whether frames are delayed or lost."""
        return bool(self.delay_s or self.loss)

    @property
    def mtu(self) -> int:
        """Bytes of the largest IP packet: a jumbo frame's where many frames have to be relayed."""
        is_fast = not self.rate or self.rate >= _JUMBO_FROM
        return 9000 if is_fast and self.needs_emulation and not self.loss else 1500

    def token_bucket(self) -> str:
        """Arguments of tc's tbf that limit the rate.

        The bucket holds 4 ms, two frames at least; the queue 100 ms and a round trip.
        """
        burst = max(2 * (self.mtu + _ETHERNET), round(self.rate / 8 * 0.004))
        limit = burst + round(self.rate / 8 * (_QUEUE_S + 2 * self.delay_s))
        return f"tbf rate {self.rate:.0f}bit burst {burst} limit {limit}"

    def least_seconds(self, sent: float) -> float:
        """The model of a round's exchange: bytes / rate, and a delay there and one back.

        Args:
            sent: bytes that the worker with the most sends in a round.
        """
        return (8 * sent / self.rate if self.rate else 0.0) + 2 * self.delay_s
