"""Why an image was not tagged: the closed set of error kinds, each with its cause and remedy."""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["plan", "fetch", "decode", "model"]


@dataclass(frozen=True)
class ErrorKind:
    """One value of the column `error_kind`.

    retriable: the same image may succeed later without being changed; a flood of such rejects is an outage.
    """

    name: str
    stage: Stage
    retriable: bool
    cause: str
    remedy: str


_TABLE = (
    ErrorKind("duplicate_id", "plan", False, "an earlier row has this image_id with another uri",
              "give every image an id of its own"),
    ErrorKind("not_found", "fetch", True, "there is no object of this uri",
              "correct the manifest, or bring the object back and tag it again"),
    ErrorKind("forbidden", "fetch", True, "reading is not permitted", "grant the right to read, then tag it again"),
    ErrorKind("connection", "fetch", True, "the storage failed while the object was read",
              "look at the storage, then tag it again"),
    ErrorKind("too_large", "fetch", False, "more bytes than fetch.max_image_bytes", "raise fetch.max_image_bytes"),
    ErrorKind("unsupported_uri", "fetch", False, "no reader for uris of this scheme", "copy the images to local disk"),
    ErrorKind("empty", "decode", False, "the object has no bytes", "write the file again"),
    ErrorKind("not_an_image", "decode", False, "the bytes are of no known image format, an error page perhaps",
              "look at the file; fetch it from its source again"),
    ErrorKind("truncated", "decode", False, "the file ends before the picture does", "write the file again"),
    ErrorKind("unsupported", "decode", False, "an image format or colour mode that cannot be read here",
              "convert it to JPEG or PNG"),
    ErrorKind("too_many_pixels", "decode", False, "more pixels than decode.max_pixels",
              "raise decode.max_pixels if the image is meant to be so large"),
    ErrorKind("decode_error", "decode", False, "the decoder gave up on damaged data", "write the file again"),
    ErrorKind("poison", "decode", False, "it killed two fresh processes that worked on it alone",
              "keep the file for a bug report, and convert it with another program"),
    ErrorKind("model_error", "model", False, "the model raised an error on this image alone",
              "see error_detail; report it with the image"),
    ErrorKind("not_finite", "model", False, "the model's scores of this image are not finite numbers",
              "try model.dtype=fp32 in a new run"),
)  # fmt: skip

ERROR_KINDS: dict[str, ErrorKind] = {kind.name: kind for kind in _TABLE}
"""Every error kind by its name."""
