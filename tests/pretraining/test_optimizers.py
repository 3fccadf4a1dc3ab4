"""The optimizers of pre-training and the rate of a step."""

import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.pretrain_config import get_config
from sparse_ist_tf.pretraining.optimizers import learning_rate_at, make_optimizer


def _config(**changes):
    config = get_config()
    config.update({"learning_rate": 1e-3, "schedule": "cosine"} | changes)
    return config


def test_schedules():
    config = _config(schedule="trapezoid", decay=0.25, warmup_steps=4, total_steps=100)
    rates = [learning_rate_at(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.25e-3)
    assert rates[4:75] == [1e-3] * 71
    assert rates[99] == pytest.approx(1e-3 / 25)
    cosine = _config(warmup_steps=0, total_steps=100)
    assert learning_rate_at(50, cosine) == pytest.approx(0.5e-3)
    scaled = _config(scale_learning_rate=True, batch_size=4096, warmup_steps=0, total_steps=100)
    assert learning_rate_at(0, scaled) == pytest.approx(16e-3)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_what_keras_refuses_is_named(name):
    config = _config(optimizer={"name": name, "kwargs": {"nesterov_beta": 1}})
    with pytest.raises(RequestError, match=r"optimizer.kwargs=.*nesterov_beta"):
        make_optimizer(config)
