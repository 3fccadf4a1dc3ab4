"""Whether a run is trained; known without TensorFlow."""

from ml_collections import ConfigDict

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.reports.run_directory import RunDirectory


def is_trained(directory: RunDirectory, config: ConfigDict) -> bool:
    """Whether nothing is left of a run but to finish it, if that, as its directory shows.

    Args:
        directory: of the run, as the chief has it and whoever shares its disk.
        config: as train_and_evaluate.
    """
    try:
        directory.check(config.to_dict())
        if directory.results():
            return True
    except (RequestError, RunError):  # an old one of this worker's; the chief's own is checked
        return False
    stored = directory.checkpoint()
    return bool(stored and stored[1].get("is_last"))
