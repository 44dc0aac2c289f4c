"""From the bytes of an image file to the pixels that the models see: uint8 RGB, resized, not normalised."""

import io
import re
import struct
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ramcore.errors import ImageError
from ramcore.imageformats import ImageErrorKind, identify, require_complete, seems_cut

__all__ = ["MAX_PIXELS", "MODES", "DecodeMode", "Decoded", "ImageErrorKind", "decode"]

DecodeMode = Literal["exact", "fast", "draft"]
MODES: tuple[DecodeMode, ...] = get_args(DecodeMode)
"""The ways to decode, see `decode`."""

MAX_PIXELS = 178_956_970
"""Default limit of width × height: where Pillow, too, stops to warn and refuses; 0.5 GB as uint8 RGB."""

Pixels = npt.NDArray[np.uint8]

_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
}
"""Pillow's reader of each format. Image.open is not used: it hides why a reader refused a file, and it warns
about large pictures on its own terms."""

try:
    from PIL.AvifImagePlugin import AvifImageFile
except ImportError:  # Pillow before 11.3
    pass
else:
    _OPENERS["AVIF"] = AvifImageFile

_ENDS_EARLY = re.compile(r"truncat|reached eof|end of (file|data)|not enough|only got|larger than file", re.IGNORECASE)
_NOT_READ = re.compile(r"unsupported|not supported|not installed|unknown (pixel|data|raw|mode)", re.IGNORECASE)


@dataclass(frozen=True)
class Decoded:
    """An image, ready for a model.

    pixels: uint8 [size, size, 3], RGB, 0–255, contiguous; width, height: of the picture in the file, in pixels,
    as it is stored (before any EXIF rotation, which is ignored).
    """

    pixels: Pixels
    width: int
    height: int


def decode(data: bytes, size: int, mode: str = "exact", max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode an image file and resize it to size × size pixels; the aspect ratio is not kept.

    Formats: JPEG (also the first picture of MPO), PNG, GIF, WebP, BMP, TIFF, PPM/PGM/PBM, AVIF, JPEG 2000.
    Of animations the first frame is taken; alpha is dropped without compositing; EXIF rotation is ignored.

    mode:
        exact: plain Pillow, bit-equal to the reference's preprocessing. Grey of 16 bits is clipped at 255, as
            there, and so is mostly white.
        fast: JPEGs through libjpeg-turbo without Pillow, antialiased resize in torch; within one grey level of
            exact. Grey of 16 bits is scaled to 8. JPEGs that simplejpeg refuses (CMYK, odd sampling, warnings
            of the decoder) are decoded by Pillow, so fast and exact reject the same files.
        draft: as fast, but large JPEGs are decoded at half their size or less, never under twice the target; up
            to 25 grey levels from exact in photographs, more at sharp edges.
    max_pixels: more than so many are refused after reading the header. For GIF and WebP, Pillow's own limit
        (MAX_PIXELS) stays in force too.

    A file that ends early is an error in every mode and format, even where only its end mark is missing (but
    a plain-text PNM that is cut within its last number cannot be told from a complete one). Pictures of 32-bit
    integers or floats have no defined white and are `unsupported`.
    Safe in many threads at once; while one is inside, warnings raised within Pillow are ignored process-wide.
    Where several processes decode, give torch one thread in each (torch.set_num_threads): two only disturb. It is
    imported by the first picture that is not decoded `exact`.

    Raises ImageError with a kind of `ImageErrorKind` and one line of detail; ValueError for a wrong argument.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: must be one of {', '.join(MODES)}")
    if size < 1 or max_pixels < 1:
        raise ValueError(f"size={size}, max_pixels={max_pixels}: both must be 1 or more")
    name = identify(data)
    require_complete(name, data)
    if name not in _OPENERS:
        raise ImageError(ImageErrorKind.UNSUPPORTED, f"{name} needs a newer Pillow than is installed")
    try:
        with _PILLOW_WARNINGS, _OPENERS[name](io.BytesIO(data)) as image:
            return _decode_opened(image, data, size, mode, max_pixels)
    except ImageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise ImageError(_kind_of(error, name, data), _one_line(error, name)) from error


def _decode_opened(image: ImageFile.ImageFile, data: bytes, size: int, mode: str, max_pixels: int) -> Decoded:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            ImageErrorKind.TOO_MANY_PIXELS, f"{width} x {height} pixels are more than the {max_pixels:,} allowed"
        )
    if _has_no_white(image):
        raise ImageError(
            ImageErrorKind.UNSUPPORTED, f"{image.format} with 32-bit samples; convert to 8 or 16 bits per sample"
        )
    if mode == "exact":
        rgb = _to_rgb(image).resize((size, size), Image.Resampling.BILINEAR)
        return Decoded(np.array(rgb), width, height)
    least = 2 * size if mode == "draft" else None
    pixels = None
    if image.format == "JPEG" and image.mode in ("L", "RGB"):
        pixels = _decode_jpeg(data, width * height, least)
    if pixels is None:
        if least is not None:
            image.draft("RGB", (least, least))
        pixels = _to_pixels(image)
    return Decoded(_resize(pixels, size), width, height)


class _Buffer(threading.local):
    """Each thread's memory for the pixels of a JPEG before they are resized; pages that are new cost time."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def of(self, size: int) -> Pixels:
        """uint8 [size], good until the thread's next call."""
        if size > _KEPT_BYTES:
            return np.empty(size, np.uint8)
        if size > len(self._bytes):
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size]


_KEPT_BYTES = 96 * 2**20
_BUFFER = _Buffer()


def _decode_jpeg(data: bytes, area: int, least: int | None) -> Pixels | None:
    """uint8 [height, width, 3] of a grey or colour JPEG of `area` pixels, good until this thread's next call.

    least: decode it at half its size or less, as long as both sides have so many pixels. None where simplejpeg has any
    objection to it.
    """
    smaller = {} if least is None else {"min_height": least, "min_width": least, "min_factor": 2}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colorspace="RGB", strict=True, buffer=_BUFFER.of(3 * area), **smaller
        )
    except ValueError:
        return None
    return pixels


def _to_pixels(image: Image.Image) -> Pixels:
    """uint8 [height, width, 3] of an opened image; grey of 16 bits is scaled, not clipped."""
    if not _is_grey16(image):
        return np.array(_to_rgb(image))
    grey = np.asarray(image).astype(np.uint32)
    grey8 = ((grey * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(grey8[:, :, None], 3, axis=2)


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()  # apart from the conversion, for what is wrong with the data is no fault of the mode
    try:
        return image.convert("RGB")
    except (ValueError, KeyError) as error:
        raise ImageError(
            ImageErrorKind.UNSUPPORTED, f"{image.format}: colour mode {image.mode} cannot become RGB"
        ) from error


def _resize(pixels: Pixels, size: int) -> Pixels:
    """Antialiased bilinear resize of uint8 [height, width, 3] to [size, size, 3]."""
    if pixels.shape[:2] == (size, size):
        return pixels.copy()
    import torch  # here, as it takes a second and half a gigabyte, which planning and exact decoding need not pay

    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)  # a view; torch resizes channels-last as it is
    resized = torch.nn.functional.interpolate(image, (size, size), mode="bilinear", antialias=True)
    result: Pixels = resized[0].permute(1, 2, 0).contiguous().numpy()
    return result


def _is_grey16(image: Image.Image) -> bool:
    # Pillow reads a PGM of more than 8 bits as 32-bit integers, which it scales to 0–65535.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def _has_no_white(image: Image.Image) -> bool:
    return image.mode in ("I", "F") and not _is_grey16(image)


def _kind_of(error: Exception, name: str, data: bytes) -> ImageErrorKind:
    text = str(error)
    if isinstance(error, Image.DecompressionBombError):
        return ImageErrorKind.TOO_MANY_PIXELS
    if isinstance(error, EOFError | struct.error) or _ENDS_EARLY.search(text) or seems_cut(name, data):
        return ImageErrorKind.TRUNCATED
    # "unsupported operand" and the like are Pillow stumbling over damaged data
    if _NOT_READ.search(text) and not isinstance(error, TypeError):
        return ImageErrorKind.UNSUPPORTED
    return ImageErrorKind.DECODE_ERROR


def _one_line(error: Exception, name: str) -> str:
    text = " ".join(re.sub(r"<[^>]*>", "", str(error)).split())
    return f"{name}: {text or type(error).__name__}"[:200]


class _IgnoredPillowWarnings:
    """Ignores warnings raised in Pillow's modules while at least one thread is inside.

    Pillow warns of odd metadata, which has no bearing on pixels. `warnings.catch_warnings` is no help: it is not
    safe in threads, and leaves wrong filters behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filter = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            filters = self._filters()
            if self._filter not in filters:
                filters.insert(0, self._filter)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            filters = self._filters()
            if not self._inside and self._filter in filters:
                filters.remove(self._filter)

    @staticmethod
    def _filters() -> list[Any]:
        filters: list[Any] = warnings.filters  # type: ignore[assignment]  # a list, though typed as a sequence
        return filters


_PILLOW_WARNINGS = _IgnoredPillowWarnings()
