"""What carries records between the server and its devices, whoever does it."""

from typing import NamedTuple, Protocol

JOIN, TRAIN, END = "join", "train", "end"  # what a letter asks for


class Letter(NamedTuple):
    """What a device answered.

    Args:
        node: its number.
        kind: of the letter that it answers.
        content: a record's bytes, whatever came of them.
        error: why nothing came, in one line; empty where something did.
    """

    node: int
    kind: str
    content: bytes
    error: str = ""


class Engine(Protocol):
    """Carries records; `rounds.superlink.SuperLink` does it with Flower."""

    def nodes(self) -> set[int]:
        """Devices that can be reached now."""

    def send(self, node: int, kind: str, content: bytes) -> None:
        """Sends a device a letter; what it answers comes with receive()."""

    def receive(self) -> list[Letter]:
        """What has come since the last call."""
