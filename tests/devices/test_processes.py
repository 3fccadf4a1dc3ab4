"""Server and devices as processes, over Flower on the loopback."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("flwr")
pytest.importorskip("sparse_ist_tf.export.training.runtime")
pytestmark = pytest.mark.large

ROOT = Path(__file__).parents[2]
CLASSES = ("bright", "dark", "striped")
WAIT_S = 300


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def draw(folder, count, seed):
    """Pictures of three kinds, a folder for each."""
    rng = np.random.default_rng(seed)
    for name, base in zip(CLASSES, (200, 40, 120), strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image = rng.normal(base, 20, (16, 16, 3))
            if name == "striped":
                image[::4] += 80
            pixels = image.clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}_{i:03d}.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """all/train and all/test for the server, c0 and c1 with the training pictures of each."""
    root = tmp_path_factory.mktemp("pictures")
    draw(root / "all" / "test", 8, 9)
    for i in range(2):
        draw(root / f"c{i}", 12, i)
        draw(root / "all" / "train", 12, i)
    return root


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@dataclasses.dataclass
class Processes:
    """Started processes, whose output goes to files."""

    folder: Path
    pictures: Path
    port: int = dataclasses.field(default_factory=free_port)
    started: list = dataclasses.field(default_factory=list)

    def start(self, name, *command):
        log = open(self.folder / f"{name}.log", "a")  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=log, stderr=log, env=environment()
        )
        self.started.append(process)
        return process

    def server(self, *flags, steps=40, subnets=2):
        config = {
            "dataset.name": f"folder:{self.pictures}/all",
            "encoder.weights": "packaged:vit_pico",
            "features.cache_dir": self.folder / "cache",
            "head.hidden": "(32,32)",
            "masks.kind": "shared",
            "ist.num_subnets": subnets,
            "ist.local_steps": 10,
            "ist.link": "fast",
            "total_steps": steps,
            "total_epochs": 0,
            "batch_size": 8,
            "checkpoint_every_rounds": 1,
        }
        keys = [f"--config.{key}={value}" for key, value in config.items()]
        listen = f"--listen=127.0.0.1:{self.port}"
        words = "-m", "sparse_ist_tf.devices", "server", f"--workdir={self.folder}/run", listen
        return self.start("server", *words, *keys, *flags)

    def client(self, images, *flags, name="", script="", patience=120):
        name = name or Path(images).name
        place = f"--server=127.0.0.1:{self.port}", f"--images={self.pictures / images}"
        words = [script] if script else ["-m", "sparse_ist_tf.devices", "client"]
        more = f"--name={name}", f"--patience_s={patience}"
        return self.start(name, *words, *place, *more, *flags)

    def log(self, name):
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, name, text):
        until = time.monotonic() + WAIT_S
        while text not in self.log(name):
            assert time.monotonic() < until, f"{name} doesn't say {text!r}:\n{self.log(name)}"
            time.sleep(0.1)

    def results(self):
        return json.loads((self.folder / "run" / "results.json").read_text())


@pytest.fixture
def processes(tmp_path, pictures):
    found = Processes(tmp_path, pictures)
    yield found
    for process in found.started:
        if process.poll() is None:
            process.kill()
            process.wait()


# A client that says what it has imported when it ends.
LISTING = """
import sys
from sparse_ist_tf.devices.device.command import main
status = main(sys.argv[1:])
heavy = {"tensorflow", "keras", "jax", "torch", "matplotlib", "scipy"}
print("imported:", sorted(heavy & {name.split(".")[0] for name in sys.modules}))
raise SystemExit(status)
"""
# One whose answers are spoiled, in the way that its last argument names.
SPOILING = """
import dataclasses, sys
from sparse_ist_tf.devices.device import command
from sparse_ist_tf.devices.wire.records import Block
*argv, way = sys.argv[1:]
train, last = command.Device._train, []
def spoiled(self, record):
    answer = train(self, record)
    def changed(function):
        arrays = {k: function(v) if "|0|0" in k else v for k, v in answer.block.arrays.items()}
        return dataclasses.replace(answer, block=Block(arrays))
    if way == "NaN":
        return changed(lambda a: a * float("nan"))
    if way == "shape":
        return changed(lambda a: a[..., :-1])
    if way == "block":
        return dataclasses.replace(answer, subnet=1 - answer.subnet)
    if way == "large":
        return changed(lambda a: a * a.dtype.type(1e6))
    last.append(answer)  # an old round's
    return last[0]
command.Device._train = spoiled
raise SystemExit(command.main(argv))
"""


def test_the_head_is_that_of_train_and_devices_lack_tensorflow(processes, tmp_path):
    listing = tmp_path / "listing.py"
    listing.write_text(LISTING)
    server = processes.server()
    clients = [processes.client(f"c{i}", script=listing) for i in range(2)]
    assert server.wait(WAIT_S) == 0, processes.log("server")
    for i, client in enumerate(clients):
        assert client.wait(60) == 0, processes.log(f"c{i}")
        assert "imported: []" in processes.log(f"c{i}")
        assert "took part in 4 rounds" in processes.log(f"c{i}")
    results = processes.results()
    assert results["devices"]["refusals"] == {}
    assert [seen["merged"] for seen in results["devices"]["devices"].values()] == [4, 4]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| c0 | 36 | 4 | 0 | 0 |" in report
    assert (tmp_path / "run" / "head.keras").exists()
    assert any((tmp_path / "run" / "tensorboard").iterdir())
    _compare_with_train(processes, tmp_path)


def _compare_with_train(processes, folder):
    """Trains in this process on the same features, in the same shards."""
    from sparse_ist_tf.config import get_config
    from sparse_ist_tf.ist.rounds import IstTrainer
    from sparse_ist_tf.ist.state import HeadState
    from sparse_ist_tf.ist.trainer import TrainingData
    from sparse_ist_tf.keys import updated
    from sparse_ist_tf.reports.run_directory import RunDirectory
    from sparse_ist_tf.runs.finished_run import FinishedRun
    from sparse_ist_tf.runs.parts import trainer_options
    from sparse_ist_tf.workers.link import Link

    directory = RunDirectory(folder / "run")
    run = FinishedRun(folder / "run")
    config = updated(get_config(), directory.config())
    train = run.images.splits["train"]
    features = run.images.features("train")
    names = [name for name, _ in train.files]
    shards = [
        np.array([i for i, name in enumerate(names) if Path(name).name.startswith(f"{k}_")])
        for k in range(2)
    ]
    data = TrainingData(features, train.labels, shards, None, [np.zeros(3, np.float32)] * 2)
    trainer = IstTrainer(run.spec, trainer_options(config, 40), Link.alone(), data)
    for _ in range(4):
        trainer.run_round()
    known, found = trainer.gather(), HeadState.of_arrays(directory.checkpoint()[0])
    for part in run.spec.parameters():
        mine, theirs = (state.head.values[part.name] for state in (found, known))
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_a_device_killed_in_mid_round_is_missed_and_another_comes(processes):
    server = processes.server("--round_s=60", steps=100)
    victim = processes.client("c0", name="victim")
    processes.client("c1", name="other")
    processes.wait_for("other", "round 1:")
    victim.send_signal(signal.SIGKILL)
    processes.wait_for("server", "without subnet")
    late = processes.client("c0", name="late")
    processes.wait_for("server", "device late has subnet")
    assert server.wait(WAIT_S) == 0, processes.log("server")
    assert late.wait(60) == 0
    devices = processes.results()["devices"]["devices"]
    assert devices["victim"]["merged"] < 10
    assert devices["late"]["merged"] > 0
    assert devices["other"]["merged"] == 10
    assert "without subnet" in processes.log("server")


def test_a_server_killed_goes_on_and_its_devices_come_back(processes):
    server = processes.server(steps=80)
    clients = [processes.client(f"c{i}") for i in range(2)]
    processes.wait_for("c0", "round 3:")
    server.send_signal(signal.SIGKILL)
    server.wait()
    server = processes.server(steps=80)
    assert server.wait(WAIT_S) == 0, processes.log("server")
    for i, client in enumerate(clients):
        assert client.wait(60) == 0, processes.log(f"c{i}")
    assert "goes on from step" in processes.log("server")
    steps = [
        json.loads(line)["step"]
        for line in (processes.folder / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [10, 20, 30, 40, 50, 60, 70, 80]
    assert processes.results()["devices"]["refusals"] == {}


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        ("NaN", "not finite"),
        ("shape", "another shape"),
        ("block", "another subnet"),
        ("large", "too large"),
        ("old", "another round"),
    ],
)
def test_a_bad_device_is_refused_and_the_others_go_on(way, kind, processes, tmp_path):
    script = tmp_path / "spoiling.py"
    script.write_text(SPOILING)
    server = processes.server("--round_s=30", steps=50)
    processes.client("c0")
    processes.client("c1", way, name="odd", script=script)
    assert server.wait(WAIT_S) == 0, processes.log("server")
    found = processes.results()["devices"]
    assert set(found["refusals"]) == {kind}
    assert found["devices"]["odd"]["refused"] == sum(found["refusals"].values()) > 0
    assert found["devices"]["c0"]["merged"] == 5
    lines = [line for line in processes.log("server").splitlines() if "is refused" in line]
    assert len(lines) == sum(found["refusals"].values())
    assert f"refused: {kind}" in (tmp_path / "run" / "report.md").read_text()


def test_who_has_other_classes_or_nothing_is_told_so(processes, pictures):
    (pictures / "empty" / "bright").mkdir(parents=True, exist_ok=True)
    draw(pictures / "odd", 2, 5)
    if not (pictures / "odd" / "cat").exists():
        (pictures / "odd" / "dark").rename(pictures / "odd" / "cat")
    draw(pictures / "more", 2, 6)
    (pictures / "more" / "cat").mkdir(exist_ok=True)
    server = processes.server(steps=10, subnets=1)
    texts = {
        "empty": "has no picture",
        "nowhere": "there is no such folder",
        "odd": "unknown here: 'cat'",
        "more": "has 4 folders of classes, the training 3",
    }
    for name, text in texts.items():
        client = processes.client(name)
        assert client.wait(WAIT_S) == 2, processes.log(name)
        [line] = [x for x in processes.log(name).splitlines() if x.startswith("error: ")]
        assert text in line
    processes.client("c0")
    assert server.wait(WAIT_S) == 0, processes.log("server")
    assert processes.results()["devices"]["refusals"] == {"no member": 2}


def test_keys_and_certificates(processes, tmp_path):
    """TLS, a registered key, one that isn't, and one that comes twice."""
    home = tmp_path / "flwr"
    home.mkdir()
    _make_certificates(tmp_path)
    address = f"127.0.0.1:{processes.port}"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\n'
        f'root-certificates = "{tmp_path}/ca.pem"\n'
    )
    files = f"--certificate={tmp_path}/server.pem", f"--key={tmp_path}/server.key"
    authority = f"--authority={tmp_path}/ca.pem"
    server = processes.server(*files, authority, "--only_registered", steps=10, subnets=2)
    processes.wait_for("server", "0 of 2 are here")
    plain = processes.client("c0", name="plain", patience=1)
    assert plain.wait(60) == 1
    stranger = processes.client("c0", authority, f"--key={tmp_path}/two", name="stranger")
    assert stranger.wait(60) == 2
    assert "isn't registered" in processes.log("stranger")
    flwr = Path(sys.executable).parent / "flwr"

    def register(key):
        subprocess.run(
            [flwr, "supernode", "register", tmp_path / f"{key}.pub", "here"],
            check=True,
            env=environment() | {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0"},
            timeout=60,
        )

    register("one")
    known = processes.client("c0", authority, f"--key={tmp_path}/one", name="known")
    processes.wait_for("known", "encoded")
    twin = processes.client("c1", authority, f"--key={tmp_path}/one", name="twin")
    assert twin.wait(60) == 2
    assert "another device has come with it" in processes.log("twin")
    register("two")
    second = processes.client("c1", authority, f"--key={tmp_path}/two", name="second")
    assert second.wait(WAIT_S) == 0, processes.log("second")
    assert known.wait(WAIT_S) == 0, processes.log("known")
    assert server.wait(WAIT_S) == 0, processes.log("server")


def _make_certificates(folder):
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    commands = [
        ["req", "-x509", *new, "-subj", "/CN=home", "-keyout", "ca.key", "-out", "ca.pem"],
        ["req", *new, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"],
        [
            *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-out", "server.pem", "-extfile", "names"),
        ],
    ]
    for command in commands:
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    for name in ("one", "two"):
        key = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", name]
        subprocess.run(key, cwd=folder, check=True)
