"""A device's end of the wire: Flower's SuperNode in one process, without its helpers.

Flower's own `flower-supernode` starts two more processes, each time one for a message. This one
speaks the same protocol by Flower's own client.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.logger import FLOWER_LOGGER
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from sparse_ist_tf.errors import RequestError, RunError

_POLL_S, _RETRY_S = 0.5, 2.0
_LINGER_S = 1.5  # Flower drops the last answer of who leaves before it is fetched
_BEAT_S = HEARTBEAT_MIN_INTERVAL / 3
_OVER = 403  # of a letter of a run that is over: the server was started anew
_FORGOTTEN = (401, 404)  # it knows this device no more
_GONE_S = 2.5 * HEARTBEAT_MIN_INTERVAL  # after which a device that was killed counts as gone
# What a device does with a letter: its kind and content to an answer's content.
Handle = Callable[[str, bytes], bytes]


class RefusedKeyError(RequestError):
    """The server doesn't take this device's key."""


class SuperNode:
    """A device's connection.

    Args:
        server: host:port.
        authority: PEM file of who signed the server's certificate; plain HTTP where empty.
        key: private key file, as ssh-keygen -t ecdsa writes it; a new key where empty.
        patience_s: seconds that a server is looked for.

    Raises:
        RequestError: if a file isn't there or can't be used.
    """

    def __init__(self, server: str, authority: str = "", key: str = "", patience_s: float = 600.0):
        FLOWER_LOGGER.setLevel("CRITICAL")
        self.server, self.patience_s = server, patience_s
        self._is_new_key = not key
        self._private, self._public = _keys(key) if key else generate_key_pairs()
        if authority and not Path(authority).is_file():
            raise RequestError(f"--authority={authority}: there is no such file")
        if key and not authority:
            raise RequestError(f"--key={key}: needs TLS: --authority")
        interceptors = [
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(self._private, self._public),
        ]
        try:
            self._client = FleetHttpClient.from_server_address(
                server, not authority, authority or None, interceptors
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise RequestError(f"--authority={authority}: can't be used: {reason}") from None
        self.node: Node | None = None

    def run(self, handle: Handle, is_over: Callable[[], bool]) -> None:
        """Answers the server's letters until it is over.

        Args:
            handle: makes an answer.
            is_over: asked between two letters.

        Raises:
            RefusedKeyError: if the server doesn't take this device.
            RunError: if it can't be reached.
        """
        with self._beating():
            while not is_over():
                try:
                    if self.node is None:
                        self._come()
                    message = self._pull()
                    if message is None:
                        time.sleep(_POLL_S)
                    else:
                        self._answer(message, handle)
                except httpx.HTTPStatusError as error:
                    status = error.response.status_code
                    if status in _FORGOTTEN:
                        self.node = None  # comes anew
                    elif status != _OVER:
                        raise RunError(f"{self.server}: {_told(error)}") from None
                    time.sleep(_RETRY_S)

    def leave(self) -> None:
        """Tells the server that this device goes."""
        if self.node is not None:
            time.sleep(_LINGER_S)
            with contextlib.suppress(httpx.HTTPError, RuntimeError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node.node_id))
        self._client.close()

    def _call(self, function: Callable, request: object) -> Any:
        """Until the server is there, or the patience is over."""
        until = time.monotonic() + self.patience_s
        while True:
            try:
                return function(request)
            except httpx.TransportError as error:
                text = " ".join(str(error).split()) or type(error).__name__
                if any(word in text.lower() for word in ("certificate", "ssl", "tls")):
                    raise RunError(f"{self.server}: TLS failed: {text}") from None
                if time.monotonic() > until:
                    raise RunError(f"{self.server}: can't be reached: {text}") from None
                time.sleep(_RETRY_S)

    def _come(self) -> None:
        """Registers a new key, and tells the server that this device is here.

        A device that was killed and comes back at once still counts as being here: it is tried for
        as long as that takes.
        """
        public = public_key_to_bytes(self._public)
        register = RegisterNodeFleetRequest(public_key=public)
        activate = ActivateNodeRequest(public_key=public, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)
        until = time.monotonic() + (0.0 if self._is_new_key else _GONE_S)
        while True:
            if self._is_new_key:
                with contextlib.suppress(httpx.HTTPStatusError):  # it is known, or may not do so
                    self._call(self._client.RegisterNode, register)
            try:
                found = self._call(self._client.ActivateNode, activate)
            except httpx.HTTPStatusError as error:
                if time.monotonic() > until:
                    raise RefusedKeyError(
                        f"{self.server}: refuses this device: {_told(error)}: its key isn't "
                        "registered there, or another device has come with it"
                    ) from None
                time.sleep(_RETRY_S)
                continue
            self.node = Node(node_id=found.node_id)
            return

    def _pull(self) -> Message | None:
        found = self._call(self._client.PullMessages, PullMessagesRequest(node=self.node))
        if not found.messages_list:
            return None
        [proto], [tree] = found.messages_list, found.message_object_trees
        name, run = proto.metadata.message_id, proto.metadata.run_id
        objects = {
            each.object_id: self._object(run, each.object_id) for each in iterate_object_tree(tree)
        }
        request = ConfirmMessageReceivedRequest(node=self.node, run_id=run, message_object_id=name)
        self._call(self._client.ConfirmMessageReceived, request)
        message = message_from_proto(proto)
        message.content = inflate_object_from_contents(name, objects).content
        return message

    def _object(self, run: int, name: str) -> bytes:
        request = PullObjectRequest(node=self.node, run_id=run, object_id=name)
        while True:
            found = self._call(self._client.PullObject, request)
            if not found.object_found:
                raise RunError(f"{self.server}: lost a part of what it sent")
            if found.object_available:
                return found.object_content
            time.sleep(_POLL_S)

    def _answer(self, message: Message, handle: Handle) -> None:
        kind = str(message.content["facts"]["kind"])
        content = handle(kind, message.content["content"]["0"].data)
        array = Array("uint8", (len(content),), "bytes", content)
        records = RecordDict(
            {"content": ArrayRecord({"0": array}), "facts": ConfigRecord({"kind": kind})}
        )
        reply = Message(records, reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        request = PushMessagesRequest(
            node=self.node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
            clientapp_runtime_list=[0.0],
        )
        found = self._call(self._client.PushMessages, request)
        objects = get_all_nested_objects(reply)
        for name in found.objects_to_push:
            request = PushObjectRequest(
                node=self.node,
                run_id=reply.metadata.run_id,
                object_id=name,
                object_content=objects[name].deflate(),
                session_id=found.session_id,
            )
            self._call(self._client.PushObject, request)

    @contextlib.contextmanager
    def _beating(self) -> Iterator[None]:
        """Tells the server every few seconds that this device is there, whatever it does."""
        over = threading.Event()

        def beat():
            while not over.wait(_BEAT_S):
                if self.node is None:
                    continue
                request = SendNodeHeartbeatRequest(
                    node=self.node, heartbeat_interval=HEARTBEAT_MIN_INTERVAL
                )
                with contextlib.suppress(httpx.HTTPError):
                    self._client.SendNodeHeartbeat(request)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=5)


def _keys(path: str) -> tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]:
    try:
        private = load_ssh_private_key(Path(path).read_bytes(), None)
    except FileNotFoundError:
        raise RequestError(f"--key={path}: there is no such file") from None
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"--key={path}: can't be used: {reason}") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise RequestError(f"--key={path}: must be of `ssh-keygen -t ecdsa -b 384`")
    return private, private.public_key()


def _told(error: httpx.HTTPStatusError) -> str:
    found = FlowerError.from_json(error.response.text)
    text = found.message if found else f"HTTP status {error.response.status_code}"
    return " ".join(str(text).split()).rstrip(".")
