"""Files in MediaPipe's own ImageClassifier, which scales images itself."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sparse_ist_tf.errors import RequestError, RunError, quiet


def require() -> None:
    """Checks that MediaPipe is installed.

    Raises:
        RequestError: if not, with the command that brings it.
    """
    if importlib.util.find_spec("mediapipe") is None:
        raise RequestError("--mediapipe needs MediaPipe; pip install mediapipe brings it")


def answers(path: str | Path, images: Iterable[np.ndarray]) -> np.ndarray:
    """The likeliest label of each image.

    Args:
        path: of a .tflite file of kind "classifier" or "classifier_sensor".
        images: uint8[height, width, 3], of any size.

    Returns:
        int64[n], places among the file's labels.

    Raises:
        RequestError: if MediaPipe isn't installed.
        RunError: if it can't load or run the file.
    """
    require()
    try:
        with quiet():
            import mediapipe
            from mediapipe.tasks import python as tasks

            options = tasks.vision.ImageClassifierOptions(
                base_options=tasks.BaseOptions(model_asset_path=str(path)), max_results=1
            )
            task = tasks.vision.ImageClassifier.create_from_options(options)
        with task:
            found = []
            for image in images:
                picture = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(image))
                (classified,) = task.classify(picture).classifications
                found.append(classified.categories[0].index)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"{Path(path).name}: MediaPipe can't run it: {error}") from None
    return np.array(found, np.int64)
