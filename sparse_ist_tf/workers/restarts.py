"""How often workers that died start again."""

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
        self.left, self._progress = left, progress
        self._seen: object = None
        self._vain = -1  # the first failure is behind no restart

    def take(self) -> bool:
        """Takes one, unless none is left or the last ones were in vain."""
        now = self._progress()
        self._vain = self._vain + 1 if self._vain < 0 or now == self._seen else 0
        self._seen = now
        if not self.left or self._vain >= _VAIN:
            return False
        self.left -= 1
        return True


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
