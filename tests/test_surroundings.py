"""What others left behind: settings of Keras, of a notebook, of the terminal."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.fixtures.processes import SMALL_RUN

SCRIPT = """
import os, sys
from absl import flags
from sparse_ist_tf.commands import quiet, run

def main(_):
    {body}

run(main, lambda: flags.DEFINE_string("name", "", "A name."))
"""
SETTINGS = """with quiet():
        import keras
    c = keras.config
    print(c.backend(), c.floatx(), c.epsilon(), c.image_data_format(), c.dtype_policy().name)"""
LEFT = {
    "floatx": "float16",
    "epsilon": 1e-3,
    "backend": "jax",
    "image_data_format": "channels_first",
}
LOGS = re.compile(r"^[IWEF]\d{4} |oneDNN|cuInit|XNNPACK|TF-TRT|TensorFlow binary|absl::Init", re.M)
OURS = ("KERAS_BACKEND", "KERAS_HOME", "TF_CPP_MIN_LOG_LEVEL", "MPLBACKEND", "COLUMNS", "TF_CONFIG")


def run(body, *arguments, **environment):
    kept = {k: v for k, v in os.environ.items() if k not in OURS}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body), *arguments],
        env=kept | environment,
        capture_output=True,
        timeout=120,
    )


def home(folder, content):
    (folder / ".keras").mkdir(parents=True)
    (folder / ".keras/keras.json").write_text(content)
    return str(folder)


@pytest.mark.parametrize(
    "backend",
    [
        {},
        pytest.param(
            {"KERAS_BACKEND": "", "KERAS_MAX_EPOCHS": "many"}, marks=pytest.mark.large, id="said"
        ),
    ],
)
def test_keras_has_its_own_defaults(tmp_path, backend):
    done = run(SETTINGS, HOME=home(tmp_path, json.dumps(LEFT)), **backend)
    assert done.stdout.decode().split() == [
        "tensorflow",
        "float32",
        "1e-07",
        "channels_last",
        "float32",
    ]
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "must be a JSON object"),
        ('{"floatx": "float8"}', "floatx='float8': must be one of float16, float32, float64"),
        ('{"image_data_format": "first"}', "image_data_format='first': must be one of"),
        ('{"epsilon": 1}', "epsilon=1: must be a number such as 1e-7"),
    ],
)
def test_a_keras_json_that_keras_fails_on_is_one_line(tmp_path, content, told):
    for kind in ({"HOME": home(tmp_path, content)}, {"KERAS_HOME": str(tmp_path / ".keras")}):
        done = run("pass", **kind)
        assert done.returncode == 2
        lines = done.stderr.decode().splitlines()
        assert len(lines) == 1
        assert f"keras.json: {told}" in lines[0]


@pytest.mark.parametrize("content", ["", "{", '{"floatx": "float', "{}"])
def test_a_keras_json_that_keras_ignores_is_ignored(tmp_path, content):
    assert run("pass", HOME=home(tmp_path, content)).stderr == b""


def test_weights_say_a_wrong_backend_in_one_line():
    command = [sys.executable, "-m", "sparse_ist_tf.weights", "--to=timm", "random:vit_pico", "a"]
    done = subprocess.run(
        command, env=os.environ | {"KERAS_BACKEND": "torch"}, capture_output=True, text=True
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("error: KERAS_BACKEND=torch: must be tensorflow")


@pytest.mark.parametrize(
    ("left", "level"),
    [
        ({}, "3"),
        ({"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_MAX_VLOG_LEVEL": "2"}, "3"),
        ({"TF_CPP_MIN_LOG_LEVEL": "1", "SPARSE_IST_LOGS": "1"}, "1"),
    ],
)
def test_libraries_log_for_who_asks(left, level):
    names = "'TF_CPP_MIN_LOG_LEVEL', 'TF_CPP_MAX_VLOG_LEVEL'"
    done = run(f"print([os.environ.get(name) for name in ({names})])", **left)
    assert done.stdout.decode() == f"['{level}', None]\n"


def test_a_notebook_s_windows_are_not_for_commands():
    body = "print(os.environ['MPLBACKEND'])"
    done = run(body, MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert done.stdout == b"agg\n"


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "utf-8"])
def test_what_a_terminal_can_not_show_is_escaped(encoding):
    done = run("print('犬 ★ \\udcff'); print('犬', file=sys.stderr)", PYTHONIOENCODING=encoding)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert done.stdout.endswith(b"\\udcff\n")
    assert done.stdout.startswith("犬".encode() if encoding == "utf-8" else rb"\u72ac")


def test_names_are_utf8_in_an_ascii_locale():
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    body = "print(flags.FLAGS.name == '\\u72ac', sys.getfilesystemencoding(), sys.argv[1:])"
    done = run(body, "--name=犬", **ascii_locale)
    assert done.stdout.startswith(b"True utf-8 "), done.stderr


@pytest.mark.large
def test_a_training_is_the_same_whatever_others_left(tmp_path):
    """And no line of TensorFlow's own log, of workers neither."""
    left = {
        "HOME": home(tmp_path, json.dumps(LEFT)),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "TERM": "weird",
        "COLUMNS": "many",
        "TF_USE_LEGACY_KERAS": "1",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    found = []
    for name, environment in (("plain", {}), ("läft ★", left)):
        kept = {k: v for k, v in os.environ.items() if k not in OURS}
        folder = tmp_path / name
        more = [f"--workdir={folder}", f"--config.features.cache_dir={tmp_path / name}.cache"]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "sparse_ist_tf.train",
                *SMALL_RUN,
                "--config.total_steps=8",
                *more,
            ],
            env=kept | environment,
            capture_output=True,
            timeout=300,
        )
        error = done.stderr.decode(errors="replace")
        assert (done.returncode, "Traceback" in error) == (0, False), error
        assert not LOGS.search(error), error
        found.append(load_file(sorted(Path(folder, "checkpoints").iterdir())[-1]))
    for key, value in found[0].items():
        assert value.tobytes() == found[1][key].tobytes(), key


@pytest.mark.parametrize(
    "command",
    [
        ("masks", "--count=1", "--dataset=digits", "--image_size=8", "--patch_size=4"),
        pytest.param(
            ("weights", "--to=timm", "random:vit_pico", "w.safetensors"), marks=pytest.mark.large
        ),
    ],
    ids=lambda command: command[0],
)
def test_no_line_of_tensorflow_s_log(tmp_path, command):
    kept = {k: v for k, v in os.environ.items() if k not in OURS}
    done = subprocess.run(
        [sys.executable, "-m", f"sparse_ist_tf.{command[0]}", *command[1:]],
        env=kept,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
