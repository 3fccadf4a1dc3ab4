"""Encoded images to RGB pixels, with errors that name the image."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.inputs.pictures import EXTENSIONS, most_pixels, read_picture
from sparse_ist_tf.tracing import as_written

__all__ = ["EXTENSIONS", "decode_file", "decode_image", "image_errors", "readable"]

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # what files begin with


def decode_image(data: tf.Tensor, name: tf.Tensor) -> tf.Tensor:
    """Decodes an image to RGB; runs in a graph, inside a tf.data pipeline or not.

    Greyscale, palette and CMYK images are converted, transparency is dropped, and of an animation
    the first frame counts. TensorFlow decodes JPEG and PNG; Pillow has the rest and the last word
    on what is damaged. An image of more pixels than PIL.Image.MAX_IMAGE_PIXELS is refused by what
    its header says, before there is memory for them.

    Source: Pillow, whose limit is 89,478,485 pixels, a quarter of a GiB in RGB, unless a program
    sets another.

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
        # Of others TensorFlow ignores the palette (BMP) or makes memory for all frames (GIF).
        cases = [
            (tf.equal(tf.strings.substr(data, 0, len(magic)), magic), lambda read=read: read(data))
            for magic, read in ((_PNG, _png_size), (_JPEG, tf.image.extract_jpeg_shape))
        ]
        size = tf.case(cases, lambda: tf.constant([0, 0]))
        pixels = tf.reduce_prod(tf.cast(size[:2], tf.int64))
        data = tf.where((pixels > 0) & (pixels <= most_pixels()), data, "")
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        return tf.ensure_shape(image, (None, None, 3))

    def by_pillow(data, name):
        def decode(data, name):
            return read_picture(os.fsdecode(data) if is_file else data, os.fsdecode(name))

        return tf.ensure_shape(tf.numpy_function(decode, [data, name], tf.uint8), (None, None, 3))

    # Only tf.data can catch an operation's error in a graph, so every image is a data set of one.
    one = tf.data.Dataset.from_tensors((data, name))
    fast, slow = one.map(as_written(by_tensorflow)).ignore_errors(), one.map(as_written(by_pillow))
    return fast.concatenate(slow).take(1).get_single_element()


def _png_size(data):
    """Height and width as the header of a PNG has them; runs in a graph."""
    return tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)[::-1]


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
