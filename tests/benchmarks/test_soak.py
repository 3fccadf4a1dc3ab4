"""A soak in the small: workers die, the weights are those of a run that nothing happened to."""

import re
import subprocess
import sys

import pytest


@pytest.mark.large
def test_a_short_soak_ends_with_the_undisturbed_weights():
    command = [sys.executable, "-m", "sparse_ist_tf.benchmark", "soak"]
    done = subprocess.run(
        [*command, "--minutes=2.5", "--every_minutes=1"], capture_output=True, text=True
    )
    assert "Weights as those of one worker undisturbed" in done.stdout, done.stdout + done.stderr
    assert re.search(r"killed every 1 minutes: worker \d, \d$", done.stdout, re.M)


def test_no_time_is_a_bad_request():
    command = [sys.executable, "-m", "sparse_ist_tf.benchmark", "soak", "--minutes=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "minutes" in done.stderr
