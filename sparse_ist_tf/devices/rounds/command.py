"""The server's command: deals a head to devices, merges what they learn, and writes a run.

    python -m sparse_ist_tf.devices server --config=configs/digits.py --workdir=runs/devices

Devices come with `python -m sparse_ist_tf.devices client`, in as many processes and on as many
machines as there are. The run directory is that of train: the same command goes on from its last
checkpoint, and evaluate and export take it. The configuration's data set says which classes there
are, and its test images measure the merged head; training images are the devices' own.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict

from sparse_ist_tf import config as default_config
from sparse_ist_tf import plugins
from sparse_ist_tf.commands import quiet, run
from sparse_ist_tf.config import validate
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.reports.report import next_steps, summary
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.workers.stopping import GRACE_S, Stop

if TYPE_CHECKING:
    from sparse_ist_tf.devices.rounds.crew import Crew
    from sparse_ist_tf.devices.wire.engine import Engine

FLAGS = flags.FLAGS
_FAREWELL_S = 5.0
_PAUSE_S = 0.1


def define_flags() -> None:
    """Defines the command's flags."""
    plugins.define_flag()
    flags.DEFINE_string("workdir", None, "Run directory.", required=True)
    flags.DEFINE_string("listen", "0.0.0.0:9092", "HOST:PORT where devices come.")
    text = "Devices that must be there before the first round; ist.num_subnets where 0."
    flags.DEFINE_integer("devices", 0, text, lower_bound=0)
    text = "Answers that close a round; those of all devices that are there where 0."
    flags.DEFINE_integer("enough", 0, text, lower_bound=0)
    text = "Seconds after which a round closes with the answers that have come, if one has."
    flags.DEFINE_float("round_s", 600.0, text, lower_bound=1.0)
    flags.DEFINE_float("grace_s", GRACE_S, "As train's.", lower_bound=0.0)
    flags.DEFINE_string("certificate", "", "PEM file of the server's certificate: TLS.")
    flags.DEFINE_string("key", "", "PEM file of its private key.")
    flags.DEFINE_string("authority", "", "PEM file of who signed it.")
    text = "Refuse devices whose keys weren't registered, by `flwr supernode register`."
    flags.DEFINE_boolean("only_registered", False, text)


def main(_: list[str]) -> int:
    """Runs the command."""
    plugins.load_plugins()
    config, directory = FLAGS.config, RunDirectory(FLAGS.workdir)
    validate(config, 1)
    config.centralized_baseline = False  # there are no training images here
    _take_capacities(config, directory)
    directory.check(config.to_dict())
    if results := directory.results():
        print(f"{directory.path} is finished.")
        return _show(directory, results)
    if FLAGS.devices > config.ist.num_subnets:
        most = config.ist.num_subnets
        raise RequestError(f"--devices={FLAGS.devices}: must be at most ist.num_subnets={most}")
    host, port = _address(FLAGS.listen)
    stop = Stop(FLAGS.grace_s)
    stop.listen()
    with quiet():
        from sparse_ist_tf.devices.rounds.run import check_config
        from sparse_ist_tf.runs.trained import is_trained
    check_config(config)
    if is_trained(directory, config):
        return _finish(config, directory)
    try:
        from sparse_ist_tf.devices.rounds.superlink import Address, SuperLink
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("flwr", "uvicorn"):
            raise
        text = "devices need Flower: pip install 'sparse-ist-tf[devices]'"
        raise RequestError(text) from None
    files = FLAGS.certificate, FLAGS.key, FLAGS.authority
    address = Address(host, port, *files, FLAGS.only_registered)
    link = SuperLink(address, directory.path / "flower.sqlite")
    try:
        return _serve(config, directory, link, stop)
    finally:
        link.close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise RequestError(f"--listen={text}: must be HOST:PORT, such as 0.0.0.0:9092")
    return host.strip("[]"), int(port)


def _take_capacities(config: ConfigDict, directory: RunDirectory) -> None:
    """Shares that were settled when the run began; devices may have said them."""
    try:
        stored = directory.config()
    except RequestError:  # it is a new one
        return
    if not config.ist.capacities:
        config.ist.capacities = tuple(stored["ist"]["capacities"])


def _serve(config: ConfigDict, directory: RunDirectory, link: "Engine", stop: Stop) -> int:
    """Trains with devices, and finishes the run."""
    from sparse_ist_tf.checkpoints.loading import load_configured
    from sparse_ist_tf.devices.rounds.crew import Crew, shares_of
    from sparse_ist_tf.devices.rounds.journal import Journal
    from sparse_ist_tf.devices.rounds.run import JOURNAL, DeviceRun, invitation
    from sparse_ist_tf.devices.rounds.trainer import Patience
    from sparse_ist_tf.inputs import datasets
    from sparse_ist_tf.runs.finishing import finish
    from sparse_ist_tf.runs.parts import load_splits

    with datasets.suggesting_skip():
        encoder, train = load_configured(config.encoder), load_splits(config)["train"]
        journal = Journal.of(directory.path / JOURNAL)
        crew = Crew(link, journal, invitation(config, encoder, train), config.ist.num_subnets)
        least = FLAGS.devices or config.ist.num_subnets
        print(f"listens at {FLAGS.listen} for {least} devices", flush=True)
        is_new = not (directory.path / "config.json").exists()
        crew.wait_for(least, "beginning", _pause)
        if is_new and not config.ist.capacities:
            _settle(config, crew, shares_of)
        patience = Patience(least, FLAGS.enough, FLAGS.round_s)
        with directory.opened(config.to_dict()):
            run = DeviceRun(config, directory, crew, patience)
            run.train(stop)
            _say_farewell(crew)
            return _show(directory, finish(run))


def _settle(config: ConfigDict, crew: "Crew", shares_of: Callable) -> None:
    """Sets subnets' shares for the whole run by what devices said."""
    devices = crew.at_work()
    known = dict(zip(devices, shares_of([*devices.values()]), strict=True))
    usual = sum(known.values()) / len(known)
    found = tuple(float(known.get(n, usual)) for n in range(config.ist.num_subnets))
    if len(set(found)) > 1:
        config.ist.capacities = found
        print(f"shares of the subnets: {', '.join(f'{share:.3g}' for share in found)}", flush=True)


def _finish(config: ConfigDict, directory: RunDirectory) -> int:
    """Writes what a trained run leaves; no device is needed for it."""
    from sparse_ist_tf.devices.rounds.crew import Crew
    from sparse_ist_tf.devices.rounds.journal import Journal
    from sparse_ist_tf.devices.rounds.run import JOURNAL, DeviceRun
    from sparse_ist_tf.devices.rounds.trainer import Patience
    from sparse_ist_tf.devices.wire.records import Joined
    from sparse_ist_tf.runs.finishing import finish

    nobody = Joined((), {}, 0, 0, b"", 0)
    crew = Crew(None, Journal.of(directory.path / JOURNAL), nobody, config.ist.num_subnets)
    with directory.opened(config.to_dict()):
        return _show(directory, finish(DeviceRun(config, directory, crew, Patience(0))))


def _say_farewell(crew: "Crew") -> None:
    """Tells devices that it is over, and waits until they have heard it."""
    crew.end("the training is over")
    until = time.monotonic() + _FAREWELL_S
    while crew.engine.nodes() and time.monotonic() < until:
        _pause()
        crew.engine.receive()


def _pause() -> None:
    time.sleep(_PAUSE_S)


def _show(directory: RunDirectory, results: dict) -> int:
    print(summary(results))
    print(f"Run directory: {Path(directory.path)} (report.md, head.keras, masks.png, tensorboard/)")
    for line in next_steps(directory.path, directory.config(), results, FLAGS.plugin):
        print(line)
    return 0


def start() -> None:
    """Parses the command line and runs the command."""
    run(main, define_flags, config=default_config)
