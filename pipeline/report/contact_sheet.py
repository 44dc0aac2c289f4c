"""Small pictures of a few tagged images, read again from where they are."""

import base64
import hashlib
import io
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTimeError
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipeline.config import FetchConfig, StorageConfig
from pipeline.errors import RunError
from pipeline.fetching.fetcher import Fetcher
from pipeline.fetching.outcome import Fetched
from ramcore.errors import ImageError
from ramcore.images import decode

_SIDE = 192
_QUALITY = 72
_MOST_BYTES = 50_000_000


@dataclass(frozen=True)
class Picture:
    """One image of the sheet. data_uri: a JPEG of at most 192 pixels a side, None where `missing` says why there is
    none; tags: (tag, score), the highest first."""

    image_id: str
    uri: str
    tags: list[tuple[str, float]]
    data_uri: str | None = None
    missing: str | None = None


class NoPictureError(RunError):
    """An image of a run cannot be shown; the message goes on after its name: "cannot be read now: …"."""


def contact_sheet(
    rows: Sequence[dict[str, Any]], fetch: FetchConfig, storage: StorageConfig, timeout_s: float
) -> list[Picture]:
    """The pictures of rows with `image_id`, `uri`, `sha256` and `tags`, all within `timeout_s` seconds.

    Any local path may be read: only what has the sha256 of the image that was tagged is shown.
    """
    if not rows:
        return []
    roots = ("/",) if fetch.allow_roots == "auto" else tuple(fetch.allow_roots)
    deadline = time.monotonic() + timeout_s
    with Fetcher(hasty(fetch, timeout_s), storage, roots) as fetcher:
        begun = [fetcher.begin(row["uri"]) for row in rows]
        return [_picture(row, future, deadline, timeout_s) for row, future in zip(rows, begun, strict=True)]


def hasty(fetch: FetchConfig, timeout_s: float) -> FetchConfig:
    """No second attempts, and no image that is too heavy for a thumbnail."""
    limits = {
        "retries": 0,
        "connect_timeout_s": min(fetch.connect_timeout_s, timeout_s),
        "read_timeout_s": min(fetch.read_timeout_s, timeout_s),
        "total_timeout_s": min(fetch.total_timeout_s, timeout_s),
        "max_image_bytes": min(fetch.max_image_bytes, _MOST_BYTES),
    }
    return fetch.model_copy(update=limits)


def _picture(row: dict[str, Any], future: "Future[Fetched]", deadline: float, timeout_s: float) -> Picture:
    try:
        jpeg = thumbnail(row["sha256"], future, deadline, timeout_s)
    except NoPictureError as error:
        return Picture(row["image_id"], row["uri"], row["tags"], missing=str(error))
    data_uri = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return Picture(row["image_id"], row["uri"], row["tags"], data_uri)


def thumbnail(sha256: str, future: "Future[Fetched]", deadline: float, timeout_s: float) -> bytes:
    """A JPEG of at most 192 pixels a side: the picture anew, without whatever else the file carries.

    sha256: of the image that was tagged, as hex digits; deadline: of time.monotonic(), `timeout_s` after the start.
    Raises NoPictureError.
    """
    try:
        fetched = future.result(max(0.0, deadline - time.monotonic()))
    except NotInTimeError as error:
        raise NoPictureError(f"could not be read within {timeout_s:g} s") from error
    if fetched.data is None:
        raise NoPictureError(f"cannot be read now: {fetched.error}")
    if hashlib.sha256(fetched.data).hexdigest() != sha256:
        raise NoPictureError("is not the image that was tagged any more")
    try:
        return small(fetched.data)
    except ImageError as error:
        raise NoPictureError(f"cannot be decoded here: {error}") from error


def small(data: bytes) -> bytes:
    """A picture's file as a JPEG of at most 192 pixels a side. Raises ImageError."""
    decoded = decode(data, _SIDE, "draft")
    scale = _SIDE / max(decoded.width, decoded.height)
    size = (max(1, round(decoded.width * scale)), max(1, round(decoded.height * scale)))
    buffer = io.BytesIO()
    Image.fromarray(decoded.pixels).resize(size, Image.Resampling.BILINEAR).save(
        buffer, "JPEG", quality=_QUALITY, optimize=True
    )
    return buffer.getvalue()
