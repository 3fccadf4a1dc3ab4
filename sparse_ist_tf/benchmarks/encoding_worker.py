"""A process that measures how fast one library encodes, when asked.

A line of JSON in, a line of JSON out:
`python -m sparse_ist_tf.benchmarks.encoding_worker LIBRARY DTYPE PRESET BATCH_SIZE`.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_ist_tf.errors import RunError

if TYPE_CHECKING:
    import torch

MATRIX = 2048  # side of the square matrices that the peak is measured with


class Worker:
    """A process that measures one library in one dtype, when asked; a context manager.

    Args:
        library: "ours" or "timm".
        dtype: "float32" or "bfloat16".
        preset: a key of PRESETS.
        batch_size: images at a time.
    """

    def __init__(self, library: str, dtype: str, preset: str, batch_size: int):
        self.library = library
        argv = [sys.executable, "-m", __name__, library, dtype, preset, str(batch_size)]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            argv, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, what: str, **arguments: float) -> dict[str, Any]:
        """Measures and waits for it.

        Args:
            what: "peak", "encode" or "profile".
            **arguments: ratio of the hidden patches (not of "peak") and repeats.

        Returns:
            seconds and cpu of the shortest run, of "encode" also memory_mb and visible; or shares.

        Raises:
            RunError: if the process ends early.
        """
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None  # pipes
        assert answers is not None
        try:
            requests.write(json.dumps({"what": what} | arguments) + "\n")
            requests.flush()
            for line in answers:
                if line.startswith("{"):
                    return json.loads(line)
        except OSError:
            pass
        lines = self.process.communicate()[1].strip().splitlines() or ["it says nothing"]
        raise RunError(f"measuring {self.library} ended early: {lines[-1]}")


def _serve(library, dtype, preset, batch_size):
    """What a worker does: a line of JSON in, a line of JSON out."""
    make, peak = {"ours": _ours, "timm": _timm}[library](dtype, preset, batch_size)
    ready = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["what"] == "peak":
            answer = timed(peak, 2, asked["repeats"])
        else:
            ratio, warm = asked["ratio"], 0
            if ratio not in ready:
                warm, ready = 2, {ratio: make(ratio)}  # one at a time: their memory is measured
                _forget_peak_memory()
            encode, visible = ready[ratio]
            if asked["what"] == "profile":
                timed(encode, warm, 1)
                answer = {"shares": _profile(encode, asked["repeats"])}
            else:
                answer = timed(encode, warm, asked["repeats"])
                answer |= {"memory_mb": _peak_memory() / 1e6, "visible": visible}
        print(json.dumps(answer), flush=True)


def timed(function: Callable[[], object], warm: int, repeats: int) -> dict:
    """The shortest of several runs, after some that aren't timed.

    Short ones are repeated for half a second: their time varies more.

    Returns:
        Its seconds, and "cpu", those of CPU time that it took.
    """
    for _ in range(warm):
        function()
    runs, end = [], time.perf_counter() + 0.5
    while len(runs) < repeats or time.perf_counter() < end:
        start, cpu = time.perf_counter(), time.process_time()
        function()
        runs.append((time.perf_counter() - start, time.process_time() - cpu))
    seconds, cpu = min(runs)
    return {"seconds": seconds, "cpu": cpu}


def _case(grid, pixels, ratio, batch_size):
    """(positions int32[b, v], patches float32[b, v, pixels]) of random masks and pixels."""
    from sparse_ist_tf.masks.drawing import fixed_positions

    positions = np.asarray(fixed_positions(0, np.arange(batch_size), grid * grid, ratio), np.int32)
    rng = np.random.default_rng(0)
    return positions, rng.standard_normal((*positions.shape, pixels), np.float32)


def _ours(dtype, preset, batch_size):
    import tensorflow as tf

    from sparse_ist_tf.encoder.fast import frozen_features
    from sparse_ist_tf.encoder.presets import create_encoder
    from sparse_ist_tf.tracing import traced

    model = create_encoder(preset, dtype=dtype)
    rng = np.random.default_rng(0)
    for variable in model.weights:  # no zeros and ones, which TensorFlow would leave out
        noise = rng.normal(scale=0.02, size=variable.shape)
        variable.assign(np.asarray(variable).astype(np.float32) + noise)
    grid = model.spec.grid
    matrix = tf.cast(tf.random.normal((MATRIX, MATRIX)), dtype)
    product = tf.function(tf.linalg.matmul)

    def make(ratio):
        positions, patches = _case(grid, model.spec.pixels, ratio, batch_size)
        inputs = {"patches": tf.constant(patches), "positions": tf.constant(positions)}
        any_number = {
            "patches": tf.TensorSpec((None, None, patches.shape[-1])),
            "positions": tf.TensorSpec((None, None), tf.int32),
        }
        encode = traced(frozen_features(model), input_signature=[any_number])
        return lambda: tf.cast(encode(inputs), tf.float32).numpy(), positions.shape[1]

    return make, lambda: product(matrix, matrix)[0, 0].numpy()


def timm_model(preset: str, num_classes: int = 0) -> "torch.nn.Module":
    """A model of timm's with a preset's sizes and fresh weights; without a head for 0 classes."""
    import torch

    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # a wheel for GPUs beside a torch for CPUs
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    import timm

    from sparse_ist_tf.encoder.presets import PRESETS

    sizes = PRESETS[preset]
    return timm.create_model(
        "vit_base_patch16_224",
        img_size=sizes.image_size,
        patch_size=sizes.patch_size,
        embed_dim=sizes.width,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        mlp_ratio=sizes.mlp_ratio,
        act_layer=sizes.activation,
        num_classes=num_classes,
    )


def _timm(dtype, preset, batch_size):
    import torch

    from sparse_ist_tf.encoder.presets import PRESETS

    sizes, kind = PRESETS[preset], getattr(torch, dtype)
    model = timm_model(preset).eval().to(kind)
    matrix = torch.randn(MATRIX, MATRIX).to(kind)

    class Keep(torch.nn.Module):
        """The visible patches of each image, behind CLS."""

        def __init__(self, positions):
            super().__init__()
            rows = torch.from_numpy(positions).long()
            self.index = torch.cat([torch.zeros_like(rows[:, :1]), rows + 1], dim=1)[..., None]

        def forward(self, x):
            return x.gather(1, self.index.expand(-1, -1, x.shape[-1]))

    def make(ratio):
        positions, _ = _case(sizes.grid, 1, ratio, batch_size)
        images = torch.randn(batch_size, 3, sizes.image_size, sizes.image_size)
        model.patch_drop = Keep(positions) if ratio else torch.nn.Identity()

        def encode():
            with torch.inference_mode():
                return model(images.to(kind)).float().numpy()

        return encode, positions.shape[1]

    def product():
        with torch.inference_mode():
            return torch.mm(matrix, matrix)[0, 0].item()

    return make, product


def _forget_peak_memory():
    """Starts the measuring of the peak anew, where the kernel can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory():
    """Bytes of memory that this process had at most."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _profile(encode, repeats):
    """[(kind of operation, share of the time in operations)], the largest share first."""
    import collections
    import tempfile

    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    totals = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(repeats):
            encode()
        tf.profiler.experimental.stop()
        for path in Path(folder).rglob("*.xplane.pb"):
            space = xplane_pb2.XSpace.FromString(path.read_bytes())
            for plane in space.planes:
                names = {key: value.name for key, value in plane.event_metadata.items()}
                for event in (e for line in plane.lines for e in line.events):
                    _, colon, kind = names[event.metadata_id].rpartition(":")
                    if colon and kind.isidentifier() and not kind.startswith("__inference"):
                        totals[kind] += event.duration_ps
    for name in ("Run", "Process"):  # these hold the operations
        totals.pop(name, None)
    whole = sum(totals.values()) or 1
    return [(kind, time / whole) for kind, time in totals.most_common()]


if __name__ == "__main__":
    _library, _dtype, _preset, _count = sys.argv[1:]
    _serve(_library, _dtype, _preset, int(_count))
