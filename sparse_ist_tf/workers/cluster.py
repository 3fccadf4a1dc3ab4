"""This process's place among the workers, and its connection to them.

    TF_CONFIG=$(python -m sparse_ist_tf.workers.cluster) python -m sparse_ist_tf.train ...

joins, as a task that Slurm's srun started, the other tasks of the same step.
"""

import contextlib
import dataclasses
import ipaddress
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sparse_ist_tf.errors import RequestError, RunError, warn
from sparse_ist_tf.workers.groups.group import LOST, PORT_TAKEN
from sparse_ist_tf.workers.launch import LIFELINE
from sparse_ist_tf.workers.meeting import meet

if TYPE_CHECKING:
    import tensorflow as tf

OCCASION = "SPARSE_IST_OCCASION"  # of a meeting of those who were called for it


@dataclasses.dataclass(frozen=True)
class Cluster:
    """This process's place among the workers.

    Args:
        worker: index, 0 for the chief.
        addresses: host:port of every worker; empty for a single one without a network.
        has_chief: whether TensorFlow knows worker 0 as a task of type chief.
    """

    worker: int
    addresses: tuple[str, ...]
    has_chief: bool = False

    @property
    def num_workers(self) -> int:
        """P."""
        return max(1, len(self.addresses))

    def peers(self) -> dict[int, str]:
        """The other workers' addresses by their index."""
        return {i: a for i, a in enumerate(self.addresses) if i != self.worker}

    def tf_config(self, members: Sequence[int]) -> str:
        """TF_CONFIG of this process where some of the workers are all that there are.

        Args:
            members: their indices, ascending; 0 and this one among them.
        """
        jobs: dict[str, list[str]] = {"chief": [], "worker": []}
        for i in members:
            jobs["chief" if self.has_chief and i == 0 else "worker"].append(self.addresses[i])
        kind = "chief" if self.has_chief and self.worker == 0 else "worker"
        index = jobs[kind].index(self.addresses[self.worker])
        cluster = {name: addresses for name, addresses in jobs.items() if addresses}
        return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def read_tf_config(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster that TF_CONFIG describes.

    A task of type chief counts as the first worker, as Kubernetes' TFJob writes it.

    Source: tensorflow.org/guide/distributed_training, "Setting up the TF_CONFIG environment
    variable".

    Args:
        environment: such as os.environ.

    Returns:
        The cluster; None where TF_CONFIG is not set.

    Raises:
        RequestError: if TF_CONFIG can't be understood.
    """
    text = environment.get("TF_CONFIG")
    if not text:
        return None
    try:
        config = json.loads(text)
        task, jobs = config["task"], config["cluster"]
        if others := set(jobs) - {"chief", "worker"}:
            raise ValueError(f"no job but chief and worker, not {', '.join(sorted(others))}")
        chiefs, workers = tuple(jobs.get("chief", ())), tuple(jobs.get("worker", ()))
        if len(chiefs) > 1:
            raise ValueError("one chief at most")
        addresses = chiefs + workers
        if not all(map(_is_address, addresses)):
            raise ValueError("host:port for every task, a port from 1 to 65535")
        if len(set(addresses)) < len(addresses):
            raise ValueError("an address of its own for every task")
        of_type = {"chief": chiefs, "worker": workers}[task["type"]]
        index = int(task["index"]) if re.fullmatch(r"\d{1,9}", str(task["index"])) else -1
        if not 0 <= index < len(of_type):
            raise ValueError(f"a task index below {len(of_type)}, not {task['index']}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else error
        raise RequestError(
            f"TF_CONFIG={text!r}: must hold a cluster of workers and this task's place ({reason})"
        ) from None
    worker = index + (len(chiefs) if task["type"] == "worker" else 0)
    return Cluster(worker, addresses, has_chief=bool(chiefs))


def _is_address(text: str) -> bool:
    match = re.fullmatch(r"\S+:(\d{1,5})", text)
    return bool(match) and 1 <= int(match[1]) <= 65535


def joined_cluster(
    environment: Mapping[str, str], num_workers: int | None, default: int
) -> tuple[Cluster | None, int]:
    """What a command is part of, or how many workers it is to start.

    Args:
        environment: such as os.environ.
        num_workers: what --num_workers says; None where not given.
        default: what stands for None without TF_CONFIG.

    Returns:
        The cluster of TF_CONFIG, or None where there is none; and the number of workers.

    Raises:
        RequestError: if TF_CONFIG is malformed, or has another number of workers than asked for.
    """
    cluster = read_tf_config(environment)
    if cluster is None:
        return None, default if num_workers is None else num_workers
    is_given = not environment.get(LIFELINE)  # and not made for fewer than all
    if is_given and num_workers not in (None, cluster.num_workers):
        raise RequestError(
            f"--num_workers={num_workers}: TF_CONFIG has {cluster.num_workers} workers"
        )
    return cluster, cluster.num_workers


def slurm_tf_config(environment: Mapping[str, str], port: int = 2222) -> str:
    """TF_CONFIG for a task that srun started, from SLURM's variables.

    Source: the manual of srun, "OUTPUT ENVIRONMENT VARIABLES".

    Args:
        environment: with SLURM_STEP_NODELIST, SLURM_STEP_TASKS_PER_NODE and SLURM_PROCID.
        port: of the first task of a node; the others take the next ones.

    Raises:
        RequestError: if a variable is missing or can't be understood.

    Example:
        >>> from sparse_ist_tf.workers.cluster import slurm_tf_config
        >>> slurm_tf_config({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        ...                  "SLURM_PROCID": "1"})[:47]
        '{"cluster": {"worker": ["n1:2222", "n2:2222"]},'
    """
    try:
        nodes = environment["SLURM_STEP_NODELIST"]
        tasks = environment["SLURM_STEP_TASKS_PER_NODE"]
        place = int(environment["SLURM_PROCID"])
    except KeyError as error:
        raise RequestError(f"{error.args[0]} is not set: must be started by srun") from None
    counts: list[int] = []
    for part in tasks.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        counts += [int(match[1])] * int(match[2] or 1) if match else []
    hosts = _expand_hosts(nodes)
    if len(hosts) != len(counts):
        raise RequestError(
            f"SLURM_STEP_NODELIST={nodes!r} and SLURM_STEP_TASKS_PER_NODE={tasks!r}: must name as "
            f"many nodes as task counts, have {len(hosts)} and {len(counts)}"
        )
    addresses = [
        f"{host}:{port + i}" for host, n in zip(hosts, counts, strict=True) for i in range(n)
    ]
    task = {"type": "worker", "index": place}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


def _expand_hosts(text: str) -> list[str]:
    """Slurm's compact lists of hosts: rack[1-2]n[07-09,12],login."""
    hosts = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        names = [""]
        for plain, ranges in re.findall(r"([^\[]+)|\[([^\]]*)\]", part):
            ends = [plain] if plain else _expand_ranges(ranges)
            names = [name + end for name in names for end in ends]
        hosts += names
    return hosts


def _expand_ranges(text: str) -> list[str]:
    numbers = []
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        numbers += [f"{n:0{len(first)}d}" for n in range(int(first), int(last or first) + 1)]
    return numbers


def make_strategy(
    cluster: Cluster, peer_timeout_s: float, facts: Mapping[str, str] | None = None
) -> "tf.distribute.Strategy":
    """A MultiWorkerMirroredStrategy; gives up if a peer can't be reached, or is silent for long.

    Of several GPUs this worker takes one: the subnets are its unit of parallel work.

    Args:
        cluster: this process's place; TensorFlow reads its TF_CONFIG again.
        peer_timeout_s: seconds that a silent peer is waited for from here on; in twice as many it
            is lost.
        facts: what all workers must be about to do, as agreement.command_facts has it.

    Raises:
        RunError: if a peer stays unreachable, or this worker's own port is taken.
        RequestError: if the workers are about to do different things.
    """
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # a collective is traced anew for another number of rows
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        gpus = gpus[cluster.worker % len(gpus)]
        with contextlib.suppress(RuntimeError):  # TensorFlow runs already
            tf.config.set_visible_devices(gpus, "GPU")
            tf.config.experimental.set_memory_growth(gpus, True)
    if cluster.num_workers > 1:
        meet_peers(cluster, peer_timeout_s, facts or {})
        _bypass_proxies(cluster)
        _configure_service(cluster, peer_timeout_s)
    with lost_peers(cluster):
        return tf.distribute.MultiWorkerMirroredStrategy()


def _configure_service(cluster: Cluster, peer_timeout_s: float) -> None:
    """Has TensorFlow's coordination service be as patient as we are; by default it is for 10 s.

    Source: a worker gives a sign of life every half of the service's time-out
    (xla/tsl/distributed_runtime/coordination/coordination_service_agent.cc), the last of them up to
    a half before it falls silent; so the service has twice our patience.
    """
    from tensorflow.python.distribute.collective_all_reduce_strategy import coordination_config_pb2
    from tensorflow.python.eager import context

    jobs = {"worker": cluster.num_workers - cluster.has_chief, "chief": int(cluster.has_chief)}
    patience = max(1000, round(1000 * peer_timeout_s))
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{'chief' if cluster.has_chief else 'worker'}/replica:0/task:0",
        cluster_register_timeout_in_ms=patience,
        heartbeat_timeout_in_ms=2 * patience,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name=name, num_tasks=count)
            for name, count in jobs.items()
            if count
        ],
    )


def _bypass_proxies(cluster: Cluster) -> None:
    """Keeps gRPC from asking a proxy for the way to peers, unless one is named for gRPC itself."""
    if not {"grpc_proxy", "no_grpc_proxy"}.intersection(os.environ):
        hosts = {address.rsplit(":", 1)[0].strip("[]") for address in cluster.addresses}
        os.environ.update(no_grpc_proxy=",".join(sorted(hosts)))


def meet_peers(cluster: Cluster, peer_timeout_s: float, facts: Mapping[str, str]) -> None:
    """Waits until every worker has met every other one, and makes sure that they agree.

    Args:
        cluster: this process's place.
        peer_timeout_s: seconds.
        facts: what all workers must be about to do.

    Raises:
        RunError: naming the peers that can't be met, or this worker's port if it is taken.
        RequestError: if the workers are about to do different things.
    """
    address = cluster.addresses[cluster.worker]
    if is_public(address):
        warn(
            f"worker {cluster.worker} listens at {address}, which isn't a private address: who "
            "reaches it can read and write this user's files (SECURITY.md)"
        )
    try:
        listener = listen_at(address)
    except OSError as error:
        if os.environ.get(LIFELINE):
            raise SystemExit(PORT_TAKEN) from None
        raise RunError(
            f"worker {cluster.worker} can't listen at {address}: {error.strerror or error}"
        ) from None
    facts = {"number of workers": str(cluster.num_workers), **facts}
    occasion = os.environ.get(OCCASION, "")
    meet(cluster.worker, cluster.peers(), facts, peer_timeout_s, listener, occasion)


def is_public(address: str) -> bool:
    """Whether the open network may reach an address: host:port, its host a name or a number."""
    host = address.rsplit(":", 1)[0].strip("[]")
    with contextlib.suppress(OSError, ValueError):
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
        return any(ipaddress.ip_address(one.partition("%")[0]).is_global for one in found)
    return False


def listen_at(address: str) -> socket.socket:
    """A socket at an address' port, on all interfaces, as TensorFlow's server will have it.

    Args:
        address: host:port, of this process.

    Raises:
        OSError: if the port can't be had.
    """
    port = int(address.rsplit(":", 1)[1])
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # a machine without IPv6 addresses
            family = socket.AF_INET6
            return socket.create_server(("", port), family=family, dualstack_ipv6=True)
    return socket.create_server(("", port))


def unreachable(addresses: Mapping[int, str], deadline: float) -> dict[int, str]:
    """The workers that don't accept a connection until a deadline; each is tried at least once."""
    missing = dict(addresses)
    while missing:
        for worker, address in list(missing.items()):
            host, port = address.rsplit(":", 1)
            left = max(0.2, min(2.0, deadline - time.monotonic()))
            with contextlib.suppress(OSError):
                socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
                del missing[worker]
        if time.monotonic() >= deadline:
            break
        if missing:
            time.sleep(0.25)
    return missing


@contextlib.contextmanager
def lost_peers(cluster: Cluster) -> Iterator[None]:
    """Turns TensorFlow's errors about a peer that is gone into one line.

    Raises:
        RunError: naming the workers that don't answer any more.
    """
    import tensorflow as tf

    kinds = (
        tf.errors.UnavailableError,
        tf.errors.CancelledError,
        tf.errors.AbortedError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
    )
    try:
        yield
    except kinds as error:
        if cluster.num_workers == 1:
            raise
        reason = " ".join(str(error.message).rsplit("aborted by:", 1)[-1].split())[:160]
        gone = unreachable(cluster.peers(), time.monotonic()) or _blamed(cluster, reason)
        who = _names(gone).removeprefix("worker ") if gone else "unknown"
        raise RunError(
            f"worker {cluster.worker} {LOST} {who}; the same command goes on from the last "
            f"checkpoint ({reason})"
        ) from None


def _blamed(cluster: Cluster, reason: str) -> dict[int, str]:
    """The workers that TensorFlow names in an error."""
    tasks = re.findall(r"/job:(chief|worker)/(?:replica:\d+/)?task:(\d+)", reason)
    named = {int(index) + (cluster.has_chief and job == "worker") for job, index in tasks}
    return {i: address for i, address in cluster.peers().items() if i in named}


def _names(workers: Mapping[int, str]) -> str:
    return ", ".join(f"worker {i} ({address})" for i, address in workers.items())


if __name__ == "__main__":
    from sparse_ist_tf.commands import run

    run(lambda _: print(slurm_tf_config(os.environ)))
