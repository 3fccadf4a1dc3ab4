"""The train command as its user meets it: real processes, killed, resumed, measured again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from sparse_ist_tf.config import get_config, validate
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.runs.training import Run
from sparse_ist_tf.workers.link import Link
from sparse_ist_tf.workers.stopping import Stop
from tests.fixtures.processes import worker_pids

# Small enough for a test: 10 rounds, all parts of a run.
SMALL = (
    "--config.dataset.name=digits",
    "--config.encoder.weights=random:vit_pico",
    "--config.head.hidden=(96, 64)",
    "--config.total_epochs=0",
    "--config.total_steps=100",
    "--config.ist.link=fast",
    "--config.ist.local_steps=10",
    "--config.eval_every_rounds=2",
    "--config.checkpoint_every_rounds=2",
)
# Less of it, where not even what it learns matters.
SHORT = (*SMALL, "--config.total_steps=20", "--config.centralized_baseline=False")


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """One cache of features for all runs of this file."""
    return tmp_path_factory.mktemp("caches")


def _environment(caches, **more):
    environment = {k: v for k, v in os.environ.items() if k not in ("TF_CONFIG", "COLUMNS")}
    return environment | {"XDG_CACHE_HOME": str(caches), "TF_DETERMINISTIC_OPS": "1"} | more


def _command(*arguments, module="train"):
    return [sys.executable, "-m", f"sparse_ist_tf.{module}", *map(str, arguments)]


def _run(caches, *arguments, module="train", cwd=None, timeout_s=300, **more):
    return subprocess.run(
        _command(*arguments, module=module),
        env=_environment(caches, **more),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def _weights(workdir):
    state = load_file(sorted(Path(workdir).glob("checkpoints/*"))[-1])
    return {name: value for name, value in state.items() if "moment" not in name}


def _metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(caches, tmp_path_factory):
    """(workdir, what the command printed) of a run of two workers."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    done = _run(caches, f"--workdir={workdir}", *SMALL)
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_a_run_leaves_everything_that_is_promised(finished):
    workdir, _ = finished
    names = {path.name for path in workdir.iterdir() if not path.name.startswith(".")}
    assert names == {
        "config.json",
        "data.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "head.keras",
        "masks.png",
        "training.png",
        "results.json",
        "report.md",
    }
    assert not list(workdir.rglob("*tmp*"))
    records = _metrics(workdir)
    assert [record["step"] for record in records] == [20, 40, 60, 80, 100]
    assert records[-1]["loss"] < records[0]["loss"]
    assert Image.open(workdir / "masks.png").size[0] > 500


def test_it_prints_bars_a_table_and_what_to_do_next(finished):
    workdir, done = finished
    bars = done.stderr.replace("\r", "\n")
    assert "random:vit_pico: 4 blocks of width 96" in done.stderr
    assert "rounds: 10 of 10 local steps" in done.stderr
    assert "warning" not in done.stderr
    assert re.search(r"encoding digits/train: 100%.* images/s", bars)
    assert re.search(r"rounds: 100%.*loss [\d.]+, accuracy [\d.]+, test [\d.]+, sent [\d.]+", bars)
    for words in (
        "Test accuracy (360 images)",
        "merged head",
        "subnet 3 alone",
        "ensemble of 4 subnets",
        "centralised head, same steps as a worker",
        "Bytes sent per worker (2 workers)",
        "data_parallel would have sent",
        "local_sgd would have sent",
        f"Run directory: {workdir}",
        f"python -m sparse_ist_tf.evaluate --run={workdir}",
    ):
        assert words in done.stdout
    assert "Traceback" not in done.stderr
    assert "tensorflow" not in done.stderr.lower(), "no library's chatter"


def test_a_finished_run_is_not_run_again(finished, caches):
    workdir, done = finished
    start = time.monotonic()
    again = _run(caches, f"--workdir={workdir}", *SMALL)
    assert again.returncode == 0
    found, results = done.stdout.split("Test accuracy", 1)
    assert found.startswith("data: digits, 10 classes, 1,437 images to train on and 360 to test\n")
    assert again.stdout == f"{workdir} is finished.\nTest accuracy{results}"
    assert time.monotonic() - start < 60


def test_evaluate_recomputes_every_accuracy(finished, caches):
    workdir, _ = finished
    done = _run(caches, f"--run={workdir}", module="evaluate")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("The same as stored.\n")
    for line in done.stdout.splitlines()[2:-1]:
        again, stored = re.findall(r"([\d.]+) %", line)
        assert again == stored
    assert "centralised head" in done.stdout


def test_the_merged_head_is_a_plain_keras_model(finished):
    import keras

    workdir, _ = finished
    model = keras.saving.load_model(workdir / "head.keras")
    weights = _weights(workdir)
    assert [layer.name for layer in model.layers] == ["dense_0", "dense_1", "dense_2"]
    for layer in model.layers:
        kernel, bias = layer.get_weights()
        assert np.array_equal(kernel, weights[f"{layer.name}/kernel"])
        assert np.array_equal(bias, weights[f"{layer.name}/bias"])


@pytest.mark.parametrize("num_workers", [1, pytest.param(4, marks=pytest.mark.large)])
def test_neither_workers_nor_a_damaged_cache_change_more_than_the_bytes(
    finished, caches, tmp_path, num_workers
):
    workdir, _ = finished
    run = tmp_path / "run"
    for file in _feature_files(caches):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    done = _run(caches, f"--workdir={run}", f"--num_workers={num_workers}", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "is damaged and not used" in done.stderr
    one, other = (json.loads((p / "results.json").read_text()) for p in (workdir, run))
    assert abs(one["accuracy"]["merged"] - other["accuracy"]["merged"]) <= 0.003
    for name, value in _weights(workdir).items():
        np.testing.assert_allclose(_weights(run)[name], value, rtol=0, atol=1e-5, err_msg=name)
    sent = other["training_bytes"]
    assert sent == 0 if num_workers == 1 else 0 < sent < one["training_bytes"]


def _feature_files(caches):
    files = list(caches.rglob("*.features"))
    assert files
    return files


def _kill_after_checkpoint(process, workdir, victim):
    """Waits for the first checkpoint, then ends one worker or all processes as kill -9 does."""
    deadline = time.monotonic() + 200
    while not list(workdir.glob("checkpoints/[!.]*.safetensors")):  # not one being written
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = worker_pids(process.pid)
    assert len(workers) == 2
    for pid in (process.pid, *workers) if victim == "all" else (workers[victim],):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("victim", "num_workers"), [(1, 1), pytest.param("all", 2, marks=pytest.mark.large)]
)
def test_killed_and_started_again_it_ends_with_the_same_weights(
    finished, caches, tmp_path, victim, num_workers
):
    undisturbed, _ = finished
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        _command(f"--workdir={workdir}", "--max_restarts=0", *SMALL),
        env=_environment(caches),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _kill_after_checkpoint(process, workdir, victim)
    _, err = process.communicate(timeout=100)
    if victim != "all":
        assert process.returncode == 1
        assert "error: worker 1 was ended by SIGKILL" in err
    assert not (workdir / "results.json").exists()
    done = _run(caches, f"--workdir={workdir}", f"--num_workers={num_workers}", *SMALL)
    assert done.returncode == 0, done.stderr
    assert re.search(r"goes on from step \d+ of 100", done.stdout)
    for name, value in _weights(undisturbed).items():
        np.testing.assert_allclose(_weights(workdir)[name], value, rtol=0, atol=1e-5, err_msg=name)
    one, other = (json.loads((p / "results.json").read_text()) for p in (undisturbed, workdir))
    assert other["accuracy"] == one["accuracy"]
    assert other["centralized_accuracy"] == one["centralized_accuracy"]
    assert [record["step"] for record in _metrics(workdir)] == [20, 40, 60, 80, 100]


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param("data_parallel", marks=pytest.mark.large),
        pytest.param("local_sgd", marks=pytest.mark.large),
        pytest.param("diloco", marks=pytest.mark.large),
        pytest.param("centralized", marks=pytest.mark.large),
    ],
)
def test_the_baselines_run_under_the_same_command(caches, tmp_path, algorithm):
    done = _run(
        caches, f"--workdir={tmp_path / 'run'}", *SMALL, f"--config.ist.algorithm={algorithm}"
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["algorithm"] == algorithm
    assert results["accuracy"]["subnets"] == []
    if algorithm in ("data_parallel", "local_sgd"):
        # As estimated, and the losses with it.
        estimate = results["synchronous_bytes"][algorithm]
        assert estimate < results["training_bytes"] < 1.001 * estimate


@pytest.mark.large
def test_random_masks_non_iid_shards_a_thin_link_and_a_dressed_head(caches, tmp_path):
    done = _run(
        caches,
        f"--workdir={tmp_path / 'run'}",
        *SMALL,
        "--config.masks.kind=random",
        "--config.masks.grid=scaled",
        "--config.dataset.shards=dirichlet",
        "--config.ist.capacities=(4, 2, 1, 1)",
        "--config.ist.moments=reset",
        "--config.optimizer.name=sgd",
        "--config.optimizer.kwargs={'momentum': 0.9}",
        "--config.transport.codec=patches",
        "--config.transport.quality=30",
        "--config.transport.features=int8",
        "--config.head.standardize=true",
        "--config.head.normalization=batch",
        "--config.head.dropout=0.1",
        "--config.ist.widths=subnet",
        "--config.ist.biases=slot",
        "--config.ist.local_steps_schedule=consensus",
        "--config.total_steps=60",
    )
    assert done.returncode == 0, done.stderr
    sizes = json.loads((tmp_path / "run" / "results.json").read_text())["bytes_per_image"]
    assert sizes["quality"] == 30
    assert sizes["images"] == 256
    assert sizes["patches_jpeg"] < sizes["patches_jpeg_bitmap"] < sizes["patches_raw"]
    assert sizes["feature_int8"] < sizes["feature_float16"] < sizes["feature_float32"]
    assert "| visible patches, JPEG of quality 30 |" in (tmp_path / "run/report.md").read_text()
    again = _run(caches, f"--run={tmp_path / 'run'}", module="evaluate")
    assert again.returncode == 0, again.stdout + again.stderr
    # Four times the widths; 5 rounds of 10 steps, one of 4, then the last 6 steps one by one.
    assert _weights(tmp_path / "run")["dense_1/kernel"].shape == (384, 256)
    assert _metrics(tmp_path / "run")[-1]["round"] == 12


def _refused(done, status, *words):
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.masks.ratio=1"], ["masks.ratio=1", "[0, 1)"]),
        (["--config.masks.ratoi=0.5"], ["ratoi", "masks has kind"]),
        (["--config=missing.py"], ["missing.py"]),
        (["--wrokdir=x"], ["wrokdir"]),
        (["runs/x"], ["runs/x"]),
        (["--num_workers=5"], ["ist.num_subnets=4", "num_workers=5"]),
        (["--num_workers=0"], ["num_workers=0"]),
        (["--config.head.hidden=(100, 3)"], ["head.hidden=(100, 3)"]),
        pytest.param(
            ["--config.encoder.weights=packaged:vit_huge"],
            ["packaged:vit_huge", "vit_micro"],
            marks=pytest.mark.large,
        ),
        pytest.param(["--config.encoder.pool=max"], ["pool='max'", "cls"], marks=pytest.mark.large),
        (["--config.dataset.name=folder:nowhere", "--num_workers=1"], ["nowhere"]),
        (["--config.optimizer.kwargs={'beta': 1}"], ["optimizer.kwargs", "beta"]),
    ],
)
def test_a_bad_request_is_one_line_and_status_2(caches, tmp_path, arguments, words):
    done = _run(caches, *arguments, cwd=tmp_path)
    _refused(done, 2, *words)
    assert not list(tmp_path.glob("runs/*/results.json"))


@pytest.mark.parametrize("module", ["train", pytest.param("pretrain", marks=pytest.mark.large)])
def test_data_that_is_not_there_is_told_of_once_before_workers_start(caches, tmp_path, module):
    """What may have to be fetched is, by one process that isn't a worker."""
    arguments = ("--config.dataset.name=aid", f"--config.dataset.data_dir={tmp_path}")
    workdir = f"--workdir={tmp_path / 'run'}"
    done = _run(caches, *arguments, workdir, "--num_workers=2", module=module)
    _refused(done, 2, "aid")


def test_another_configuration_in_the_run_directory_is_refused(finished, caches):
    workdir, _ = finished
    done = _run(caches, f"--workdir={workdir}", *SMALL, "--config.seed=7")
    _refused(done, 2, str(workdir), "another seed (0, not 7)")


def _pictures(folder, classes, count=12):
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class_{label}").mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 128, (20, 30, 3), np.uint8)
            pixels[..., label % 3] += 100
            Image.fromarray(pixels).save(folder / f"class_{label}" / f"{i}.png")


@pytest.mark.parametrize(
    ("name", "num_workers"), [pytest.param("empty", 2, marks=pytest.mark.large), ("one", 1)]
)
def test_an_empty_folder_and_one_class_are_refused(caches, tmp_path, name, num_workers):
    (tmp_path / "empty").mkdir()
    _pictures(tmp_path / "one", 1)
    done = _run(
        caches,
        f"--workdir={tmp_path / 'run'}",
        *SMALL,
        f"--config.dataset.name=folder:{tmp_path / name}",
        f"--num_workers={num_workers}",
    )
    _refused(done, 2, str(tmp_path / name))


def _with_a_bad_picture(tmp_path):
    """(The path of a picture that can't be read, arguments to train on it and others)."""
    _pictures(tmp_path / "photos", 3)
    bad = tmp_path / "photos" / "class_1" / "0.png"
    bad.write_bytes(bad.read_bytes()[:300])
    return bad, (
        f"--workdir={tmp_path / 'run'}",
        *SHORT,
        f"--config.dataset.name=folder:{tmp_path / 'photos'}",
        "--config.batch_size=8",
    )


def test_an_unreadable_image_is_named_once(caches, tmp_path):
    bad, arguments = _with_a_bad_picture(tmp_path)
    done = _run(caches, *arguments)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(bad) in errors[0]


@pytest.mark.large
def test_an_unreadable_image_is_skipped(caches, tmp_path):
    _, arguments = _with_a_bad_picture(tmp_path)
    done = _run(caches, *arguments, "--num_workers=1", "--config.dataset.on_bad_image=skip")
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "warning: " in line]
    assert len(warnings) == 1
    assert re.search(r"left out 1 of \d+ images; the first: .*class_1/0\.png", warnings[0])


def _begun(caches, workdir, **keys):
    """A run in this process that is ready for its first round."""
    config = get_config()
    config.dataset.name, config.encoder.weights = "digits", "random:vit_pico"
    config.features.cache_dir = str(_feature_files(caches)[0].parent)
    config.head.hidden, config.centralized_baseline = (96, 64), False
    config.total_epochs = 0.0
    config.update_from_flattened_dict(keys)
    validate(config, 1)
    return Run(config, RunDirectory(workdir), Link.alone())


def test_a_run_that_deals_its_neurons_once_warns_and_one_that_is_short_does_not(
    finished, caches, tmp_path, capsys
):
    _begun(caches, tmp_path / "once", **{"total_steps": 20, "ist.local_steps": 20})
    said = capsys.readouterr().err
    assert "rounds: 1 of 20 local steps\nwarning: neurons are dealt once" in said
    _begun(caches, tmp_path / "short", **{"total_steps": 12, "ist.local_steps": 0})
    said = capsys.readouterr().err
    assert "rounds: 12 of 1 local steps" in said
    assert "warning" not in said


@pytest.mark.large
@pytest.mark.parametrize("link", ["thin", "thinnest"])
def test_a_thin_link_carries_few_bytes(caches, finished, tmp_path, link):
    """And the head learns as well: on the digits, as far as 100 steps show it."""
    fast = json.loads((finished[0] / "results.json").read_text())
    done = _run(caches, f"--workdir={tmp_path / 'run'}", *SMALL, f"--config.ist.link={link}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["training_bytes"] < fast["training_bytes"] / 4
    assert results["accuracy"]["merged"] > fast["accuracy"]["merged"] - 0.05
    again = _run(
        caches,
        f"--workdir={tmp_path / 'one'}",
        *SMALL,
        f"--config.ist.link={link}",
        "--num_workers=1",
    )
    assert again.returncode == 0, again.stderr
    for name, value in _weights(tmp_path / "run").items():
        np.testing.assert_array_equal(_weights(tmp_path / "one")[name], value)


def test_a_full_disk_leaves_nothing_half_written(finished, caches, tmp_path):
    """A real file system without space: a tmpfs of 1 MB, where this process may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        keys = {"total_steps": 20, "ist.local_steps": 10, "ist.link": "fast"}
        keys["head.hidden"] = (256, 256)
        run = _begun(caches, place / "run", **keys)
        with run.directory.opened(run.config.to_dict()), pytest.raises(RunError, match="No space"):
            run.train(Stop())
        assert not list(place.rglob("*tmp*"))
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # of which files are open


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "accuracy"),
    [pytest.param(name, 0.5, marks=pytest.mark.large) for name in ("aid", "cifar10")],
)
def test_real_images_are_learned(caches, tmp_path, name, accuracy):
    """The main job on AID and CIFAR-10 with the packaged encoder, briefly."""
    done = _run(
        caches,
        f"--workdir={tmp_path / 'run'}",
        f"--config=configs/{name}.py",
        "--config.total_epochs=0",
        "--config.total_steps=300",
        "--config.head.hidden=(256, 256)",
        "--config.centralized_baseline=False",
        cwd=Path(__file__).parents[1],
        timeout_s=1200,  # CIFAR-10 has 60,000 images to encode
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test_size"] == {"aid": 1500, "cifar10": 10_000}[name]
    assert results["accuracy"]["merged"] > accuracy
    assert results["accuracy"]["ensembles"][3] > max(results["accuracy"]["subnets"])
