"""Picture files to RGB pixels by Pillow alone: upright, in 8 bits, with errors that name the file.

TensorFlow isn't imported, so that a command that only looks at pictures starts at once.

Pixels by what a file says of them:

    1 to 8 bits            as they are, 0 to the greatest becoming 0 to 255
    12 and 16 bits         the eight highest bits
    floats                 0 to 1 becomes 0 to 255; refused where a value lies beyond
    32 bits, signed        refused: nothing tells what is black and what is white

Grey, palette, CMYK, YCbCr and L*a*b* become RGB; transparency and bands behind the third are
dropped, what is transparent in a GIF is black, and of several frames the first counts. EXIF's
orientation is applied.
"""

import contextlib
import functools
import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import numpy as np

from sparse_ist_tf.errors import BadImageError, printable

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_AVIF, _HEIF = (".avif",), (".heic", ".heif", ".hif")
_JPEG = (".jfif", ".jpe", ".jpeg", ".jpg")
EXTENSIONS = tuple(
    sorted((*_AVIF, *_HEIF, *_JPEG, ".bmp", ".gif", ".png", ".tif", ".tiff", ".webp"))
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {  # mif1 and msf1 are of all codecs, so AVIF's are looked for first
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    *(b"mif1", b"msf1"),
}
NEEDS_HEIF = "HEIC needs `pip install pillow-heif`"
NEEDS_AVIF = "AVIF needs `pip install 'pillow>=11.3'`"
_ORIENTATION = 0x0112  # tags of EXIF and TIFF
_BITS, _PHOTOMETRIC, _SAMPLES, _FORMAT = 258, 262, 277, 339
_TIFF = (b"II*\0", b"MM\0*")  # what files begin with, and words in those that tell how they lie
_TELLING = {
    b"\xff\xd8": (b"Exif\0", b"tiff:Orientation"),
    b"\x89P": (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp"),
    b"RI": (b"EXIF", b"tiff:Orientation"),
}
_SIGNED, _WHITE_IS_ZERO = 2, 0
_SAVE = "save it with 8 or 16 bits, or as floats in 0..1"
_NUMBERS = {1: "unsigned integers", 2: "signed integers", 3: "floats"}
_warning_filters = threading.Lock()  # which all threads share


def read_picture(source: str | bytes | os.PathLike, name: str = "") -> np.ndarray:
    """Reads a picture as this module says.

    Source: Exif 2.32, section 4.6.4 A, for the orientation; TIFF 6.0 for the rest.

    Args:
        source: a file's path, or its contents as bytes.
        name: what errors call it; its path where empty.

    Returns:
        uint8[height, width, 3], contiguous.

    Raises:
        BadImageError: if it can't be read, or has more pixels than PIL.Image.MAX_IMAGE_PIXELS.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from sparse_ist_tf.inputs.pictures import read_picture
        >>> file, exif = io.BytesIO(), Image.Exif()
        >>> exif[0x0112] = 6  # a quarter turn
        >>> Image.new("RGB", (3, 2)).save(file, "JPEG", exif=exif)
        >>> read_picture(file.getvalue()).shape
        (3, 2, 3)
    """
    from PIL import UnidentifiedImageError

    try:
        with _file(source) as file:
            try:
                with _opened(file) as image:
                    image.load()
                    return turned(_pixels(image), orientation_of(image))
            except UnidentifiedImageError:
                reason = _why_unknown(file)
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:  # Pillow's decoders raise almost anything
        reason = str(error) or type(error).__name__
    text = name or (os.fsdecode(source) if not isinstance(source, bytes) else "a picture")
    reason = " ".join(reason.split())
    raise BadImageError(f"{printable(text)}: can't be read as an image ({reason})")


def orientation_of(image: "PillowImage.Image") -> int:
    """How a picture is stored, 1 to 8 as EXIF or XMP says; 1 where nothing that can be read does.

    Args:
        image: loaded; Pillow turns TIFFs as it does so.
    """
    with _without_warnings(), contextlib.suppress(Exception):  # damaged EXIF raises all kinds
        value = image.getexif().get(_ORIENTATION, 1)
        return value if value in range(1, 9) else 1
    return 1


def stored_orientation(contents: bytes) -> int:
    """The orientation that a file's contents tell, 1 where they tell none."""
    if not may_tell(contents):
        return 1
    with contextlib.suppress(Exception), _opened(io.BytesIO(contents)) as image:
        return orientation_of(image)
    return 1


def may_tell(contents: bytes) -> bool:
    """Whether there may be more to reading a file than decoding it.

    Args:
        contents: of a file, or what it begins and ends with.
    """
    words = _TELLING.get(contents[:2], ())
    return contents[:4] in _TIFF or any(word in contents for word in words)


def read_anew(contents: bytes) -> str:
    """How a file is read where versions before read other pixels from it; empty elsewhere.

    Args:
        contents: of a whole file.
    """
    if contents[:4] in _TIFF:  # which Pillow has always turned
        with contextlib.suppress(Exception), _opened(io.BytesIO(contents)) as image:
            tags = getattr(image, "tag_v2", {})
            bits, white = _several(tags.get(_BITS, 1)), tags.get(_PHOTOMETRIC)
            if image.mode == "F" or (image.mode[0] == "I" and (max(bits) < 16 or not white)):
                return f"{image.mode}, {max(bits)} bits, photometric {white}"
        return ""
    orientation = stored_orientation(contents)
    return f"orientation {orientation}" if orientation > 1 else ""


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as they are to be seen.

    Args:
        pixels: [height, width, channels] as stored.
        orientation: 1 to 8.

    Returns:
        The same, contiguous; height and width are exchanged from 5 on.
    """
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = turns(orientation)
    return np.ascontiguousarray(pixels[::rows, ::columns])


def turns(orientation: int) -> tuple[int, int]:
    """The steps, 1 or -1, in which rows and columns are read once axes are exchanged."""
    return -1 if orientation in (3, 4, 7, 8) else 1, -1 if orientation in (2, 3, 6, 7) else 1


def most_pixels() -> int:
    """How many pixels an image may have: PIL.Image.MAX_IMAGE_PIXELS, which may be set."""
    from PIL import Image

    return Image.MAX_IMAGE_PIXELS or np.iinfo(np.int64).max


@functools.cache
def lacking(extension: str) -> str:
    """What would have to be installed to read files of an extension; empty where nothing."""
    if extension in _HEIF and not _can_read_heif():
        return NEEDS_HEIF
    if extension in _AVIF and not _can_read_avif():
        return NEEDS_AVIF
    return ""


@functools.cache
def _can_read_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _can_read_avif() -> bool:
    from PIL import features

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions that don't know the word
        return bool(features.check("avif"))


def _file(source: str | bytes | os.PathLike) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(file: IO[bytes]) -> "PillowImage.Image":
    """A file as Pillow's image, of which only the header is read."""
    from PIL import Image

    if file.read(12)[4:8] == b"ftyp":
        _can_read_heif()  # and says to Pillow how
    file.seek(0)
    try:
        with _without_warnings():  # of many pixels, where an error follows
            image = Image.open(file)
        pixels = image.width * image.height
    except Image.DecompressionBombError as error:  # of more than twice as many as may be
        pixels = int(re.search(r"\d+", str(error))[0])
    if pixels > most_pixels():
        raise ValueError(
            f"it has {pixels:,} pixels, at most {most_pixels():,} are allowed, the value of "
            "PIL.Image.MAX_IMAGE_PIXELS"
        )
    return image


def _pixels(image: "PillowImage.Image") -> np.ndarray:
    """uint8[height, width, 3] as stored."""
    tags = getattr(image, "tag_v2", {})
    if _SIGNED in _several(tags.get(_FORMAT, 1)):
        raise ValueError(f"it holds signed integers, of which nothing tells the range; {_SAVE}")
    if image.mode.startswith("I") or image.mode == "F":
        grey = _eight_bits(image, max(_several(tags.get(_BITS, 16))))
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            grey = 255 - grey
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.format == "GIF":  # what is transparent is black
        pixels = np.asarray(image.convert("RGBA"))
        return pixels[..., :3] * (pixels[..., 3:] > 0)
    if image.mode == "La":
        image = image.convert("LA")
    return np.asarray(image.convert("RGB"))


def _eight_bits(image: "PillowImage.Image", bits: int) -> np.ndarray:
    """A deep grey image as uint8[height, width]; Pillow itself would clip."""
    deep = np.asarray(image)
    if image.mode == "F":
        low, high = float(deep.min()), float(deep.max())
        if not (low > -1 / 510 and high < 1 + 1 / 510):  # not a number either
            raise ValueError(f"it holds floats from {low:g} to {high:g}, not in 0..1; {_SAVE}")
        return np.round(np.clip(deep, 0, 1) * 255).astype(np.uint8)
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # whose deepest has 16 bits
        raise ValueError(f"it holds 32-bit integers, of which nothing tells the range; {_SAVE}")
    return (deep >> (bits - 8 if image.mode != "I" else 8)).astype(np.uint8)


def _several(value: object) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _why_unknown(file: IO[bytes]) -> str:
    """Why Pillow makes nothing of a file."""
    file.seek(0)
    head = file.read(1024)
    if head[4:8] == b"ftyp":
        brands = _brands(head)
        needed = ""
        if brands & _AVIF_BRANDS:
            needed = lacking(".avif")
        elif brands & _HEIF_BRANDS:
            needed = lacking(".heic")
        return needed or "it is of no known format"
    if head[:4] in _TIFF:
        with contextlib.suppress(Exception):
            return _about_tiff(file, head)
    return "it is empty or of no known format"


def _brands(head: bytes) -> set[bytes]:
    """The brands that a file's first box, ftyp, names: the major and the compatible ones.

    Source: ISO/IEC 14496-12, 4.3; ISO/IEC 23008-12, annex B; AVIF 1.1, section 7.
    """
    end = int.from_bytes(head[:4], "big") or len(head)  # 0 is the file's end
    return {head[8:12], *(head[i : i + 4] for i in range(16, min(end, len(head)), 4))}


def _about_tiff(file: IO[bytes], head: bytes) -> str:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2(head[:8])
    file.seek(tags.next)
    tags.load(file)
    bands, bits = tags.get(_SAMPLES, 1), max(_several(tags.get(_BITS, 1)))
    numbers = _NUMBERS.get(_several(tags.get(_FORMAT, 1))[0], "numbers of another kind")
    kind = f"{bands} band{'s'[: bands > 1]} of {bits}-bit {numbers}"
    return f"it is a TIFF of {kind}, which isn't read; save it as RGB or grey with 8 or 16 bits"
