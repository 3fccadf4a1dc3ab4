"""Runs that a program makes, and what `import sparse_ist_tf` costs and has."""

import subprocess
import sys

import pytest

import sparse_ist_tf as si


def test_the_built_run_has_its_parts(tmp_path):
    config = si.get_config()
    config.dataset.name, config.encoder.weights = "digits", "packaged:vit_pico"
    config.total_epochs, config.head.hidden, config.ist.num_subnets = 1.0, (32,), 2
    config.features.cache_dir, config.centralized_baseline = str(tmp_path / "cache"), False
    run = si.train(config, tmp_path / "run")
    assert isinstance(run, si.FinishedRun)
    assert run.accuracies()["merged"] == run.results["accuracy"]["merged"]
    assert run.head()["dense_0/kernel"].shape == (96, 32)
    assert si.train(config, tmp_path / "run").results == run.results
    config.seed = 1
    with pytest.raises(si.RequestError, match="holds a run with another seed"):
        si.train(config, tmp_path / "run")


def test_the_import_takes_no_time_and_imports_nothing_heavy():
    code = (
        "import time; start = time.process_time(); import sparse_ist_tf as si; "
        "took = time.process_time() - start; import sys; "
        "heavy = {'tensorflow', 'keras', 'numpy', 'matplotlib'} & set(sys.modules); "
        "print(took < 0.1, heavy, sorted(set(si.__all__) - set(dir(si))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True set() []\n"


def test_every_name_is_there_and_others_are_not():
    for name in si.__all__:
        assert getattr(si, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = si.nothing
