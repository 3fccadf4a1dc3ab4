"""The command: its statuses, and one line for what is wrong."""

import os
import shutil
import signal
import subprocess
import sys

import pytest


def _run(*arguments):
    command = [sys.executable, "-m", "sparse_ist_tf.export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


BAD = [
    (["--run={tmp}", "--target=phone"], "is no run directory"),
    (["--run={tmp}/nowhere", "--target=phone"], "is no run directory"),
    (["--run={unfinished}", "--target=phone"], "the run is not finished"),
    (["--run={run}", "--target=fridge"], "error: target='fridge': must be one of phone, coral"),
    (["--run={run}", "--target=fone"], "(did you mean 'phone'?)"),
    (["--target=phone"], "error: --run is missing"),
    (["--run={run}"], "error: --target is missing"),
    (["--run={run}", "--target=micro", "--flash=0"], "flash=0: must be at least 1 byte"),
    (["--run={run}", "--target=phone", "--subnets=a"], "subnets=a: must be numbers"),
    (["--run={run}", "--target=phone", "--subnets=7"], "subnets=7: the run has 2 subnets"),
    (["--run={run}", "--target=phone", "--prune=9:4"], "prune='9:4': must be 2:4"),
    (["--run={run}", "--target=phone", "--speed=3"], "speed"),
    (
        ["--run={run}", "--target=phone", "--artefacts=heads"],
        "must be one of subnet, head, encoder",
    ),
    (["--run={run}", "--target=phone", "--quantize=int4"], "quantize='int4': must be one of"),
    (["--run={run}", "--target=coral", "--quantize=float32"], "target coral takes int8"),
    (["--run={run}", "--target=coral", "--softmax"], "softmax: int8 has too few numbers"),
    (["--run={run}", "--target=phone", "--calibration=0"], "calibration=0: must be at least 1"),
    *(
        (["--run={run}", "--target=phone", f"--bound={bound}"], f"bound={bound}: must be points")
        for bound in ("nan", "inf", "101", "-0.5")
    ),
    (["--run={run}", "--target=phone", "--bound=low"], "bound"),
    (["--run={run}", "--target=phone", "--output={file}"], "is no folder"),
    (["--run={run}", "--target=web", "--output={other}"], "has a index.html of another kind"),
    (["--target_table={tmp}/no.json", "--run={run}", "--target=x"], "no.json': can't be read"),
]

# The command as `python -m` runs it, and what it has imported in the end.
SCRIPT = """
import runpy, sys, time
try:
    runpy.run_module("sparse_ist_tf.export", run_name="__main__", alter_sys=True)
finally:
    print("heavy:", sorted({"tensorflow", "keras", "matplotlib"} & set(sys.modules)))
"""


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_bad_request_is_one_line_and_status_2_before_tensorflow_is_imported(
    run_path, tmp_path, tmp_path_factory, arguments, message
):
    other = tmp_path_factory.mktemp("other")
    file, unfinished = other / "file", other / "unfinished"
    file.touch()
    (other / "index.html").touch()
    unfinished.mkdir()
    shutil.copy(run_path / "config.json", unfinished)
    names = {"run": run_path, "tmp": tmp_path, "file": file, "unfinished": unfinished}
    names["other"] = other
    command = [sys.executable, "-c", SCRIPT, *(argument.format(**names) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "heavy: []\n"), done.stderr
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("tflite_micro", ["--target=micro"], "pip install --pre tflite-micro"),
        ("tf_keras", ["--target=phone", "--qat"], "pip install tf-keras"),
    ],
)
def test_a_missing_extra_is_named_with_what_brings_it(run_path, module, arguments, message):
    hidden = f"import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == {module!r} else f(n, *a)"  # noqa: E501
    command = [sys.executable, "-c", hidden + SCRIPT, f"--run={run_path}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "heavy: []\n"), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(n, marks=pytest.mark.large) for n in (signal.SIGINT, signal.SIGHUP)),
    ],
)
def test_a_stopped_export_leaves_nothing(run_path, tmp_path, number):
    """Where it was given a folder whose parents it has to make."""
    command = [sys.executable, "-m", "sparse_ist_tf.export", f"--run={run_path}", "--target=phone"]
    with subprocess.Popen(
        [*command, f"--output={tmp_path}/new/er/phone"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert any("1/10 " in line for line in process.stderr), "it is at work"
        assert list(tmp_path.glob("new/er/.export.*"))
        process.send_signal(number)
        _, printed = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []


def test_status_1_if_a_file_is_not_good(run_path, tmp_path):
    arguments = (f"--run={run_path}", "--target=phone", "--artefacts=head", "--quantize=float32")
    done = _run(*arguments, f"--output={tmp_path}/out", "--flash=1000")
    assert done.returncode == 1
    assert "Not kept" in done.stdout
    assert not list((tmp_path / "out").glob("*.tflite"))


@pytest.mark.parametrize("locale", ["C", pytest.param("POSIX", marks=pytest.mark.large)])
def test_status_0_and_in_the_c_locale_names_of_any_letters_are_written_as_they_are(
    run_path, tmp_path, locale
):
    """Where Python isn't told to take UTF-8 all the same."""
    python = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    output = tmp_path / "gefäß 図"
    command = [sys.executable, "-m", "sparse_ist_tf.export", f"--run={run_path}", "--target=phone"]
    command += ["--artefacts=head", "--quantize=float32", f"--output={output}"]
    environment = os.environ | python | {"LC_ALL": locale, "LANG": locale}
    done = subprocess.run(command, capture_output=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    for word in (b"Traceback", b"INFO", b"error"):
        assert word not in done.stderr
    assert b"1/1 digits_vit_pico_m50_head_float32.tflite\n" in done.stderr
    assert b"100.0 %" in done.stdout
    assert b"Kept in " in done.stdout
    assert b": 1 files" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    assert len(list(output.glob("*_head_float32.tflite"))) == 1
    assert "of ten" in (output / "labels.txt").read_text(encoding="utf-8")
    assert (output / "model_card.md").read_text(encoding="utf-8")
