"""Who is there: devices that came, which subnet each of them has, and who was sent away."""

import dataclasses
from collections.abc import Callable, Sequence

from sparse_ist_tf.devices.rounds.checking import RefusedError
from sparse_ist_tf.devices.rounds.journal import Journal
from sparse_ist_tf.devices.wire.engine import END, JOIN, Engine, Letter
from sparse_ist_tf.devices.wire.records import Joined, Member, Record
from sparse_ist_tf.errors import RequestError, printable

_NAME = 64  # characters of a device's name
STRIKES = 3  # bad answers behind each other, after which a device is sent away


@dataclasses.dataclass
class Device:
    """A device that takes part.

    Args:
        node: its number in the engine.
        name: what lines and reports call it.
        member: what it said of itself.
        subnet: that it has; None while it waits for one.
        files: digests of the training files that it was sent.
        strikes: bad answers behind each other.
    """

    node: int
    name: str
    member: Member
    subnet: int | None = None
    files: set[str] = dataclasses.field(default_factory=set)
    strikes: int = 0


class Crew:
    """Devices that came and are still there.

    Args:
        engine: that reaches them.
        journal: where it is noted what was seen of them.
        joined: what a device is told when it comes.
        num_subnets: N, the most that train at a time; more wait until one goes.
    """

    def __init__(self, engine: Engine, journal: Journal, joined: Joined, num_subnets: int):
        self.engine, self.journal, self.num_subnets = engine, journal, num_subnets
        self._classes = len(joined.class_names)
        self._welcome = joined.to_record().to_bytes()
        self._greeted: set[int] = set()
        self.devices: dict[int, Device] = {}
        self._least = 0  # devices before which none gets a subnet

    def look(self, where: str) -> list[Letter]:
        """Greets who has come, and forgets who has gone.

        Args:
            where: what lines of refusals begin with.

        Returns:
            What has come beside what devices said of themselves.
        """
        here, letters = self.engine.nodes(), []
        for node in set(self.devices) - here:
            gone = self.devices.pop(node)
            if gone.subnet is not None:
                print(f"{where}: device {gone.name} has gone", flush=True)
        self._greeted &= here
        for node in sorted(here - self._greeted):
            self._greeted.add(node)
            self.engine.send(node, JOIN, self._welcome)
        for letter in self.engine.receive():
            if letter.kind == JOIN:
                self._join(letter, where)
            elif letter.kind != END:
                letters.append(letter)
        self._give_subnets(where)
        return letters

    def at_work(self) -> dict[int, Device]:
        """Devices by the subnet that they have."""
        have = {d.subnet: d for d in self.devices.values() if d.subnet is not None}
        return dict(sorted(have.items()))

    def wait_for(self, least: int, where: str, pause: Callable[[], None]) -> list[Letter]:
        """Waits until so many devices have a subnet; as look.

        Args:
            least: how many.
            where: as look.
            pause: a short one.
        """
        self._least, shown, letters = least, -1, self.look(where)
        while len(self.at_work()) < least:
            if (count := len(self.devices)) != shown:
                print(f"{where}: waits for devices, {count} of {least} are here", flush=True)
                shown = count
            pause()
            letters += self.look(where)
        return letters

    def strike(self, device: Device, error: RefusedError, where: str) -> None:
        """Notes a bad answer; at the third behind each other the device is sent away."""
        self.journal.refuse(device.name, error, where)
        device.strikes += 1
        if device.strikes >= STRIKES:
            self._dismiss(device, f"{STRIKES} bad answers behind each other", where)

    def end(self, why: str) -> None:
        """Tells all devices that no more rounds come."""
        for node in self.engine.nodes():
            self.engine.send(node, END, Record({"why": why}, {}).to_bytes())

    def _dismiss(self, device: Device, why: str, where: str) -> None:
        print(f"{where}: device {device.name} is sent away: {why}", flush=True)
        self.engine.send(device.node, END, Record({"refusal": why}, {}).to_bytes())
        self.devices.pop(device.node, None)

    def _join(self, letter: Letter, where: str) -> None:
        name = f"{letter.node}"
        if letter.error:  # it had gone; where it is here again it is greeted again
            self._greeted.discard(letter.node)
            return
        try:
            record = Record.of_bytes(letter.content)
            name = printable(str(record.facts.get("name", "")))[:_NAME] or name
            member = Member.of_record(record)
            if member.refusal:
                text = printable(" ".join(member.refusal.split()))[:300]
                raise RefusedError("no member", f"can't take part: {text}")
            if len(member.counts) != self._classes:
                text = f"has {len(member.counts)} classes, must have {self._classes}"
                raise RefusedError("no member", text)
            if not sum(member.counts):
                raise RefusedError("no member", "has no images")
        except RequestError as error:
            self.journal.refuse(name, RefusedError("no member", f"says: {error}"), where)
            return
        except RefusedError as error:
            self.journal.refuse(name, error, where)
            return
        taken, number = {d.name for d in self.devices.values()}, 2
        unique = name
        while unique in taken:
            unique, number = f"{name}-{number}", number + 1
        self.devices[letter.node] = Device(letter.node, unique, member)
        self.journal.of_device(unique).images = sum(member.counts)

    def _give_subnets(self, where: str) -> None:
        """Free subnets to those that wait: first to those that had them, then by their names.

        At the beginning only when all are there, so that who comes first changes nothing.
        """
        if len(self.devices) < self._least:
            return
        free = sorted(set(range(self.num_subnets)) - set(self.at_work()))
        waiting = [d for d in self.devices.values() if d.subnet is None]
        had = self.journal.slots
        waiting.sort(key=lambda d: (had.get(d.name, -1) not in free, d.name))
        for device in waiting[: len(free)]:
            last = had.get(device.name, -1)
            device.subnet = last if last in free else free[0]
            free.remove(device.subnet)
            had[device.name] = device.subnet
            images = sum(device.member.counts)
            text = f"device {device.name} has subnet {device.subnet}, {images:,} images"
            print(f"{where}: {text}", flush=True)


def shares_of(devices: Sequence[Device]) -> tuple[float, ...]:
    """Capacities of subnets by what their devices said, a measured speed where they left it open.

    Speeds and numbers that devices gave themselves don't mix: a device without either has what the
    others have in the mean.
    """
    given = [device.member.capacity for device in devices]
    speeds = [
        device.member.speed if not share else 0.0
        for device, share in zip(devices, given, strict=True)
    ]
    known = [speed for speed in speeds if speed > 0]
    usual = sum(known) / len(known) if known else 1.0
    stated = [share for share in given if share > 0]
    mean = sum(stated) / len(stated) if stated else 1.0
    return tuple(
        share or mean * (speed or usual) / usual for share, speed in zip(given, speeds, strict=True)
    )
