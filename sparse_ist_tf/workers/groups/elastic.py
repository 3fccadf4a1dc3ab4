"""A worker of TF_CONFIG that goes on without those who are lost, and takes them back.

TensorFlow can't change the number of workers within a process: this process starts another one for
each group that its worker is part of, and the group goes on from the last checkpoint.

Source: the agents of https://pytorch.org/docs/stable/elastic/run.html.
"""

import sys
from collections.abc import Callable, Sequence

from sparse_ist_tf.errors import warn
from sparse_ist_tf.workers.cluster import OCCASION, Cluster
from sparse_ist_tf.workers.groups.group import LOST, REGROUPED, Asked, Failure, Group
from sparse_ist_tf.workers.groups.restarts import Crew, Restarts
from sparse_ist_tf.workers.groups.roll_call import Call, RollCall
from sparse_ist_tf.workers.launch import environment_of_worker
from sparse_ist_tf.workers.meeting import UNMET
from sparse_ist_tf.workers.stopping import SIGNALS, stopped_line

_OWN_ENDS = 2  # of this worker's processes, behind which it comes back later than the others


class ElasticWorker:
    """Starts a worker's process for one group after another, until the run is trained.

    Args:
        command: of the worker, which finds its place in TF_CONFIG.
        roll_call: tells who takes part.
        restarts: of all groups together.
        grace_s: seconds that the worker takes at most to end behind its round.
        is_trained: whether nothing is left but what the chief does alone.
    """

    def __init__(
        self,
        command: Sequence[str],
        roll_call: RollCall,
        restarts: Restarts,
        grace_s: float,
        is_trained: Callable[[], bool],
    ):
        self.command, self.roll_call, self.restarts = command, roll_call, restarts
        self.grace_s, self.is_trained = grace_s, is_trained
        self.cluster: Cluster = roll_call.cluster
        self._all = Call(tuple(range(self.cluster.num_workers)), "")
        self._crew = Crew(self.cluster.num_workers, restarts.progress)
        self._own_ends, self._is_late, self._was_full = 0, False, True

    def run(self) -> int:
        """Returns the exit status of the last process."""
        with Asked() as asked:
            try:
                failure = self._run_groups(asked)
            except KeyboardInterrupt:  # while it waits for others
                print(stopped_line(asked.number), file=sys.stderr, flush=True)
                return 128 + asked.number
        return failure.tell() if failure else 0

    def _run_groups(self, asked: Asked) -> Failure | None:
        while True:
            call = self._all if self.is_trained() else self._next_call()
            failure = self._run_group(call, asked)
            if failure is None:
                return None
            ended_for_another = failure.status - 128 in SIGNALS and not asked.number
            if failure.status == REGROUPED or ended_for_another:
                continue
            if not (failure.num_lost and self.restarts.take()):
                return failure
            self._crew.lose(failure.num_lost)
            self._own_ends += failure.is_own
            self._is_late = failure.is_own and self._own_ends >= _OWN_ENDS
            left = f"{self.restarts.left} restarts left"
            warn(f"{failure.reason}; who is left goes on from the last checkpoint ({left})")

    def _next_call(self) -> Call:
        call = self.roll_call.call(self._is_late)
        self._is_late, is_full = False, call.members == self._all.members
        if not is_full:
            addresses = enumerate(self.cluster.addresses)
            gone = [f"worker {i} ({a})" for i, a in addresses if i not in call.members]
            left = f"{len(call.members)} of {self.cluster.num_workers} workers go on"
            warn(f"{left}, without {', '.join(gone)}")
        elif not self._was_full:
            warn(f"all {len(call.members)} workers go on from the checkpoint")
        self._was_full = is_full
        return call

    def _run_group(self, call: Call, asked: Asked) -> Failure | None:
        crew, is_chief = self._crew, self.cluster.worker == 0
        crew.begin(len(call.members))
        environment = environment_of_worker(self.cluster.tf_config(call.members))

        def is_due():
            return crew.is_due() and self.roll_call.someone_waits(call.members)

        with Group(asked, self.grace_s, self.cluster.worker, (LOST, UNMET)) as group:
            group.start(self.command, environment | {OCCASION: call.name})
            return group.wait(is_due if is_chief else None)
