"""The command that writes encoders for other libraries."""

import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.weights import main


def run(*argv, **kwargs):
    """The command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "sparse_ist_tf.weights", *argv],
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        capture_output=True,
        text=True,
        **kwargs,
    )


def test_command_exports_and_tells_how_to_load(tmp_path):
    out = tmp_path / "m.safetensors"
    done = run("--to=timm", "packaged:vit_micro", str(out))
    assert done.returncode == 0, done.stderr
    assert "6 blocks of width 192, 3 heads" in done.stdout
    assert f"{out}: load it with" in done.stdout
    assert "timm.create_model(" in done.stdout
    assert done.stderr == ""
    assert load_encoder(str(out)).digest == load_encoder("packaged:vit_micro").digest


def test_command_main_to_keras_and_back(tmp_path, capsys):
    out = tmp_path / "m.keras"
    assert main(["--to=keras", "random:vit_pico", str(out), "--mean", ".1", ".2", ".3"]) == 0
    assert "keras.models.load_model(" in capsys.readouterr().out
    encoder = load_encoder("random:vit_pico")
    again = load_encoder(str(out))
    assert again.digest == encoder.digest
    assert again.mean == (0.1, 0.2, 0.3)
    loaded = keras.models.load_model(out)
    for one, other in zip(loaded.get_weights(), encoder.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize(
    ("argv", "status", "told"),
    [
        (["--to=onnx", "random:vit_pico", "{}/a.onnx"], 2, "--to: invalid choice: 'onnx'"),
        (["random:vit_pico", "{}/a.keras"], 2, "--to"),
        (["--to=timm", "random:vit_pico"], 2, "OUT"),
        (["--to=timm", "random:vit_pico", "{}/a.bin"], 2, "must end with .safetensors"),
        (["--to=timm", "hf:nobody/nothing", "{}/a.bin"], 2, "must end with .safetensors"),
        (["--to=keras", "random:vit_pico", "{}/a.safetensors"], 2, "must end with .keras"),
        (["--to=timm", "{}/none.pth", "{}/a.safetensors"], 2, "no such file"),
        (["--to=timm", "random:vit_pico", "{}/no/a.safetensors"], 1, "can't be written"),
        (["--to=timm", "random:vit_pico", "{}/a.safetensors", "--image_size=70"], 2, "70"),
        (["--to=timm", "random:vit_pico", "{}/a.safetensors", "--image_size=x"], 2, "image_size"),
        (["--to=timm", "random:vit_pico", "{}/a.safetensors", "--pool=max"], 2, "--pool"),
        (["--to=timm", "random:vit_pico", "{}/a.safetensors", "--zoo=1"], 2, "--zoo"),
    ],
)
def test_command_says_bad_input_in_one_line(tmp_path, capsys, argv, status, told):
    (tmp_path / "file").write_text("")
    argv = [arg.format(tmp_path if "/no/" not in arg else tmp_path / "file") for arg in argv]
    assert main(argv) == status
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("error: ")
    assert told in lines[0]
    assert not [name for name in os.listdir(tmp_path) if name != "file"]


def test_what_a_file_does_not_tell_is_an_option(tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    argv = ["--to=timm", "random:vit_pico?seed=2", str(out), "--num_heads=4", "--epsilon=1e-5"]
    assert main(argv) == 0
    assert "4 heads" in capsys.readouterr().out
    assert load_encoder(str(out)).model.spec.epsilon == 1e-5
