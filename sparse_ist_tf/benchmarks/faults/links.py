"""Drills of a link between two machines that goes down."""

import time
from collections.abc import Iterable

from sparse_ist_tf.benchmarks.faults.drill import Drill, Expected, Outcome
from sparse_ist_tf.benchmarks.faults.network import Network
from sparse_ist_tf.benchmarks.faults.processes import ends
from sparse_ist_tf.benchmarks.faults.trial import END_S, RUN_S, SHORT_S, Trial

_DOWN_S = 5.0


def drills() -> Iterable[Drill]:
    """The drills of this file."""
    yield Drill("link-5", f"link down for {_DOWN_S:g} s", Expected((0, 0)), _interrupt)
    yield Drill(
        "link-for-ever",
        "link down for good",
        Expected(
            (1, 1), r"lost (worker 1 \(10\.77\.0\.2:\d+\)).*lost (worker 0 \(10\.77\.0\.1:\d+\))"
        ),
        _cut,
        peer_timeout_s=SHORT_S,
    )


def _interrupt(trial: Trial) -> Outcome:
    with Network() as network:
        pair = trial.start_pair(network=network)
        trial.reach_checkpoint(pair)
        network.set_link(1, False)
        time.sleep(_DOWN_S)
        network.set_link(1, True)
        return trial.outcome(ends(pair, RUN_S), pair[0].told())


def _cut(trial: Trial) -> Outcome:
    with Network() as network:
        pair = trial.start_pair(network=network)
        trial.reach_checkpoint(pair)
        start = time.monotonic()
        network.set_link(1, False)
        statuses = ends(pair, END_S)
        detected = time.monotonic() - start
        return trial.outcome(statuses, "; ".join(p.told() for p in pair), detected)
