"""Encoded images to RGB pixels, with errors that name the image."""

import contextlib
import io
import re
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.tracing import as_written

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def decode_image(data: tf.Tensor, name: tf.Tensor) -> tf.Tensor:
    """Decodes an image to RGB; runs in a graph, inside a tf.data pipeline or not.

    Greyscale, palette and CMYK images are converted, transparency is dropped, and of an animation
    the first frame counts. TensorFlow decodes most formats; Pillow has the rest (BMP, TIFF) and
    the last word on what is damaged.

    Args:
        data: string scalar, a file's bytes.
        name: string scalar, what errors call the image.

    Returns:
        uint8[height, width, 3].

    Raises:
        tf.errors.OpError: when run, if the image can't be decoded; image_errors() makes one line
            of it.
    """
    return _decode(data, name, is_file=False)


def decode_file(path: tf.Tensor) -> tf.Tensor:
    """Reads and decodes a file as decode_image does; tf.errors.OpError also if it can't be read."""
    return _decode(path, path, is_file=True)


def _decode(data, name, is_file: bool) -> tf.Tensor:
    """Bytes, or a file by its path, to pixels: by TensorFlow, and where that fails by Pillow."""

    def by_tensorflow(data, _):
        data = tf.io.read_file(data) if is_file else data
        bmp = tf.equal(tf.strings.substr(data, 0, 2), "BM")  # TensorFlow ignores its palette
        data = tf.where(bmp, "", data)
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        return tf.ensure_shape(image, (None, None, 3))

    def by_pillow(data, name):
        def decode(data, name):
            return _pillow(data if is_file else io.BytesIO(data), name)

        return tf.ensure_shape(tf.numpy_function(decode, [data, name], tf.uint8), (None, None, 3))

    # Only tf.data can catch an operation's error in a graph, so every image is a data set of one.
    one = tf.data.Dataset.from_tensors((data, name))
    fast, slow = one.map(as_written(by_tensorflow)).ignore_errors(), one.map(as_written(by_pillow))
    return fast.concatenate(slow).take(1).get_single_element()


def _pillow(file, name: bytes) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if image.mode.startswith("I;16"):  # Pillow would clip, not scale
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        reason = "it is empty or of no known format"
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:  # Pillow's decoders raise almost anything
        reason = str(error)
    text = name.decode(errors="backslashreplace")
    raise RunError(f"{text}: can't be read as an image ({' '.join(reason.split())})")


@contextlib.contextmanager
def image_errors() -> Iterator[None]:
    """Turns the error of a pipeline that met an unreadable image into one line that names it.

    The same for a message that unpack_patches refuses.

    Raises:
        RunError: in place of tf.errors.OpError, if that came from reading images.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if found := re.search(r"\bRunError: (.*)", str(error)):
            raise RunError(found[1].strip()) from error
        if isinstance(error, tf.errors.DataLossError):
            line = " ".join(str(error).split())
            raise RunError(f"a file of images is damaged: {line}") from error
        raise


def readable(stream: tf.data.Dataset, decode: Callable) -> np.ndarray:
    """Tries every image of a stream, in parallel.

    Args:
        stream: elements that decode takes.
        decode: an element to an image, as of a split's source.

    Returns:
        bool, one per element, True where decode succeeds.
    """

    def try_one(*element):  # map passes a tuple as several arguments
        element = element if len(element) > 1 else element[0]
        bad = tf.data.Dataset.from_tensors(False)
        good = bad.map(lambda _: tf.size(decode(element)) > 0).ignore_errors()
        return good.concatenate(bad).take(1).get_single_element()

    flags = stream.map(as_written(try_one), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    parts = [batch.numpy() for batch in flags.batch(1024)]
    return np.concatenate(parts) if parts else np.zeros(0, bool)
