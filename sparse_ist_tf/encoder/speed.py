"""How fast an encoder is, beside the same model in timm, and what bounds it.

Each library runs in a process of its own, so that its memory is its own and its threads don't
disturb the other's; the two take turns, so that a busy machine slows both alike.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.reports.report import format_table

_MATRIX = 2048  # side of the square matrices that the peak is measured with
_MODEL = "vit_base"  # what the aims below are for
_TIMES_TIMM = {"float32": 2.0, "bfloat16": 1.15}
_OF_PEAK = {"float32": 0.75}
_TIMES_UNMASKED = {"float32": {0.75: 3.8}}


def compare(
    preset: str = "vit_base",
    batch_size: int = 32,
    *,
    ratios: Sequence[float] = (0.0, 0.5, 0.75),
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    repeats: int = 3,
    profile: bool = True,
) -> list[dict]:
    """Prints images/s at several mask ratios, ours and timm's where timm is installed.

    Both get normalised float32 pixels: ours the visible patches, as the masks cut them out, timm's
    whole images, of which it embeds every patch and then drops the hidden ones, as MAE does. A time
    is the shortest of several. FLOP are those of the matrix products that are really done (see
    fast.flops); the peak is that of a square product of 2048, the better of the two libraries'.

    Args:
        preset: a key of PRESETS.
        batch_size: images at a time.
        ratios: hidden shares of the patches.
        dtypes: "float32" and "bfloat16".
        repeats: how often each is timed, for half a second or once, after two runs that aren't.
        profile: print which operations our time goes to, and for ViT-B/16 at every ratio where an
            aim is missed (see missed_aims) how fast its matrix products are.

    Returns:
        A dictionary for each row: dtype, ratio, images_per_second, gflops, peak_gflops, memory_mb,
        cores (CPU time over wall time: fewer than the machine has where others use it too), and
        where there is timm timm_images_per_second, timm_memory_mb and cpu_ratio: timm's CPU time
        over ours, which a busy machine changes less than it does the ratio of images/s.

    Raises:
        RequestError: if the preset isn't known.
        RunError: if a measuring process ends early.

    Example:
        >>> from sparse_ist_tf.encoder.speed import compare
        >>> compare("vit_pico", 2, ratios=(0.5,), dtypes=("float32",))  # doctest: +SKIP
    """
    from sparse_ist_tf.encoder.fast import flops
    from sparse_ist_tf.encoder.presets import PRESETS, create_encoder

    if preset not in PRESETS:
        raise RequestError(f"preset={preset!r}: must be one of {', '.join(PRESETS)}")
    libraries = ["ours"]
    if importlib.util.find_spec("timm") and importlib.util.find_spec("torch"):
        libraries.append("timm")
    else:
        print("timm isn't installed: ours alone", file=sys.stderr, flush=True)
    small = create_encoder(preset, depth=1)  # for its sizes
    small.depth = PRESETS[preset]["depth"]
    found = []
    for dtype in dtypes:
        with contextlib.ExitStack() as stack:
            workers = {
                library: stack.enter_context(_Worker(library, dtype, preset, batch_size))
                for library in libraries
            }
            rows, products = [], []
            for ratio in ratios:
                times = {name: [] for name in workers}
                for _ in range(repeats):
                    for name, worker in workers.items():
                        times[name].append(worker.ask("encode", ratio=ratio, repeats=1))
                        products.append(worker.ask("peak", repeats=3)["seconds"])
                best = {n: min(t, key=lambda one: one["seconds"]) for n, t in times.items()}
                rate = batch_size / best["ours"]["seconds"]
                row = {
                    "dtype": dtype,
                    "ratio": ratio,
                    "images_per_second": rate,
                    "gflops": rate * flops(small, best["ours"]["visible"]) / 1e9,
                    "memory_mb": max(t["memory_mb"] for t in times["ours"]),
                    "cores": best["ours"]["cpu"] / best["ours"]["seconds"],
                }
                if "timm" in best:
                    row["timm_images_per_second"] = batch_size / best["timm"]["seconds"]
                    cpu = {name: min(one["cpu"] for one in t) for name, t in times.items()}
                    row["cpu_ratio"] = cpu["timm"] / cpu["ours"]
                    row["timm_memory_mb"] = max(t["memory_mb"] for t in times["timm"])
                rows.append(row)
            for row in rows:
                row["peak_gflops"] = 2 * _MATRIX**3 / min(products) / 1e9
            _print(rows, preset, batch_size)
            if profile:
                _print_profiles(rows, preset, workers["ours"])
        found += rows
    return found


def missed_aims(row: dict, unmasked: dict) -> list[str]:
    """The aims for ViT-B/16 that a row misses.

    They are 2 times timm's images/s in float32 and 1.15 times in bfloat16; and in float32 75 % of
    the matrix products' peak, and 3.8 times our own unmasked images/s where 75 % are hidden.

    Args:
        row: of compare.
        unmasked: the row of the same dtype at ratio 0.

    Returns:
        A text for each.

    Example:
        >>> from sparse_ist_tf.encoder.speed import missed_aims
        >>> row = {"dtype": "float32", "ratio": 0.0, "images_per_second": 10.0, "gflops": 140.0,
        ...        "peak_gflops": 200.0}
        >>> missed_aims(row, row)
        ['70 % of the peak (aim: 75 %)']
    """
    dtype, rate, missed = row["dtype"], row["images_per_second"], []
    if "timm_images_per_second" in row:
        times, aim = rate / row["timm_images_per_second"], _TIMES_TIMM[dtype]
        if times < aim:
            missed.append(f"{times:.2f} times timm (aim: {aim:g})")
    share, aim = row["gflops"] / row["peak_gflops"], _OF_PEAK.get(dtype, 0)
    if share < aim:
        missed.append(f"{100 * share:.0f} % of the peak (aim: {100 * aim:.0f} %)")
    times = rate / unmasked["images_per_second"]
    aim = _TIMES_UNMASKED.get(dtype, {}).get(row["ratio"], 0)
    if times < aim and unmasked["ratio"] == 0:
        missed.append(f"{times:.2f} times unmasked (aim: {aim:g})")
    return missed


def _print_profiles(rows, preset, worker):
    missed = [missed_aims(row, rows[0]) if preset == _MODEL else [] for row in rows]
    shown = [i for i, misses in enumerate(missed) if misses] or [len(rows) - 1]
    for i in shown:
        row, ratio = rows[i], rows[i]["ratio"]
        shares = worker.ask("profile", ratio=ratio, repeats=3)["shares"]
        text = ", ".join(f"{name} {share:.1%}" for name, share in shares[:6])
        if missed[i]:
            print(f"Missed at {ratio}: {', '.join(missed[i])}")
            products = sum(share for name, share in shares if "MatMul" in name)
            speed = row["gflops"] / products / row["peak_gflops"]
            print(
                f"  matrix products take {products:.0%} of the time, at {speed:.0%} of the peak; "
                f"all else takes {1 - products:.0%}"
            )
        print(f"Where the time goes at {ratio}: {text}")
    print(flush=True)


def _print(rows, preset, batch_size):
    titles = ["mask_ratio", "images/s", "times unmasked", "GFLOP/s", "of peak", "memory", "cores"]
    if "timm_images_per_second" in rows[0]:
        titles += ["timm images/s", "timm memory", "ours / timm", "by CPU time"]
    table = [titles]
    for row in rows:
        rate = row["images_per_second"]
        cells = [
            f"{row['ratio']}",
            f"{rate:.2f}",
            f"{rate / rows[0]['images_per_second']:.2f}",
            f"{row['gflops']:.0f}",
            f"{row['gflops'] / row['peak_gflops']:.0%}",
            f"{row['memory_mb']:.0f} MB",
            f"{row['cores']:.2f}",
        ]
        if "timm_images_per_second" in row:
            theirs = row["timm_images_per_second"]
            cells += [f"{theirs:.2f}", f"{row['timm_memory_mb']:.0f} MB", f"{rate / theirs:.2f}"]
            cells.append(f"{row['cpu_ratio']:.2f}")
        table.append(cells)
    peak = rows[0]["peak_gflops"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"Encoding, {preset}, {rows[0]['dtype']}, batches of {batch_size}, {cores} cores, "
        f"peak {peak:.0f} GFLOP/s"
    )
    print(format_table(table), flush=True)


class _Worker:
    """A process that measures one library in one dtype, when asked."""

    def __init__(self, library, dtype, preset, batch_size):
        self.library = library
        argv = [sys.executable, "-m", __name__, library, dtype, preset, str(batch_size)]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def ask(self, what, **arguments):
        try:
            self.process.stdin.write(json.dumps({"what": what} | arguments) + "\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
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
            answer = _timed(peak, 2, asked["repeats"])
        else:
            ratio = asked["ratio"]
            warm = 0 if ratio in ready else 2
            if ratio not in ready:
                ready = {ratio: make(ratio)}  # one at a time: their memory is measured
                _forget_peak_memory()
            encode, visible = ready[ratio]
            if asked["what"] == "profile":
                _timed(encode, warm, 1)
                answer = {"shares": _profile(encode, asked["repeats"])}
            else:
                answer = _timed(encode, warm, asked["repeats"])
                answer |= {"memory_mb": _peak_memory() / 1e6, "visible": visible}
        print(json.dumps(answer), flush=True)


def _timed(function: Callable[[], object], warm: int, repeats: int) -> dict:
    """The shortest of several runs: its seconds, and those of CPU time that it took.

    Short ones are repeated for half a second: their time varies more.
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
    from sparse_ist_tf.inputs.drawing import fixed_positions

    places = np.asarray(fixed_positions(0, np.arange(batch_size), grid * grid, ratio), np.int32)
    rng = np.random.default_rng(0)
    return places, rng.standard_normal((*places.shape, pixels), np.float32)


def _ours(dtype, preset, batch_size):
    import tensorflow as tf

    from sparse_ist_tf.encoder.fast import frozen_features
    from sparse_ist_tf.encoder.presets import create_encoder
    from sparse_ist_tf.inputs.tracing import traced

    model = create_encoder(preset, dtype=dtype)
    rng = np.random.default_rng(0)
    for variable in model.weights:  # no zeros and ones, which TensorFlow would leave out
        noise = rng.normal(scale=0.02, size=variable.shape)
        variable.assign(np.asarray(variable).astype(np.float32) + noise)
    grid = model.image_size // model.patch_size
    matrix = tf.cast(tf.random.normal((_MATRIX, _MATRIX)), dtype)
    product = tf.function(tf.linalg.matmul)

    def make(ratio):
        places, patches = _case(grid, 3 * model.patch_size**2, ratio, batch_size)
        inputs = {"patches": tf.constant(patches), "positions": tf.constant(places)}
        any_number = {
            "patches": tf.TensorSpec((None, None, patches.shape[-1])),
            "positions": tf.TensorSpec((None, None), tf.int32),
        }
        encode = traced(frozen_features(model), input_signature=[any_number])
        return lambda: tf.cast(encode(inputs), tf.float32).numpy(), places.shape[1]

    return make, lambda: product(matrix, matrix)[0, 0].numpy()


def timm_model(preset: str, num_classes: int = 0):
    """A model of timm's with a preset's sizes and fresh weights.

    Args:
        preset: a key of PRESETS.
        num_classes: of its linear head; 0 for none.

    Returns:
        A torch module.

    Example:
        >>> from sparse_ist_tf.encoder.speed import timm_model
        >>> timm_model("vit_pico").embed_dim  # doctest: +SKIP
        96
    """
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
        img_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        embed_dim=sizes["width"],
        depth=sizes["depth"],
        num_heads=sizes["num_heads"],
        mlp_ratio=sizes.get("mlp_ratio", 4.0),
        act_layer=sizes["activation"],
        num_classes=num_classes,
    )


def _timm(dtype, preset, batch_size):
    import torch

    from sparse_ist_tf.encoder.presets import PRESETS

    sizes, kind = PRESETS[preset], getattr(torch, dtype)
    model = timm_model(preset)
    model = model.eval().to(kind)
    grid = sizes["image_size"] // sizes["patch_size"]
    matrix = torch.randn(_MATRIX, _MATRIX).to(kind)

    class Keep(torch.nn.Module):
        """The visible patches of each image, behind CLS."""

        def __init__(self, places):
            super().__init__()
            rows = torch.from_numpy(places).long()
            self.index = torch.cat([torch.zeros_like(rows[:, :1]), rows + 1], dim=1)[..., None]

        def forward(self, x):
            return x.gather(1, self.index.expand(-1, -1, x.shape[-1]))

    def make(ratio):
        places, _ = _case(grid, 1, ratio, batch_size)
        shape = (batch_size, 3, sizes["image_size"], sizes["image_size"])
        images = torch.randn(shape)
        model.patch_drop = Keep(places) if ratio else torch.nn.Identity()

        def encode():
            with torch.inference_mode():
                return model(images.to(kind)).float().numpy()

        return encode, places.shape[1]

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
    _serve(*sys.argv[1:4], int(sys.argv[4]))
