"""Which image format bytes are, and whether the file is all there; read from containers, without decoding.

Decoders differ in what they forgive: Pillow takes a PNG without its end chunk or a TIFF without its last
directory bytes. A file that lost its end was damaged on the way, so here every container must be closed.
"""

import struct
from enum import StrEnum

from ramcore.errors import ImageError


class ImageErrorKind(StrEnum):
    """Why an image has no pixels; a closed set, the `kind` of every `ImageError` of this package."""

    EMPTY = "empty"
    """There are no bytes at all."""
    NOT_AN_IMAGE = "not_an_image"
    """HTML, text, a video, or bytes of no known image format."""
    TRUNCATED = "truncated"
    """The file ends before the picture does."""
    UNSUPPORTED = "unsupported"
    """An image, but of a format, compression or number type that is not read here."""
    TOO_MANY_PIXELS = "too_many_pixels"
    """More pixels than allowed: a decompression bomb, or a very large picture."""
    DECODE_ERROR = "decode_error"
    """The decoder gave up on damaged data."""


_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
_UNREADABLE = (
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"icns", "ICNS"),
    (b"II\xbc", "JPEG XR"),
    (b"SIMPLE  =", "FITS"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"gimp xcf", "GIMP XCF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"P7\n", "PAM"),
    (b"PF\n", "PFM"),
    (b"Pf\n", "PFM"),
)
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_TIFF_TYPE_BYTES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)))


def identify(data: bytes) -> str:
    """The format of an image file: JPEG, PNG, GIF, WEBP, BMP, TIFF, PPM, AVIF or JPEG2000.

    Raises ImageError: empty, not_an_image, unsupported (another image format), or truncated when even the
    first bytes that tell the format are cut.
    """
    if not data:
        raise ImageError(ImageErrorKind.EMPTY, "no bytes")
    head = data[:64]
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and len(data) >= 18 and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in (b" ", b"\t", b"\n", b"\r", b"#"):
        return "PPM"
    if head[4:8] == b"ftyp":
        return _identify_iso_media(data)
    raise _unidentified(data)


def require_complete(name: str, data: bytes) -> None:
    """Raise ImageError(truncated) if the file of format `name` (of `identify`) ends before its container does.

    JPEG, AVIF, PPM and compressed TIFF strips are left to the decoder, which refuses every shortened file.
    """
    checks = {
        "PNG": _png_is_complete,
        "GIF": _gif_is_complete,
        "WEBP": _webp_is_complete,
        "BMP": _bmp_is_complete,
        "TIFF": _tiff_is_complete,
        "JPEG2000": _jpeg2000_is_complete,
    }
    check = checks.get(name)
    try:
        complete = check is None or check(data)
    except (struct.error, IndexError, OverflowError):  # the container points behind the end of the file
        complete = False
    if not complete:
        raise ImageError(ImageErrorKind.TRUNCATED, f"{name}: the file ends before the picture does")


def seems_cut(name: str, data: bytes) -> bool:
    """Whether a file that its decoder refused was, by its container, cut rather than damaged."""
    if name == "JPEG":
        return not data.rstrip(b"\0").endswith(b"\xff\xd9")
    if name == "AVIF":
        boxes = _iso_boxes(data)
        return not boxes or boxes[-1][2] != len(data)
    return False


def _identify_iso_media(data: bytes) -> str:
    length = min(max(int.from_bytes(data[:4], "big"), 16), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(length, len(data)), 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        raise ImageError(ImageErrorKind.UNSUPPORTED, "HEIF images are not read; convert to JPEG, PNG or WebP")
    raise ImageError(ImageErrorKind.NOT_AN_IMAGE, "a video or sound file (ISO media)")


def _unidentified(data: bytes) -> ImageError:
    for magic, name in _UNREADABLE:
        if data.startswith(magic):
            return ImageError(ImageErrorKind.UNSUPPORTED, f"{name} images are not read; convert to JPEG, PNG or WebP")
    magics = (*(magic for magic, _ in _MAGIC), b"RIFF")
    if any(magic.startswith(data) for magic in magics) or (data[:4] == b"RIFF" and len(data) < 12):
        return ImageError(ImageErrorKind.TRUNCATED, f"only the first {len(data)} bytes of a file")
    text = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in text:
        return ImageError(ImageErrorKind.UNSUPPORTED, "SVG images are not read; convert to JPEG, PNG or WebP")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return ImageError(ImageErrorKind.NOT_AN_IMAGE, "an HTML page")
    if text.startswith(b"%pdf"):
        return ImageError(ImageErrorKind.NOT_AN_IMAGE, "a PDF document")
    if not text.translate(None, bytes(range(32, 256)) + b"\t\n\r\f"):
        return ImageError(ImageErrorKind.NOT_AN_IMAGE, "text")
    return ImageError(ImageErrorKind.NOT_AN_IMAGE, f"no known image format: starts with {data[:8].hex(' ')}")


def _png_is_complete(data: bytes) -> bool:
    at = 8
    while at <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length  # length, kind, data, checksum
        if kind == b"IEND" and at <= len(data):
            return True
    return False


def _gif_is_complete(data: bytes) -> bool:
    at = 13 + _gif_palette_bytes(data[10])
    while data[at] != 0x3B:
        if data[at] == 0x2C:  # a frame: nine bytes of geometry, a palette, the code size
            at += 11 + _gif_palette_bytes(data[at + 9])
        elif data[at] == 0x21:  # an extension: its label
            at += 2
        else:
            return True  # junk between blocks: decoders skip it, so no claim is made about what follows
        while data[at]:
            at += 1 + data[at]
        at += 1
    return True


def _gif_palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp_is_complete(data: bytes) -> bool:
    (size,) = struct.unpack_from("<I", data, 4)
    return bool(len(data) >= 8 + size)


def _bmp_is_complete(data: bytes) -> bool:
    offset, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = image_bytes = 0
    else:
        width, height, _, bits, compression, image_bytes = struct.unpack_from("<iiHHII", data, 18)
    if compression in (0, 3):  # plain rows, each padded to four bytes
        image_bytes = (width * bits + 31) // 32 * 4 * abs(height)
    return bool(len(data) >= offset + image_bytes)


def _tiff_is_complete(data: bytes) -> bool:
    """Whether the first directory, all its values and all its strips or tiles lie within the file."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    offset_format, entry_bytes, inline_bytes = ("Q", 20, 8) if big else ("I", 12, 4)
    (start,) = struct.unpack_from(order + offset_format, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    start += 8 if big else 2
    if len(data) < start + count * entry_bytes + inline_bytes:  # behind the entries: the next directory
        return False
    places: dict[int, tuple[int, ...]] = {}
    for at in range(start, start + count * entry_bytes, entry_bytes):
        tag, kind, number = struct.unpack_from(order + "HH" + offset_format, data, at)
        value_at, value_bytes = at + entry_bytes - inline_bytes, _TIFF_TYPE_BYTES.get(kind, 0) * number
        if value_bytes > inline_bytes:
            (value_at,) = struct.unpack_from(order + offset_format, data, value_at)
            if len(data) < value_at + value_bytes:
                return False
        if tag in (273, 279, 324, 325) and kind in (3, 4, 16):  # offsets and sizes of strips, of tiles
            letter = {3: "H", 4: "I", 16: "Q"}[kind]
            places[tag] = struct.unpack_from(f"{order}{number}{letter}", data, value_at)
    strips = zip(places.get(273, ()), places.get(279, ()), strict=False)
    tiles = zip(places.get(324, ()), places.get(325, ()), strict=False)
    return all(offset + size <= len(data) for offset, size in (*strips, *tiles))


def _iso_boxes(data: bytes) -> list[tuple[bytes, int, int]]:
    """Top-level boxes of an ISO media file as (kind, start of content, end); the last may reach too far."""
    boxes: list[tuple[bytes, int, int]] = []
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1 and start + 8 <= len(data):
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = at + length if length else len(data)  # 0: up to the end of the file
        if end < start:
            return boxes  # damaged: left to the decoder
        boxes.append((kind, start, end))
        at = end
    return boxes


def _jpeg2000_is_complete(data: bytes) -> bool:
    """Whether the code stream ends with its end marker: the decoder fills what is missing with grey."""
    end_mark = b"\xff\xd9"
    if data[:4] == b"\xff\x4f\xff\x51":
        return data.rstrip(b"\0").endswith(end_mark)
    streams = [data[start:end] for kind, start, end in _iso_boxes(data) if kind == b"jp2c" and end <= len(data)]
    return any(stream.rstrip(b"\0").endswith(end_mark) for stream in streams)
