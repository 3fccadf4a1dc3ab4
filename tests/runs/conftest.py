"""What several tests of runs share."""

import pytest

from sparse_ist_tf.runs import training


@pytest.fixture(scope="module")
def without_an_end():
    """Trainings of a file end with their last checkpoint, without what finish leaves and shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "finish", lambda run: {})
        yield
