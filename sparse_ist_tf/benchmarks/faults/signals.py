"""Drills of workers that are killed, paused, or asked to end."""

import os
import signal
import time
from collections.abc import Callable, Iterable

from sparse_ist_tf.benchmarks.faults.drill import Drill, Expected, Outcome
from sparse_ist_tf.benchmarks.faults.processes import (
    ends,
    expect,
    is_alive,
    local_workers,
    wait_until,
)
from sparse_ist_tf.benchmarks.faults.trial import END_S, RUN_S, SHORT_S, Trial

_KILLED = -signal.SIGKILL
_LOST = r"lost worker {} \(127\.0\.0\.1:\d+\)"


def drills() -> Iterable[Drill]:
    """The drills of this file."""
    yield Drill(
        "kill-worker",
        "kill -9 of a worker",
        Expected((1, _KILLED), _LOST.format(1)),
        lambda trial: _kill(trial, 1),
        peer_timeout_s=SHORT_S,
    )
    yield Drill(
        "kill-chief",
        "kill -9 of the chief",
        Expected((_KILLED, 1), _LOST.format(0)),
        lambda trial: _kill(trial, 0),
        peer_timeout_s=SHORT_S,
    )
    yield Drill(
        "kill-local-worker",
        "kill -9 of a local worker, which its launcher starts again",
        Expected((0,), "worker 1 was ended by SIGKILL; all workers start again"),
        _kill_local,
    )
    yield Drill("kill-launcher", "kill -9 of the launcher", Expected((_KILLED,)), _kill_launcher)
    yield Drill("kill-all", "kill -9 of all", Expected((_KILLED, _KILLED)), _kill_all)
    for seconds in (6, 25):
        yield Drill(
            f"stop-{seconds}",
            f"SIGSTOP of a worker for {seconds} s",
            Expected((0, 0)),
            _pause(seconds),
        )
    yield Drill(
        "stop-for-ever",
        "SIGSTOP of a worker for ever",
        Expected((1, _KILLED), _LOST.format(1)),
        _stop,
        peer_timeout_s=SHORT_S,
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        yield Drill(
            number.name.lower(),
            f"{number.name} to a worker",
            Expected((128 + number,) * 2, rf"stopped by {number.name} after round \d+"),
            _ask_to_end(number),
        )


def _kill(trial: Trial, victim: int) -> Outcome:
    pair = trial.start_pair()
    trial.reach_checkpoint(pair)
    start = time.monotonic()
    pair[victim].send(signal.SIGKILL)
    statuses = ends(pair, END_S)
    return trial.outcome(statuses, pair[1 - victim].told(), time.monotonic() - start)


def _kill_local(trial: Trial) -> Outcome:
    launcher = trial.launch()
    trial.reach_checkpoint([launcher])
    start = time.monotonic()
    os.kill(local_workers(launcher.pid)[1], signal.SIGKILL)
    expect(lambda: "start again" in launcher.told(), END_S, "workers start again")
    line, detected = launcher.told(), time.monotonic() - start
    return trial.outcome(ends([launcher], RUN_S), line, detected)


def _kill_launcher(trial: Trial) -> Outcome:
    launcher = trial.launch()
    trial.reach_checkpoint([launcher])
    workers = local_workers(launcher.pid)
    start = time.monotonic()
    launcher.send(signal.SIGKILL)
    expect(lambda: not any(map(is_alive, workers)), END_S, "its workers end")
    return trial.outcome(ends([launcher], END_S), "", time.monotonic() - start)


def _kill_all(trial: Trial) -> Outcome:
    pair = trial.start_pair()
    trial.reach_checkpoint(pair)
    start = time.monotonic()
    for process in pair:
        process.send(signal.SIGKILL)
    return trial.outcome(ends(pair, END_S), "", time.monotonic() - start)


def _pause(seconds: float) -> Callable[[Trial], Outcome]:
    def pause(trial: Trial) -> Outcome:
        pair = trial.start_pair()
        trial.reach_checkpoint(pair)
        pair[1].send(signal.SIGSTOP)
        time.sleep(seconds)
        pair[1].send(signal.SIGCONT)
        return trial.outcome(ends(pair, RUN_S), pair[0].told())

    return pause


def _stop(trial: Trial) -> Outcome:
    pair = trial.start_pair()
    trial.reach_checkpoint(pair)
    start = time.monotonic()
    pair[1].send(signal.SIGSTOP)
    wait_until(lambda: pair[0].status is not None, END_S)
    detected = time.monotonic() - start
    pair[1].send(signal.SIGKILL)
    return trial.outcome(ends(pair, 0.5), pair[0].told(), detected)


def _ask_to_end(number: signal.Signals) -> Callable[[Trial], Outcome]:
    def ask(trial: Trial) -> Outcome:
        pair = trial.start_pair()
        trial.reach_checkpoint(pair)
        start = time.monotonic()
        pair[1].send(number)
        return trial.outcome(ends(pair, END_S), pair[0].told(), time.monotonic() - start)

    return ask
