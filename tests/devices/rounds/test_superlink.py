"""What others than this machine reach of Flower's server."""

import asyncio

import pytest

pytest.importorskip("flwr")

from sparse_ist_tf.devices.rounds.superlink import Address, OnlyDevices, SuperLink
from sparse_ist_tf.errors import RequestError


def status(path, host):
    """Of a request from a host: what the application answers, 403 without being asked."""
    seen = []

    async def app(scope, receive, send):
        seen.append(200)

    async def send(message):
        if message["type"] == "http.response.start":
            seen.append(message["status"])

    scope = {"type": "http", "path": path, "client": host and (host, 1)}
    asyncio.run(OnlyDevices(app)(scope, None, send))
    [found] = seen
    return found


@pytest.mark.parametrize(
    ("path", "host", "wanted"),
    [
        ("/v1/fleet/pull-messages", "10.0.0.7", 200),
        ("/v1/control/register-node", "127.0.0.1", 200),
        ("/v1/control/register-node", "::ffff:127.0.0.1", 200),
        ("/v1/control/register-node", "10.0.0.7", 403),
        ("/v1/control/register-node", "::1", 200),
        ("/v1/control/register-node", "localhost.evil", 403),
        ("/v1/control/register-node", None, 403),
        ("/v1/runtime/claim-task", "10.0.0.7", 403),
        ("/docs", "10.0.0.7", 403),
        ("/v1/fleet", "10.0.0.7", 403),
    ],
)
def test_others_reach_what_is_for_devices_alone(path, host, wanted):
    assert status(path, host) == wanted


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"certificate": "a.pem"}, "TLS needs --key, --authority too"),
        ({"only_registered": True}, "needs TLS"),
        (dict.fromkeys(("certificate", "key", "authority"), "/nowhere.pem"), "no such file"),
    ],
)
def test_half_a_protection_is_refused(values, text):
    with pytest.raises(RequestError, match=text):
        Address("127.0.0.1", 9092, **values)


def test_a_certificate_that_is_none_is_one_line(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("no certificate")
    files = [str(tmp_path / name) for name in ("a", "b", "c")]
    with pytest.raises(RequestError, match="--listen="):
        SuperLink(Address("127.0.0.1", 39092, *files), tmp_path / "flower.sqlite")
