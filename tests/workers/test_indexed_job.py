"""TF_CONFIG of an indexed Job's pods, and the manifests of docs/cluster.md."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.workers.cluster import read_tf_config
from sparse_ist_tf.workers.indexed_job import indexed_job_tf_config

POD = {
    "JOB_COMPLETION_INDEX": "2",
    "HOSTNAME": "sparse-ist-2",
    "NUM_WORKERS": "3",
    "SERVICE": "ring",
}
PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"


def test_a_pod_finds_its_place():
    cluster = read_tf_config({"TF_CONFIG": indexed_job_tf_config(POD)})
    assert cluster.worker == 2
    assert cluster.addresses == tuple(f"sparse-ist-{i}.ring:2222" for i in range(3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"SERVICE": ""}, "SERVICE is not set"),
        ({"JOB_COMPLETION_INDEX": "two"}, "JOB_COMPLETION_INDEX='two': must be a whole number"),
        ({"NUM_WORKERS": "2"}, "NUM_WORKERS=2: must be the Job's completions, this is its pod 2"),
        ({"HOSTNAME": "node7"}, "HOSTNAME='node7': must end in -2"),
    ],
)
def test_what_is_wrong_with_a_variable_is_said(changes, words):
    with pytest.raises(RequestError, match=words):
        indexed_job_tf_config(POD | changes)


@pytest.fixture(scope="module")
def manifests():
    """The page's manifests by their kind."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return {one["kind"]: one for block in blocks for one in yaml.safe_load_all(block)}


def test_every_manifest_waits_longer_than_its_workers(manifests):
    worker = manifests["TFJob"]["spec"]["tfReplicaSpecs"]["Worker"]
    for template in (worker["template"], manifests["Job"]["spec"]["template"]):
        [container] = template["spec"]["containers"]
        grace = re.search(r"--grace_s=(\d+)", " ".join(container["command"]))[1]
        assert template["spec"]["terminationGracePeriodSeconds"] >= int(grace) + 5


def test_the_jobs_shell_puts_the_worker_in_its_place(manifests, tmp_path):
    """The manifest's own line, with a worker in train's place that shows what it is given."""
    [container] = manifests["Job"]["spec"]["template"]["spec"]["containers"]
    *shell, line = container["command"]
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    shown = "-c 'import os; print(os.getpid(), os.environ[\"TF_CONFIG\"])'"
    line = line.replace("-m sparse_ist_tf.train", shown)
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    environment = os.environ | given
    environment |= {"JOB_COMPLETION_INDEX": "1", "HOSTNAME": "sparse-ist-1"}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [*shell, line], env=environment, stdout=subprocess.PIPE, text=True, cwd=PAGE.parents[1]
    )
    pid, _, config = process.communicate(timeout=60)[0].partition(" ")
    assert int(pid) == process.pid, "so that SIGTERM reaches it"
    addresses = json.loads(config)["cluster"]["worker"]
    job, service = manifests["Job"], manifests["Service"]
    count = job["spec"]["completions"]
    name, subdomain = job["metadata"]["name"], job["spec"]["template"]["spec"]["subdomain"]
    assert addresses == [f"{name}-{i}.{subdomain}:2222" for i in range(count)]
    assert service["metadata"]["name"] == subdomain
    assert service["spec"]["selector"] == {"job-name": name}
