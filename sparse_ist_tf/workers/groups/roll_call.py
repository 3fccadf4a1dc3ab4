"""Who is there: before a group of workers meets, its chief says who is in it.

Every worker asks the chief at its address, again and again, until the chief has seen all, or has
waited long enough, and names those who take part. Their processes meet then as workers always do;
only those of one roll call meet. Who comes later asks in vain, and waits; the chief finds it at its
address and may end the group behind a round, to call all again.
"""

import dataclasses
import json
import os
import time
from collections.abc import Collection

from sparse_ist_tf.errors import RunError, warn
from sparse_ist_tf.workers.agreement import Facts, disagreement
from sparse_ist_tf.workers.cluster import Cluster, listen_at
from sparse_ist_tf.workers.meeting import UNMET, Greeting, Reception, greet

_OCCASION = "roll call"
_MEMBERS, _NAME, _LATE = "members", "name of the call", "comes later"
_ASK_S = 0.3  # between two questions to a chief that calls
_BUSY_S = 1.0  # to one that doesn't
_FRESH_S = 4.0  # who hasn't asked for longer is gone
_TELLING_S = 10.0
_GREETING_S = 5.0
_LOOK_S = 1.0
_ENDING_S = 10.0  # so long a chief may take to notice that it has lost a worker, too


@dataclasses.dataclass(frozen=True)
class Call:
    """Who takes part.

    Args:
        members: indices of workers, ascending.
        name: which no other call has.
    """

    members: tuple[int, ...]
    name: str


class RollCall:
    """One worker's part in the calls of a run.

    Args:
        cluster: all workers, and this one's place.
        facts: what this worker is asked to do.
        peer_timeout_s: seconds that the chief waits for all in its first call, and that others
            look for a chief that isn't there.
        wait_s: seconds that the chief waits in later calls.
    """

    def __init__(self, cluster: Cluster, facts: Facts, peer_timeout_s: float, wait_s: float):
        self.cluster, self.facts = cluster, facts
        self.peer_timeout_s, self.wait_s = peer_timeout_s, wait_s
        self._greeting = Greeting(cluster.worker, os.urandom(8).hex(), facts, _OCCASION)
        self._patience_s = peer_timeout_s
        self._warned: set[int] = set()

    def call(self, is_late: bool = False) -> Call:
        """Finds out who takes part in the next group, this worker included.

        Args:
            is_late: take part once the others have got further, not at once; not for the chief.

        Raises:
            RunError: if there is no chief, or this worker's port is taken.
        """
        address = self.cluster.addresses[self.cluster.worker]
        try:
            listener = listen_at(address)
        except OSError as error:
            reason = error.strerror or error
            raise RunError(
                f"worker {self.cluster.worker} can't listen at {address}: {reason}"
            ) from None
        with Reception(listener, self._greeting) as reception:
            if self.cluster.worker:
                return self._ask(reception, is_late)
            return self._call(reception)

    def _call(self, reception: Reception) -> Call:
        deadline = time.monotonic() + self._patience_s
        self._patience_s, peers = self.wait_s, self.cluster.peers()
        while True:
            fresh = time.monotonic() - _FRESH_S
            newest = {i: reception.newest[i] for i in peers if i in reception.newest}
            seen = {i: said for i, (when, said, _) in newest.items() if when > fresh}
            if len(seen) == len(peers) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        members = [0, *sorted(i for i, said in seen.items() if _LATE not in said.facts)]
        call = Call(tuple(members), os.urandom(8).hex())
        word = {**self.facts, _MEMBERS: json.dumps(members), _NAME: call.name}
        reception.mine = dataclasses.replace(self._greeting, facts=word)
        deadline = time.monotonic() + _TELLING_S
        while time.monotonic() < deadline:
            if all(reception.newest[i][2] is reception.mine for i in members[1:]):
                break
            time.sleep(0.05)
        return call

    def _ask(self, reception: Reception, is_late: bool) -> Call:
        """Asks the chief until it names this worker."""
        begun = met = time.monotonic()
        is_told = False
        late = dataclasses.replace(self._greeting, facts={**self.facts, _LATE: "yes"})
        while time.monotonic() - met < self.peer_timeout_s:
            if 0 in reception.newest:  # it looks for those who come later
                is_late = False
            mine = late if is_late else self._greeting
            answer = greet(mine, self.cluster.addresses[0], time.monotonic() + _GREETING_S)
            if answer:
                met = time.monotonic()
            if isinstance(answer, Greeting) and answer.worker == 0:
                call = _call_in(answer.facts)
                if self.cluster.worker in call.members:
                    return call
            elif answer and not is_told and met - begun > _ENDING_S:
                is_told = True
                warn(f"worker {self.cluster.worker} waits until the run takes it in")
            time.sleep(_ASK_S if isinstance(answer, Greeting) else _BUSY_S)
        raise RunError(
            f"worker {self.cluster.worker} can't reach worker 0 ({self.cluster.addresses[0]}) "
            f"{UNMET}{self.peer_timeout_s:g} s"
        )

    def someone_waits(self, members: Collection[int]) -> bool:
        """Whether a worker that doesn't take part would; asked by the chief.

        Args:
            members: those who do.
        """
        found = False
        for i, address in self.cluster.peers().items():
            if i in members:
                continue
            answer = greet(self._greeting, address, time.monotonic() + _LOOK_S)
            if not isinstance(answer, Greeting) or answer.worker != i:
                continue
            difference = disagreement([self.facts, answer.facts])
            if difference and i not in self._warned:
                self._warned.add(i)
                warn(f"worker {i} ({address}) isn't taken in: {difference}")
            found |= not difference
        return found


def _call_in(facts: Facts) -> Call:
    """The call that a chief's answer names; nobody takes part in it where it names none."""
    try:
        return Call(tuple(map(int, json.loads(facts[_MEMBERS]))), facts[_NAME])
    except (KeyError, ValueError, TypeError):
        return Call((), "")
