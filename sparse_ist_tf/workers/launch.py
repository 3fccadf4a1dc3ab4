"""Worker processes on this machine, each with its place among them in TF_CONFIG."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Mapping, Sequence

from sparse_ist_tf.errors import warn
from sparse_ist_tf.shown.bars import for_workers
from sparse_ist_tf.workers.groups.group import PORT_TAKEN, REGROUPED, Asked, Failure, Group
from sparse_ist_tf.workers.groups.restarts import Crew, Restarts
from sparse_ist_tf.workers.seclusion import Seclusion
from sparse_ist_tf.workers.stopping import GRACE_S

LIFELINE = "SPARSE_IST_LIFELINE"  # set for workers whose standard input ends with their launcher

_ATTEMPTS = 3
_OPEN = (
    "the workers' ports are open to this machine's network: who reaches one can read and write "
    "this user's files (SECURITY.md)"
)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens on.

    Returns:
        Ports; all were free at one moment.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def threads_per_worker(num_workers: int) -> int:
    """The share of this machine's cores that one of some workers gets, at least 1.

    Returns:
        How many threads each may compute with.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    return max(1, cores // num_workers)


def run_local_workers(
    command: Sequence[str],
    num_workers: int,
    restarts: Restarts | None = None,
    grace_s: float = GRACE_S,
    is_secluded: bool = True,
    is_elastic: bool = False,
) -> int:
    """Starts worker processes on this machine and waits for them; none outlives this call.

    The chief's output passes through as it is, that of the others with their number in front. When
    one fails, the others are stopped and one line says why; where one died and restarts allow it,
    all start again. Ctrl-C, SIGTERM and SIGHUP are passed on to the workers, which may end behind
    their round. If this process is killed, they see their standard input end (see follow_launcher).

    Args:
        command: of each worker, which finds its place in TF_CONFIG.
        num_workers: P.
        restarts: of workers that a signal ended or that lost a peer; none where None.
        grace_s: seconds that the workers take at most to end behind their round.
        is_secluded: give them a loopback of their own, out of which they reach nothing, where the
            system allows it.
        is_elastic: where one died, those that are left go on, until the run has got further; then
            all start again (see Crew).

    Returns:
        0, or the exit status of the worker that failed: 1 if a signal ended it, 128 and the
        signal's number if that asked it, or this process, to end: 143 for SIGTERM.
    """
    crew = Crew(num_workers, restarts.progress if restarts and is_elastic else None)
    with Asked() as asked:
        try:
            with Seclusion(is_secluded) as seclusion:
                if not seclusion.holds:
                    warn(_OPEN)
                inside = seclusion.within(command)
                failure = _run_groups(inside, crew, restarts, asked, grace_s)
        except KeyboardInterrupt:  # while workers start
            return 128 + asked.number
    return failure.tell() if failure else 0


def _run_groups(
    command: Sequence[str], crew: Crew, restarts: Restarts | None, asked: Asked, grace_s: float
) -> Failure | None:
    """Runs groups of workers until one has done its work, or no other may follow it."""
    taken = 0
    while True:
        failure = _run_group(command, crew, asked, grace_s)
        if failure is None:
            return None
        if failure.status == PORT_TAKEN:
            taken += 1
            if taken < _ATTEMPTS:
                continue
        if failure.status == REGROUPED:
            crew.begin(crew.full)
            warn(f"all {crew.full} workers go on from the checkpoint")
            continue
        if not (failure.num_lost and restarts and restarts.take()):
            return failure
        warn(f"{failure.reason}; {crew.lose(failure.num_lost)} ({restarts.left} restarts left)")


def _run_group(command: Sequence[str], crew: Crew, asked: Asked, grace_s: float) -> Failure | None:
    crew.begin(crew.now)
    with Group(asked, grace_s) as group:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(crew.now)]
        for worker in range(crew.now):
            group.start(command, _environment(addresses, worker))
        return group.wait(crew.is_due if crew.is_elastic else None)


def follow_launcher(environment: Mapping[str, str]) -> None:
    """Ends this process as soon as the one that launched it is gone, however that ended.

    Signals that the launcher passes on come the same way, and are sent to this process.

    Args:
        environment: such as os.environ; without SPARSE_IST_LIFELINE nothing happens.
    """
    if not environment.get(LIFELINE):
        return

    def watch():
        with contextlib.suppress(OSError):
            while numbers := os.read(0, 1):
                os.kill(os.getpid(), numbers[0])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _environment(addresses: list[str], worker: int) -> dict[str, str]:
    task = {"type": "worker", "index": worker}
    threads = str(threads_per_worker(len(addresses)))
    names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    config = json.dumps({"cluster": {"worker": addresses}, "task": task})
    return dict.fromkeys(names, threads) | environment_of_worker(config)


def environment_of_worker(tf_config: str) -> dict[str, str]:
    """What a worker that this process starts finds in its environment: what is here, and its place.

    Args:
        tf_config: its TF_CONFIG.
    """
    ours = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "NONE"}
    ours |= {**os.environ, **for_workers()}
    return ours | {"TF_CONFIG": tf_config, LIFELINE: "1", "PYTHONUNBUFFERED": "1"}
