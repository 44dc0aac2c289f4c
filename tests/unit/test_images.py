"""Bytes of image files become pixels, or an ImageError of a known kind; nothing else."""

import io
import os
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import goldens
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import FILES, PICTURE, SMALL, encode
from PIL import Image, ImageFile

from ramcore import images
from ramcore.errors import ImageError
from ramcore.imageformats import identify
from ramcore.images import MODES, ImageErrorKind, decode

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


def normalise(pixels):
    return (pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - MEAN) / STD


def levels(one, other):
    """Largest difference in grey levels."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def error_of(data, mode="exact", **options):
    with pytest.raises(ImageError) as caught:
        decode(data, 16, mode, **options)
    assert "\n" not in caught.value.detail
    assert 0 < len(caught.value.detail) <= 200
    return caught.value


@pytest.fixture(scope="module")
def golden():
    return goldens.load_golden("preproc")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "CMYK", "I;16"])
def test_exact_is_bit_equal_to_the_reference(golden, mode):
    """Every colour mode gives the reference's normalised pixels, bit by bit."""
    red, image = Image.fromarray(PICTURE[..., 0]), Image.fromarray(PICTURE)
    sources = {"L": red, "LA": red.convert("LA"), "I;16": Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 256)}
    source = sources.get(mode) or image.convert(mode)
    decoded = decode(encode(source, "TIFF" if mode == "CMYK" else "PNG"), 128)
    np.testing.assert_array_equal(normalise(decoded.pixels)[:, ::3, ::3], golden[f"mode_{mode}_s3"])
    assert (decoded.width, decoded.height) == (140, 90)


@pytest.mark.parametrize("name", ["demo2", "demo3", "demo4", "openset_example"])
def test_photographs_of_the_reference(golden, name):
    """Photographs: exact is bit-equal to the reference, fast is within one grey level."""
    folder = os.environ.get("RAMFLEET_UPSTREAM")
    path = Path(folder or ".", "images", f"{name}.jpg")
    if not folder or not path.is_file():
        pytest.skip("RAMFLEET_UPSTREAM does not name a folder with the reference's pictures, images/*.jpg")
    data = path.read_bytes()
    exact = decode(data, 384)
    if zlib.crc32(np.asarray(Image.open(path).convert("RGB")).tobytes()) == int(golden[f"{name}_decoded_crc32"]):
        assert zlib.crc32(exact.pixels.tobytes()) == int(golden[f"{name}_resized_u8_crc32"])
        np.testing.assert_array_equal(normalise(exact.pixels)[:, ::7, ::7], golden[f"{name}_s7"])
    assert (exact.width, exact.height) == tuple(golden[f"{name}_size"])
    assert levels(decode(data, 384, "fast").pixels, exact.pixels) <= 1
    assert levels(decode(data, 384, "draft").pixels, exact.pixels) <= 25


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [5, 16, 64])
def test_fast_is_within_one_level_of_exact(name, size):
    """Shrinking and enlarging any 8-bit format, fast differs from exact by one grey level at most."""
    exact, fast = decode(FILES[name], size), decode(FILES[name], size, "fast")
    assert levels(exact.pixels, fast.pixels) <= 1
    assert (exact.width, exact.height) == (fast.width, fast.height) == (17, 21)


def test_fast_on_a_large_photograph_like_picture():
    """A picture of two megapixels, strongly shrunk: one grey level between fast and exact."""
    large = Image.fromarray(PICTURE).resize((1700, 1200), Image.Resampling.BICUBIC)
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}):
        data = encode(large, "JPEG", **options)
        assert levels(decode(data, 384).pixels, decode(data, 384, "fast").pixels) <= 1


def test_draft_decodes_large_jpegs_at_a_fraction():
    """draft differs from exact on a large JPEG, but not by much, and reports the size in the file."""
    noisy = np.random.default_rng(1).integers(0, 256, (900, 1300, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noisy), "JPEG")
    exact, draft = decode(data, 96), decode(data, 96, "draft")
    assert 1 < levels(exact.pixels, draft.pixels) <= 30
    assert (draft.width, draft.height) == (1300, 900)


@pytest.mark.parametrize("mode", MODES)
def test_pixels_are_writable_contiguous_rgb(mode):
    """Pixels are of the promised type and shape in every mode, and belong to the caller."""
    pixels = decode(FILES["jpeg"], 48, mode).pixels
    assert (pixels.shape, pixels.dtype) == ((48, 48, 3), np.uint8)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (20_000, 10), (3, 4_000)])
def test_odd_shapes(width, height, mode):
    """One pixel and very long pictures are decoded to their colour."""
    for file_format in ("JPEG", "PNG"):
        decoded = decode(encode(Image.new("RGB", (width, height), (200, 100, 50)), file_format), 24, mode)
        assert (decoded.width, decoded.height) == (width, height)
        assert levels(decoded.pixels, np.broadcast_to(np.array([200, 100, 50]), (24, 24, 3))) <= 2


@pytest.mark.parametrize("mode", MODES)
def test_palette_with_transparency(mode):
    """Transparency of a palette, by entry or by index, does not matter to the colours."""
    palette = SMALL.quantize(8)
    expected = decode(encode(palette, "PNG"), 16).pixels
    for transparency in (bytes([0, 128, 255]), 3):
        data = encode(palette, "PNG", transparency=transparency)
        assert levels(decode(data, 16, mode).pixels, expected) <= 1


def test_a_transparent_grey_beyond_eight_bits():
    """A transparent colour that Pillow cannot carry over does not stop the decoding."""
    data = encode(SMALL.convert("L"), "PNG")
    chunk = struct.pack(">I", 2) + b"tRNS" + b"\xff\xff"
    data = data[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[33:]
    assert np.array_equal(decode(data, 16).pixels, decode(encode(SMALL.convert("L"), "PNG"), 16).pixels)


@pytest.mark.parametrize("mode", MODES)
def test_grey_of_16_bits(mode):
    """exact clips 16-bit grey as the reference does, the other modes scale it."""
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    for file_format in ("PNG", "TIFF", "PPM"):
        pixels = decode(encode(Image.fromarray(ramp), file_format), 32, mode).pixels
        scaled = np.rint(ramp / 257).astype(int)
        expected = np.minimum(ramp, 255) if mode == "exact" else scaled
        assert levels(pixels, np.repeat(expected[:, :, None], 3, axis=2)) == 0


@pytest.mark.parametrize("mode", MODES)
def test_one_bit_pictures(mode):
    """Bits become black and white."""
    board = Image.fromarray(np.indices((16, 16)).sum(0) % 2 == 0)
    assert set(np.unique(decode(encode(board, "PNG"), 16, mode).pixels)) == {0, 255}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_samples_of_32_bits_are_unsupported(dtype, mode):
    """32-bit numbers have no defined white: an error, never a black or white picture."""
    assert error_of(encode(Image.fromarray(np.ones((4, 4), dtype)), "TIFF"), mode).kind == "unsupported"


@pytest.mark.parametrize("mode", MODES)
def test_cmyk_jpegs_with_and_without_adobe_inversion(mode):
    """A CMYK JPEG with Adobe's marker is inverted, and close to its RGB colours; fast equals exact."""
    flat = Image.new("RGB", (32, 32), (200, 100, 50))
    data = encode(flat.convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert levels(decode(data, 32, mode).pixels, np.asarray(flat)) <= 3
    plain = data.replace(b"Adobe", b"other")
    assert levels(decode(plain, 32, mode).pixels, decode(plain, 32).pixels) == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["gif animated", "webp animated", "apng"])
def test_animations_give_their_first_frame(name, mode):
    """Of an animation the first frame is taken."""
    first = Image.open(io.BytesIO(FILES[name])).convert("RGB").resize((24, 24), Image.Resampling.BILINEAR)
    assert levels(decode(FILES[name], 24, mode).pixels, np.asarray(first)) <= 1


def test_exif_rotation_is_ignored():
    """An orientation in EXIF changes neither pixels nor size, as in the reference."""
    rotated, plain = decode(FILES["jpeg exif"], 16), decode(FILES["jpeg"], 16)
    assert np.array_equal(rotated.pixels, plain.pixels)
    assert (rotated.width, rotated.height) == (17, 21)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_an_error(name, mode):
    """However many bytes a file lost at its end, one or all, it is an error."""
    data = FILES[name]
    cuts = {*range(40), *range(40, len(data), 23), *range(len(data) - 40, len(data))}
    kinds = {cut: error_of(data[:cut], mode).kind for cut in cuts}
    assert kinds[0] == "empty"
    assert {kind for cut, kind in kinds.items() if cut >= 40} == {"truncated"}


def test_format_that_this_pillow_lacks_is_unsupported(monkeypatch):
    """Pillow before 11.3 reads no AVIF; such a file is a reject with the reason."""
    monkeypatch.delitem(images._OPENERS, "PNG")
    error = error_of(FILES["png"])
    assert error.kind == ImageErrorKind.UNSUPPORTED
    assert error.detail == "PNG needs a newer Pillow than is installed"


@pytest.mark.parametrize(
    "name", [n for n in FILES if n in ("jpeg", "jpeg progressive", "png", "gif", "webp", "bmp", "tiff", "ppm", "avif")]
)
def test_bytes_behind_the_end_do_no_harm(name):
    """Trailing bytes, which cameras and servers add, are not damage."""
    for tail in (b"\0" * 7, b"\r\n", b"<!-- served by -->"):
        for mode in MODES:
            assert np.array_equal(decode(FILES[name] + tail, 16, mode).pixels, decode(FILES[name], 16, mode).pixels)


@pytest.mark.parametrize(
    ("data", "kind", "detail"),
    [
        (b"", "empty", "no bytes"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image", "HTML"),
        (b"  \n<html>", "not_an_image", "HTML"),
        (b"BMW is a maker of cars, not of bitmaps", "not_an_image", "text"),
        (b'{"error": "denied"}', "not_an_image", "text"),
        (b"%PDF-1.7 ...", "not_an_image", "PDF"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", "not_an_image", "starts with 00 01 02"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "not_an_image", "video"),
        (b"\xff\xd8", "truncated", "2 bytes"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported", "HEIF"),
        (b'<?xml version="1.0"?><svg xmlns="x">', "unsupported", "SVG"),
        (b"8BPS\0\1", "unsupported", "Photoshop"),
        (b"%!PS-Adobe-3.0", "unsupported", "PostScript"),
        (b"\0\0\1\0\1\0", "unsupported", "ICO"),
    ],
)
def test_what_is_no_readable_image(data, kind, detail):
    """Empty files, pages, text and other formats are told apart, and the detail says what they are."""
    for mode in MODES:
        error = error_of(data, mode)
        assert error.kind == kind
        assert detail in error.detail


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FILES)
def test_more_pixels_than_allowed(name, mode):
    """The limit is inclusive, and is checked in every format."""
    assert decode(FILES[name], 16, mode, max_pixels=17 * 21).width == 17
    error = error_of(FILES[name], mode, max_pixels=17 * 21 - 1)
    assert error.kind == "too_many_pixels"
    assert "17 x 21" in error.detail


def test_a_directory_that_points_beyond_any_file():
    """A 64-bit offset of a TIFF that no file can have is an error as any other."""
    assert error_of(b"II+\0\x08\0\0\0" + b"\xff" * 60).kind == "truncated"


def test_a_bomb_is_refused_without_decoding():
    """A PNG header that promises 40,000 x 40,000 pixels is refused by the default limit."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND")
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
    assert error_of(data).kind == "too_many_pixels"


@pytest.mark.parametrize("mode", MODES)
def test_damaged_pixels_are_a_decode_error(mode):
    """A PNG whose compressed data is damaged is refused as such."""
    data = bytearray(FILES["png"])
    data[60:80] = bytes(20)
    assert error_of(bytes(data), mode).kind == "decode_error"


def test_wrong_arguments_are_value_errors():
    """A wrong mode or size is the caller's fault, not the image's."""
    for arguments in ({"mode": "quick"}, {"size": 0}, {"max_pixels": 0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            decode(FILES["png"], **{"size": 16, **arguments})


def damaged_exif():
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(60))
    data = encode(SMALL, "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def test_pillows_warnings_do_not_leak():
    """Odd metadata makes Pillow warn; callers see neither the warning nor a changed filter."""
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(io.BytesIO(damaged_exif())).load()
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for mode in MODES:
            decode(damaged_exif(), 16, mode)
            decode(encode(SMALL.quantize(8), "PNG", transparency=bytes([0, 9])), 16, mode)
    assert not seen
    assert list(warnings.filters) == before
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_many_threads_decode_at_once():
    """Threads get what one thread gets, and leave the warning filters as they were."""
    before = list(warnings.filters)
    work = [(data, mode) for data in (*FILES.values(), damaged_exif()) for mode in MODES] * 4
    expected = [decode(data, 16, mode).pixels for data, mode in work]
    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=barrier.wait) as pool:
        found = list(pool.map(lambda item: decode(item[0], 16, item[1]).pixels, work))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert list(warnings.filters) == before


def test_warnings_stay_ignored_until_the_last_thread_leaves():
    """The filter is there while anyone is inside, once, and is gone afterwards."""
    before = list(warnings.filters)
    ignored = images._PILLOW_WARNINGS
    with ignored:
        within = list(warnings.filters)
        with ignored:
            assert list(warnings.filters) == within
        assert list(warnings.filters) == within
        assert len(within) == len(before) + 1
    assert list(warnings.filters) == before


def outcome(data, mode):
    """ "pixels", or the kind of the ImageError; any other exception passes."""
    kind, detail = "pixels", ""
    try:
        decode(data, 16, mode, max_pixels=100_000)
    except ImageError as error:
        kind, detail = error.kind, error.detail
    assert kind in {"pixels", *ImageErrorKind}
    assert "\n" not in detail
    return kind


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_bytes_raise_nothing_else(data):
    """Any bytes at all give pixels or an ImageError, the same in every mode."""
    assert len({outcome(data, mode) for mode in MODES}) == 1


@pytest.mark.lengthy
@given(st.sampled_from(sorted(FILES)), st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_files_raise_nothing_else(name, data):
    """Overwritten, lost and added bytes give pixels or an ImageError; fast and exact agree on which."""
    damaged = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        damaged = damaged or bytearray(b"\0")
    assert outcome(bytes(damaged), "exact") == outcome(bytes(damaged), "fast")
    outcome(bytes(damaged), "draft")


def test_formats_are_told_by_their_first_bytes():
    """identify names the format that Pillow would find."""
    for data in FILES.values():
        assert identify(data) == Image.open(io.BytesIO(data)).format


@pytest.mark.parametrize("size", [32, 64])
def test_pixels_stay_when_the_thread_decodes_the_next_picture(size):
    """Also those of a picture that has the wanted size already: the memory of decoding is used again."""
    first, second = (np.full((32, 32, 3), grey, np.uint8) for grey in (50, 200))
    decoded = decode(encode(Image.fromarray(first), "JPEG"), size, "fast").pixels
    decode(encode(Image.fromarray(second), "JPEG"), size, "fast")
    assert levels(decoded, np.full_like(decoded, 50)) <= 1
