"""Encoded images to RGB pixels, with errors that name the image."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import BadImageError, RunError
from sparse_ist_tf.inputs.pictures import (
    EXTENSIONS,
    most_pixels,
    read_picture,
    stored_orientation,
    turns,
)
from sparse_ist_tf.tracing import as_written

__all__ = ["EXTENSIONS", "decode_file", "decode_image", "image_errors", "readable"]

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # what files begin with
_NEAR = 1 << 16  # bytes at the end of a PNG, in which programs put EXIF
_TURNS = [(1, 1), *(turns(orientation) for orientation in range(1, 9))]


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
            for magic, read in ((_PNG, _about_png), (_JPEG, _about_jpeg))
        ]
        size, tells = tf.case(cases, lambda: (tf.constant([0, 0]), tf.constant(False)))
        pixels = tf.reduce_prod(tf.cast(size, tf.int64))
        data = tf.where((pixels > 0) & (pixels <= most_pixels()), data, "")
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        image = tf.cond(tells, lambda: _turned(image, data), lambda: image)
        return tf.ensure_shape(image, (None, None, 3))

    def by_pillow(data, name):
        def decode(data, name):
            return read_picture(os.fsdecode(data) if is_file else data, os.fsdecode(name))

        return tf.ensure_shape(tf.numpy_function(decode, [data, name], tf.uint8), (None, None, 3))

    # Only tf.data can catch an operation's error in a graph, so every image is a data set of one.
    one = tf.data.Dataset.from_tensors((data, name))
    fast, slow = one.map(as_written(by_tensorflow)).ignore_errors(), one.map(as_written(by_pillow))
    return fast.concatenate(slow).take(1).get_single_element()


def _turned(image, data):
    """What TensorFlow made of a file, turned as its EXIF or XMP says; runs in a graph."""
    orientation = tf.numpy_function(_stored_orientation, [data], tf.int64)
    orientation = tf.ensure_shape(orientation, ())
    axes = tf.where(orientation > 4, [1, 0, 2], [0, 1, 2])
    rows, columns = tf.unstack(tf.gather(_TURNS, orientation))
    return tf.transpose(image, axes)[::rows, ::columns]


def _stored_orientation(data):
    return np.int64(stored_orientation(data))


def _about_jpeg(data):
    """Height and width as the header of a JPEG has them, and whether it may tell an orientation.

    It may where more than JFIF's segment lies in front of what the decoder wants.
    """
    first = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 3, 3), tf.uint8), tf.int32)
    behind_jfif = tf.minimum(5 + 256 * first[1] + first[2], tf.strings.length(data) - 1)
    second = tf.io.decode_raw(tf.strings.substr(data, behind_jfif, 1), tf.uint8)
    kind = tf.where(first[0] == 0xE0, tf.cast(second[0], tf.int32), first[0])
    tells = ((kind >= 0xE0) & (kind <= 0xEF)) | (kind == 0xFE)  # an application's, or a comment
    return tf.image.extract_jpeg_shape(data)[:2], tells


def _about_png(data):
    """The same of a PNG, which may where its image isn't its first chunk, or EXIF lies behind."""
    size = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
    near = tf.minimum(tf.strings.length(data), _NEAR)
    behind = tf.strings.split(tf.strings.substr(data, -near, near), "eXIf")
    tells = tf.not_equal(tf.strings.substr(data, 37, 4), "IDAT") | (tf.size(behind) > 1)
    return size[::-1], tells


@contextlib.contextmanager
def image_errors() -> Iterator[None]:
    """Turns the error of a pipeline that met an unreadable image into one line that names it.

    The same for a message that unpack_patches refuses.

    Raises:
        RunError: in place of tf.errors.OpError, if that came from reading images; BadImageError if
            one of them can't be decoded.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if found := re.search(r"\b(RunError|BadImageError): (.*)", str(error)):
            kind = BadImageError if found[1] == "BadImageError" else RunError
            raise kind(found[2].strip()) from error
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
