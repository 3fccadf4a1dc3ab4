"""How often workers that died start again, and how many of them."""

from collections.abc import Callable

from absl import flags

from sparse_ist_tf.workers.stopping import GRACE_S

_VAIN = 2  # restarts in a row that bring the run no further, behind which no more follow


class Restarts:
    """How often workers that died may start again.

    Source: the restarts of https://pytorch.org/docs/stable/elastic/run.html, where the whole group
    meets again, too.

    Args:
        left: restarts that are left.
        progress: tells how far the run is, by something that changes when it comes further.
    """

    def __init__(self, left: int, progress: Callable[[], object]):
        self.left, self.progress = left, progress
        self._seen: object = None
        self._vain = -1  # the first failure is behind no restart

    def take(self) -> bool:
        """Takes one, unless none is left or the last ones were in vain."""
        now = self.progress()
        self._vain = self._vain + 1 if self._vain < 0 or now == self._seen else 0
        self._seen = now
        if not self.left or self._vain >= _VAIN:
            return False
        self.left -= 1
        return True


class Crew:
    """How many workers go on together: all of them, or, where that is allowed, who is left.

    Those that are left start from the last checkpoint; once they have got further, all start again.
    Where all together have lost a worker twice in a row before they got further, as where one has
    too little memory, those that are left go on for good.

    Args:
        full: the number of all workers.
        progress: as of Restarts; None where all must be there.
    """

    def __init__(self, full: int, progress: Callable[[], object] | None):
        self.full = self.now = full
        self._progress = progress
        self._at: object = None
        self._vain = 0

    @property
    def is_elastic(self) -> bool:
        """Whether fewer than all may go on."""
        return self._progress is not None

    def begin(self, now: int) -> None:
        """Some workers begin together.

        Args:
            now: how many, of all.
        """
        self.now, self._at = now, self._progress and self._progress()

    def lose(self, count: int) -> str:
        """Some are gone.

        Args:
            count: how many at least.

        Returns:
            Who starts again, in words.
        """
        if self._progress is None:
            return "all workers start again from the last checkpoint"
        if self.now == self.full:
            self._vain = self._vain + 1 if self._progress() == self._at else 0
        self.now = max(1, self.now - count)
        how = " for good, as all came no further" if self._is_for_good() else ""
        return f"{self.now} of {self.full} workers go on from the last checkpoint{how}"

    def _is_for_good(self) -> bool:
        return self._vain >= _VAIN

    def is_due(self) -> bool:
        """Whether fewer than all have got so far that all may start again."""
        if self._progress is None or self.now == self.full or self._is_for_good():
            return False
        return self._progress() != self._at


def define_restart_flags() -> None:
    """Defines the flags of what happens when workers die or are asked to end."""
    flags.DEFINE_integer(
        "max_restarts",
        3,
        "How often local workers start again, from the last checkpoint, when one of them dies.",
        lower_bound=0,
    )
    flags.DEFINE_float(
        "grace_s",
        GRACE_S,
        "Seconds that a round and its checkpoint may take when SIGTERM, SIGHUP or Ctrl-C ends a "
        "training; less than what Kubernetes or Slurm wait before SIGKILL.",
        lower_bound=0.0,
    )


def define_elastic_flags() -> None:
    """Defines the flags of going on without workers that are lost."""
    flags.DEFINE_boolean(
        "elastic",
        False,
        "Go on with the workers that are left where one is lost, and take it back once they have "
        "written a checkpoint.",
    )
    flags.DEFINE_float(
        "elastic_wait_s",
        30.0,
        "Seconds that the first worker of TF_CONFIG waits for a lost one to come back before the "
        "others go on; at its start it waits cluster.peer_timeout_s.",
        lower_bound=0.0,
    )
