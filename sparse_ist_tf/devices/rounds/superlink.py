"""The server's end of the wire: Flower's SuperLink inside this process.

The only other file that knows Flower is `supernode`. Beside what Flower documents it needs the
parts of which Flower makes `flower-superlink`, so the version is pinned.
"""

import contextlib
import dataclasses
import ipaddress
import os
import socket
import threading
import time
from pathlib import Path

# Offline, and silent: what is told is told by this library.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import uvicorn
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    SubStatus,
)
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.logger import FLOWER_LOGGER
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sparse_ist_tf.devices.wire.engine import Letter
from sparse_ist_tf.errors import RequestError, RunError

_FOR_DEVICES = "/v1/fleet/"
_TTL_S = 86400.0  # that a letter may wait for its device
_START_S, _UPLOAD_S = 30.0, 120.0
_BEAT_S = HEARTBEAT_DEFAULT_INTERVAL / 3


@dataclasses.dataclass(frozen=True)
class Address:
    """Where the server listens, and what it asks of who comes.

    Args:
        host: of its interfaces.
        port: of TCP.
        certificate: PEM file of the server's certificate; plain HTTP where empty.
        key: PEM file of its private key.
        authority: PEM file of who signed the certificate.
        only_registered: are devices refused whose keys weren't registered?

    Raises:
        RequestError: if a file isn't there, or keys are asked for without TLS.
    """

    host: str
    port: int
    certificate: str = ""
    key: str = ""
    authority: str = ""
    only_registered: bool = False

    def __post_init__(self) -> None:
        files = {"certificate": self.certificate, "key": self.key, "authority": self.authority}
        given = [name for name, path in files.items() if path]
        if given and len(given) < len(files):
            missing = ", ".join(f"--{name}" for name in files if name not in given)
            raise RequestError(f"--{given[0]}: TLS needs {missing} too")
        for name, path in files.items():
            if path and not Path(path).is_file():
                raise RequestError(f"--{name}={path}: there is no such file")
        if self.only_registered and not given:
            raise RequestError("--only_registered: needs TLS: --certificate, --key, --authority")


class OnlyDevices:
    """An ASGI application of which others than this machine see what is for devices alone.

    Flower serves the registering of keys and the running of apps on the same port, to anyone.

    Args:
        app: Flower's.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and not scope["path"].startswith(_FOR_DEVICES):
            host = (scope.get("client") or ("", 0))[0]
            if not _is_here(host):
                await Response(status_code=403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_here(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class SuperLink:
    """Carries records to Flower's SuperNodes and back; as engine.Engine.

    Args:
        address: where it listens.
        database: SQLite file that keeps registered keys over restarts.

    Raises:
        RequestError: if the port is taken or the certificate can't be used.
    """

    def __init__(self, address: Address, database: Path):
        FLOWER_LOGGER.setLevel("CRITICAL")
        _check_port(address)
        database.parent.mkdir(parents=True, exist_ok=True)
        config = _config(address, str(database))
        app = create_app(config, SuperLinkLifespan)
        self._state = app.state.linkstate_factory.state()
        self._server = uvicorn.Server(
            uvicorn.Config(
                OnlyDevices(app),
                host=address.host,
                port=address.port,
                log_level="critical",
                access_log=False,
                proxy_headers=False,  # else who asks could say that it is this machine
                ssl_certfile=address.certificate or None,
                ssl_keyfile=address.key or None,
            )
        )
        self._server.install_signal_handlers = lambda: None
        self._server.capture_signals = contextlib.nullcontext
        self._failed: list[str] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        until = time.monotonic() + _START_S
        while not self._server.started:
            if self._failed or not self._thread.is_alive() or time.monotonic() > until:
                reason = (self._failed or ["it doesn't start"])[0]
                raise RequestError(f"--listen={address.host}:{address.port}: {reason}")
            time.sleep(0.02)
        self._begin_run()
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()
        self._open: dict[str, tuple[int, str]] = {}  # letters that have no answer yet
        self._arriving: list[tuple[int, str, Message, float]] = []

    def _serve(self) -> None:
        try:
            self._server.run()
        except (OSError, ValueError) as error:  # a certificate that is none
            self._failed.append(" ".join(str(error).split()))
        except SystemExit:
            self._failed.append("can't be listened on")

    def _begin_run(self) -> None:
        state = self._state
        for old in state.get_run_info():
            state.stop_run(old.run_id)
        self._run = state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        [info] = state.get_run_info(run_ids=[self._run])
        self._task = info.primary_task_id
        if not state.claim_task(self._task) or not state.activate_task(self._task):
            raise RunError("Flower's SuperLink gave its run to another process")

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_S):
            self._state.acknowledge_task_heartbeat(self._task)

    def nodes(self) -> set[int]:
        """As Engine.nodes."""
        return set(self._state.get_nodes(self._run))

    def send(self, node: int, kind: str, content: bytes) -> None:
        """As Engine.send; a device that has gone gets nothing."""
        array = Array("uint8", (len(content),), "bytes", content)
        records = RecordDict(
            {"content": ArrayRecord({"0": array}), "facts": ConfigRecord({"kind": kind})}
        )
        metadata = Metadata(
            run_id=self._run,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=node,
            reply_to_message_id="",
            group_id="",
            created_at=now().timestamp(),
            ttl=_TTL_S,
            message_type="query",
        )
        message = make_message(metadata=metadata, content=records)
        message.metadata.__dict__["_message_id"] = message.object_id
        session = self._state.start_session(self._run)
        stored, wanted = self._state.store_message_and_object_tree(
            remove_content_from_message(message), get_object_tree(message), session
        )
        if not stored:
            return
        for name, each in get_all_nested_objects(message).items():
            if name in wanted:
                self._state.store_object(self._run, session, name, each.deflate())
        self._open[message.metadata.message_id] = (node, kind)

    def receive(self) -> list[Letter]:
        """As Engine.receive."""
        found, until = [], time.monotonic() + _UPLOAD_S
        for message in self._state.get_message_res(set(self._open), self._run):
            name = message.metadata.reply_to_message_id
            self._arriving.append((*self._open.pop(name), message, until))
            self._state.delete_messages({name})
        arriving, self._arriving = self._arriving, []
        for node, kind, message, until in arriving:
            if message.has_error():
                found.append(Letter(node, kind, b"", " ".join(message.error.reason.split())))
                continue
            try:
                content = self._content_of(message)
            except Exception:  # Flower's readers raise whatever a bad object makes them
                content = b""
            if content is None and time.monotonic() < until:
                self._arriving.append((node, kind, message, until))
            else:
                found.append(Letter(node, kind, content or b""))
        return found

    def _content_of(self, message: Message) -> bytes | None:
        """None as long as parts of it are on the way."""
        name, store = message.metadata.message_id, self._state.object_store
        names = [each.object_id for each in iterate_object_tree(store.get_object_tree(name))]
        objects = {each: store.get(each) for each in names}
        if not all(objects.values()):
            return None
        store.delete(name)
        whole = inflate_object_from_contents(name, objects)
        return whole.content["content"]["0"].data

    def close(self) -> None:
        """Ends the run, and the server."""
        self._ended.set()
        with contextlib.suppress(Exception):
            self._state.finish_task(self._task, SubStatus.COMPLETED, "")
        self._server.should_exit = True
        self._thread.join(timeout=5)


def _check_port(address: Address) -> None:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        family, kind, *_, place = found[0]
        with socket.socket(family, kind) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(place)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        text = f"--listen={address.host}:{address.port}: can't be listened on: {reason}"
        raise RequestError(text) from None


def _config(address: Address, database: str) -> SuperLinkLifespanConfig:
    files = [address.authority, address.certificate, address.key]
    certificates = tuple(Path(path).read_bytes() for path in files) if all(files) else None
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=address.host,
        port=address.port,
        insecure=certificates is None,
        certificates=certificates,
        superexec_auth_secret=None,
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=address.only_registered,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=address.authority or None,
        ssl_certfile=address.certificate or None,
        ssl_keyfile=address.key or None,
        database=database,
        isolation="process",
        runtime_dependency_install=False,
    )
