"""Encoders from anywhere, written for timm or Keras.

    python -m sparse_ist_tf.weights --to=timm hf:facebook/vit-mae-base mae.safetensors

writes what timm loads, and says how; --to=keras writes a .keras file. Its other options are those
of load_encoder.
"""

from sparse_ist_tf.commands import quiet, say, settle, settle_keras, use_utf8
from sparse_ist_tf.errors import RequestError, RunError

if __name__ == "__main__":  # first of all: TensorFlow logs while it is imported
    use_utf8()
    settle()
    try:
        settle_keras()
    except RequestError as error:
        raise SystemExit(say(error)) from None
    with quiet():
        import keras  # noqa: F401

import argparse

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.checkpoints.sources import sources
from sparse_ist_tf.checkpoints.spec import weights_spec
from sparse_ist_tf.checkpoints.writing import check_suffix, export_to_keras, export_to_timm
from sparse_ist_tf.encoder.bundle import vit_encoder
from sparse_ist_tf.encoder.spec import ACTIVATIONS, POOLS

_EXPORTS = {"timm": (export_to_timm, ".safetensors"), "keras": (export_to_keras, ".keras")}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise RequestError(message)


def main(argv: list[str] | None = None) -> int:
    """The command: load, describe, export; argv are those of the process where None."""
    parser = _Parser(
        prog="python -m sparse_ist_tf.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("weights", metavar="IN", help=sources())
    parser.add_argument("path", metavar="OUT", help="the file that is written")
    parser.add_argument("--to", required=True, choices=_EXPORTS, help="whose format")
    parser.add_argument("--image_size", type=int, help="side of the images, in pixels")
    parser.add_argument("--num_heads", type=int, help="attention heads")
    parser.add_argument("--qk_scale", type=float, help="of the products of query and key")
    parser.add_argument("--activation", choices=ACTIVATIONS, help="of the MLPs")
    parser.add_argument("--epsilon", type=float, help="of the layer norms")
    parser.add_argument("--pool", choices=POOLS, help="the feature")
    parser.add_argument("--mean", type=float, nargs=3, help="of pixels in [0, 1]")
    parser.add_argument("--std", type=float, nargs=3, help="of pixels in [0, 1]")
    try:
        options = vars(parser.parse_args(argv))
        path, to = options.pop("path"), options.pop("to")
        export, suffix = _EXPORTS[to]
        check_suffix(path, suffix)  # before a hub is asked
        overrides = {key: options.pop(key) or 0 for key in ("num_heads", "qk_scale", "epsilon")}
        weights = weights_spec(options.pop("weights"), **overrides)
        encoder = vit_encoder(load_encoder(weights, **options), f"--to={to}")
        print(encoder.describe())
        print(f"{path}: load it with\n  {export(encoder, path)}")
    except (RequestError, RunError, OSError) as error:
        return say(error)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
