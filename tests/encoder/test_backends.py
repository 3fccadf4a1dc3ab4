"""The encoder is Keras', not only TensorFlow's: the same features under every backend."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.checkpoints.writing import save_encoder
from sparse_ist_tf.encoder.spec import ViTSpec
from sparse_ist_tf.encoder.vit import ViT

_ENCODE = """
import sys
import keras
import numpy as np
from sparse_ist_tf.checkpoints.loading import load_encoder
assert "tensorflow" not in sys.modules
weights, cases, out = sys.argv[1:]
case = np.load(cases)
names = weights.split(",")
features = {}
for i, name in enumerate(names):
    model = load_encoder(name).model
    inputs = {"patches": case[f"patches{i}"], "positions": case[f"positions{i}"]}
    features[f"called{i}"] = keras.ops.convert_to_numpy(model(inputs))
    features[f"predicted{i}"] = model.predict(inputs, batch_size=2, verbose=0)
np.savez(out, **features)
print(keras.backend.backend())
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_features_are_the_same_under_another_backend(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}: pip install {backend}")
    variants = [
        {"activation": "gelu"},
        {"activation": "swiglu", "extra_tokens": 2},
        {"pool": "cls_mean"},
    ]
    names = ["packaged:vit_micro"]
    for i, changes in enumerate(variants):
        names.append(str(tmp_path / f"{i}.safetensors"))
        model = ViT(ViTSpec(image_size=64, patch_size=8, width=32, depth=2, num_heads=2, **changes))
        save_encoder(names[-1], model, dtype="float32")
    rng = np.random.default_rng(0)
    cases, features = {}, []
    for i, name in enumerate(names):
        patches = rng.standard_normal((4, 16, 192)).astype(np.float32)
        places = np.stack([rng.permutation(64)[:16] for _ in range(4)]).astype(np.int32)
        cases |= {f"patches{i}": patches, f"positions{i}": places}
        model = load_encoder(name).model
        features.append(
            keras.ops.convert_to_numpy(model({"patches": patches, "positions": places}))
        )
    np.savez(tmp_path / "cases.npz", **cases)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _ENCODE,
            ",".join(names),
            tmp_path / "cases.npz",
            tmp_path / "out.npz",
        ],
        env=os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [backend]
    out = np.load(tmp_path / "out.npz")
    for i, feature in enumerate(features):
        np.testing.assert_allclose(out[f"called{i}"], feature, rtol=0, atol=1e-4)
        np.testing.assert_allclose(out[f"predicted{i}"], feature, rtol=0, atol=1e-4)
