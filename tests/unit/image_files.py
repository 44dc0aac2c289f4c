"""Small image files of every format and flavour."""

import io

import goldens
import simplejpeg
from PIL import Image

PICTURE = goldens.synth_images("tiny")[0]
SMALL = Image.fromarray(PICTURE[:21, :17])


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def small_files():
    """A small file of each format and flavour, by name."""
    exif = Image.Exif()
    exif[0x0112] = 6
    palette, turned = SMALL.quantize(16), SMALL.rotate(90)
    return {
        "jpeg": encode(SMALL, "JPEG"),
        "jpeg progressive": encode(SMALL, "JPEG", progressive=True),
        "jpeg grey": encode(SMALL.convert("L"), "JPEG"),
        "jpeg cmyk": encode(SMALL.convert("CMYK"), "JPEG"),
        "jpeg restarts": encode(SMALL, "JPEG", restart_marker_blocks=1),
        "jpeg exif": encode(SMALL, "JPEG", exif=exif),
        "jpeg 4:1:1": simplejpeg.encode_jpeg(PICTURE[:21, :17].copy(), colorspace="RGB", colorsubsampling="411"),
        "png": encode(SMALL, "PNG"),
        "apng": encode(SMALL, "PNG", save_all=True, append_images=[turned]),
        "gif": encode(palette, "GIF"),
        "gif animated": encode(palette, "GIF", save_all=True, append_images=[turned.quantize(16)]),
        "webp": encode(SMALL, "WEBP"),
        "webp lossless": encode(SMALL, "WEBP", lossless=True),
        "webp animated": encode(SMALL, "WEBP", save_all=True, append_images=[turned]),
        "bmp": encode(SMALL, "BMP"),
        "bmp palette": encode(palette, "BMP"),
        "tiff": encode(SMALL, "TIFF"),
        "tiff lzw": encode(SMALL, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encode(SMALL, "TIFF", compression="jpeg"),
        "tiff fax": encode(SMALL.convert("1"), "TIFF", compression="group4"),
        "bigtiff": encode(SMALL, "TIFF", big_tiff=True),
        "ppm": encode(SMALL, "PPM"),
        "jp2": encode(SMALL, "JPEG2000"),
        "j2k": encode(SMALL, "JPEG2000", no_jp2=True),
    }


FILES = small_files()
if "AVIF" in Image.SAVE:  # Pillow from 11.3 on
    FILES["avif"] = encode(SMALL, "AVIF")
