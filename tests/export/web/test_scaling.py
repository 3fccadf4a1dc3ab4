"""The page scales pictures as the library does; its script runs in Node."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sparse_ist_tf.export.web import page
from sparse_ist_tf.masks import RESIZES, Scaling
from sparse_ist_tf.masks.cells import cell_matrix

SCALING = Path(page.__file__).parent / "static" / "scaling.js"
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node isn't installed")


def _node(folder, script):
    (folder / "scaling.mjs").write_bytes(SCALING.read_bytes())
    (folder / "script.mjs").write_text(f'import * as scaling from "./scaling.mjs";\n{script}')
    done = subprocess.run(
        ["node", "script.mjs"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _scaled(folder, image, about):
    rgba = np.dstack([image, np.full(image.shape[:2], 9, np.uint8)])
    (folder / "image").write_bytes(rgba.tobytes())
    height, width = image.shape[:2]
    script = f"""
    import {{ readFileSync }} from "node:fs";
    const data = new Uint8ClampedArray(readFileSync("image"));
    const source = scaling.sourceOf({{ width: {width}, height: {height}, data }});
    const found = await scaling.scale(source, {json.dumps(about)});
    console.log(JSON.stringify([found.height, found.width, [...scaling.rgb(found)]]));
    """
    height, width, values = _node(folder, script)
    return np.array(values).reshape(height, width, 3)


def _about(scaling, kind="classifier", cell=None):
    size = scaling.image_size
    shape = [scaling.side * length for length in cell] if cell else [size, size]
    return {
        "kind": kind, "grid": scaling.grid, "resize": scaling.resize, "image_size": size,
        "patch_size": scaling.patch_size, "input": shape,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("length", "grid", "size"), [(8, 8, 8), (64, 8, 8), (97, 7, 5), (1000, 1, 64), (21, 4, 8)]
)
def test_weights_are_those_of_the_library(tmp_path, length, grid, size):
    outputs = _node(
        tmp_path, f"console.log(JSON.stringify(scaling.cellWeights({length}, {grid}, {size})))"
    )
    found = np.zeros((grid * size, length), np.float32)
    for row, output in zip(found, outputs, strict=True):
        row[output["first"] : output["first"] + len(output["weights"])] = output["weights"]
    np.testing.assert_allclose(found, cell_matrix(length, grid, size), rtol=0, atol=1e-7)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("grid", ["sensor", "scaled"])
@pytest.mark.parametrize("shape", [(8, 8), (9, 13), (64, 64), (32, 32), (200, 301), (37, 500)])
def test_pictures_of_any_size_become_the_library_s_pixels(tmp_path, grid, shape, resize):
    image = np.random.default_rng(3).integers(0, 256, (*shape, 3)).astype(np.uint8)
    scaling = Scaling(64, 8, grid, resize)
    found = _scaled(tmp_path, image, _about(scaling))
    difference = np.abs(found - np.asarray(scaling(image)).astype(int))
    # A sum that ends on a half may go either way.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002


def test_a_sensor_s_cells_are_scaled_to_its_pixels(tmp_path):
    image = np.random.default_rng(4).integers(0, 256, (70, 50, 3)).astype(np.uint8)
    scaling = Scaling(64, 8)
    found = _scaled(tmp_path, image, _about(scaling, "classifier_sensor", (4, 3)))
    expected = np.asarray(scaling.resampled(image, (4, 3), "it")).astype(int)
    assert found.shape == (32, 24, 3)
    assert np.abs(found - expected).max() <= 1
    whole = np.random.default_rng(5).integers(0, 256, (32, 24, 3)).astype(np.uint8)
    same = _scaled(tmp_path, whole, _about(scaling, "classifier_sensor", (4, 3)))
    np.testing.assert_array_equal(same, whole)


def test_a_picture_larger_than_what_is_read_at_a_time(tmp_path):
    # 2,100,000 pixels, read in strips of 1,048,576.
    image = np.random.default_rng(6).integers(0, 256, (1500, 1400, 3)).astype(np.uint8)
    scaling = Scaling(32, 8)
    found = _scaled(tmp_path, image, _about(scaling))
    assert np.abs(found - np.asarray(scaling(image)).astype(int)).max() <= 1


def test_a_picture_with_too_few_pixels_is_refused(tmp_path):
    script = f"""
    const data = new Uint8ClampedArray(4 * 7 * 20);
    const source = scaling.sourceOf({{ width: 20, height: 7, data }});
    const error = await scaling.scale(source, {json.dumps(_about(Scaling(64, 8)))}).catch((e) => e);
    console.log(JSON.stringify(error.message));
    """
    assert _node(tmp_path, script) == "7 pixels along a side can't be cut into 8 patches"
