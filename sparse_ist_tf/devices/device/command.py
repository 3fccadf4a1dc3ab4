"""The device's command: trains a subnet on a folder of pictures, which never leave it.

    python -m sparse_ist_tf.devices client --images=pictures/ --server=192.168.0.2:9092

The folder holds a folder of pictures per class. The server says which classes there are, how
pictures are masked, and with what they are encoded; the device masks and encodes them once. In each
round it gets a subnet, trains it, and sends back what training changed.
"""

import argparse
import hashlib
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence

from sparse_ist_tf.devices.device.pictures import Encoded, Pictures
from sparse_ist_tf.devices.device.subnet import Subnet, train_round
from sparse_ist_tf.devices.wire.engine import END, JOIN, TRAIN
from sparse_ist_tf.devices.wire.records import Answer, Joined, Member, Plan, Record
from sparse_ist_tf.errors import RequestError, RunError, say

AUTO = "auto"


class Device:
    """What a device does with letters.

    Args:
        pictures: its own.
        name: what the server calls it.
        capacity: its share of the neurons, above 0; 0 for what its speed tells.
    """

    def __init__(self, pictures: Pictures, name: str, capacity: float):
        self.pictures, self.name, self.capacity = pictures, name, capacity
        self.error: RequestError | RunError | None = None
        self.is_over = False
        self._joined: tuple[str, Encoded, Joined] | None = None
        self._subnet: tuple[str, Subnet] | None = None
        self.rounds = 0

    def handle(self, kind: str, content: bytes) -> bytes:
        """Answers a letter.

        Args:
            kind: of engine.
            content: a record's bytes.
        """
        try:
            record = Record.of_bytes(content)
        except RequestError as error:
            self.error, self.is_over = error, True
            return Record({}, {}).to_bytes()
        if kind == JOIN:
            return self._join(record, content).to_record().to_bytes()
        if kind == TRAIN:
            return self._train(record).to_record().to_bytes()
        if kind == END:
            self.is_over = True
            if refusal := record.facts.get("refusal"):
                self.error = RunError(f"the server sends this device away: {refusal}")
        return Record({}, {}).to_bytes()

    def _join(self, record: Record, content: bytes) -> Member:
        try:
            joined, digest = Joined.of_record(record), hashlib.sha256(content).hexdigest()
            self.pictures.check(joined.class_names)
            if not self._joined or self._joined[0] != digest:  # else the server was away
                self._joined = digest, self.pictures.encode(joined, _show), joined
        except RequestError as error:
            self.error, self.is_over = error, True
            return Member(name=self.name, refusal=str(error))
        encoded = self._joined[1]
        counts = [0] * len(joined.class_names)
        for label in encoded.labels:
            counts[label] += 1
        print(f"has come: {len(encoded.labels):,} pictures of {len(counts)} classes", flush=True)
        speed = encoded.speed if not self.capacity else 0.0
        return Member(self.name, tuple(counts), self.capacity, speed)

    def _train(self, record: Record) -> Answer:
        facts = record.facts
        try:
            plan = Plan.of_record(record)
            if not self._joined:
                raise RequestError("has no pictures encoded")
            _, encoded, joined = self._joined
            subnet = self._subnet_of(plan)
            if subnet.batch_size != joined.batch_size:
                raise RequestError(f"the file's batches are of {subnet.batch_size}")
            answer = train_round(plan, subnet, encoded.features, encoded.labels)
        except (RequestError, RunError) as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)
            round_, subnet_ = (int(facts.get(name, -1)) for name in ("round", "subnet"))
            return Answer(round_, subnet_, of="", refusal=str(error))
        self.rounds += 1
        steps = len(plan.rates)
        seen = steps * subnet.batch_size
        print(
            f"round {plan.round}: subnet {plan.subnet}, {steps} steps in {answer.seconds:.2f} s, "
            f"loss {answer.loss:.3f}, accuracy {answer.right / max(1, seen):.3f}",
            flush=True,
        )
        return answer

    def _subnet_of(self, plan: Plan) -> Subnet:
        from sparse_ist_tf.export.training.runtime import Trainable

        if plan.content:
            if hashlib.sha256(plan.content).hexdigest() != plan.file:
                raise RequestError("the training file isn't the one that was named")
            self._subnet = plan.file, Trainable(plan.content)
        if not self._subnet or self._subnet[0] != plan.file:
            raise RequestError("the training file that was named isn't here")
        return self._subnet[1]


def _show(done: int, count: int) -> None:
    if done == count or done % 500 == 0:
        print(f"encoded {done:,} of {count:,} pictures", flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise RequestError(message)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m sparse_ist_tf.devices client",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    host = socket.gethostname()
    parser.add_argument("--images", required=True, metavar="FOLDER", help="a folder per class")
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="where it listens")
    parser.add_argument(
        "--capacity",
        default="1",
        help="share of the neurons beside the others', such as 2; auto: by its speed",
    )
    parser.add_argument("--name", default=host, help="what the server calls it; the host's")
    parser.add_argument(
        "--authority", default="", metavar="PEM", help="who signed the server's certificate: TLS"
    )
    parser.add_argument(
        "--key", default="", metavar="FILE", help="private key that was registered: ssh-keygen's"
    )
    parser.add_argument(
        "--patience_s", type=float, default=600.0, help="seconds that the server is looked for"
    )
    return parser.parse_args(argv)


def _capacity(text: str) -> float:
    if text == AUTO:
        return 0.0
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e6:
        raise RequestError(f"--capacity={text}: must be a number above 0, or {AUTO}")
    return found


def _check_address(text: str) -> None:
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:/\s]+):(\d{1,5})", text)
    if not match or not 0 < int(match[2]) < 1 << 16:
        raise RequestError(f"--server={text}: must be HOST:PORT, such as 192.168.0.2:9092")


def _require_flower() -> None:
    try:
        import flwr  # noqa: F401
    except ModuleNotFoundError:
        raise RequestError("devices need Flower: pip install 'flwr>=1.42,<1.43'") from None


def main(argv: Sequence[str]) -> int:
    """The command.

    Args:
        argv: behind "client".

    Returns:
        The exit status.
    """
    device = None
    try:
        options = _options(argv)
        capacity = _capacity(options.capacity)
        _check_address(options.server)
        pictures = Pictures(options.images)
        _require_flower()
        from sparse_ist_tf.devices.device.supernode import SuperNode

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        device = Device(pictures, options.name, capacity)
        node = SuperNode(options.server, options.authority, options.key, options.patience_s)
        print(f"looks for the server at {options.server}", flush=True)
        try:
            node.run(device.handle, lambda: device.is_over)
        finally:
            node.leave()
        if device.error:
            raise device.error
        print(f"the training is over; this device took part in {device.rounds:,} rounds")
        return 0
    except (RequestError, RunError, OSError) as error:
        return say(error)
    except KeyboardInterrupt:
        os.write(2, b"stopped; the same command comes back\n")
        return 130
