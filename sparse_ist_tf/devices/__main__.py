"""Devices as workers of Independent Subnetwork Training, over Flower.

    python -m sparse_ist_tf.devices server --config=... --workdir=runs/devices
    python -m sparse_ist_tf.devices client --images=FOLDER --server=HOST:PORT

    python -m sparse_ist_tf.devices needs    what a client needs, for pip install -r

The server has the head, devices have the images. `server --help` and `client --help` show the flags
of each. The client imports neither TensorFlow nor Keras.
"""

import importlib.metadata
import sys

from sparse_ist_tf.errors import RequestError, say

_HELP = ("--help", "-h", "help")


def needs() -> list[str]:
    """What a client needs: the packages of the extra `client`, as pip takes them."""
    every = importlib.metadata.requires("sparse-ist-tf") or []
    pairs = (text.partition(";")[::2] for text in every)
    return [name.strip() for name, marker in pairs if "client" in marker and "extra" in marker]


def main() -> int:
    """Runs the command that the first word names.

    Returns:
        The exit status.
    """
    word, *rest = sys.argv[1:] or [""]
    if word == "client":
        from sparse_ist_tf.devices.device.command import main as run_client

        return run_client(rest)
    if word == "server":
        from sparse_ist_tf.devices.rounds import command as server

        sys.argv = [sys.argv[0], *rest]
        server.start()
        return 0
    if word == "needs":
        print("\n".join(needs()))
        return 0
    if word in ("", *_HELP):
        print(__doc__.strip())
        return 0
    return say(RequestError(f"{word!r}: must be server, client or needs"))


if __name__ == "__main__":
    raise SystemExit(main())
