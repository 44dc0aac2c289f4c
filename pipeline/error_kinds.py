"""Why an image was not tagged: the closed set of error kinds, each with its cause and remedy."""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["plan", "fetch", "decode", "model"]


@dataclass(frozen=True)
class ErrorKind:
    """One value of the column `error_kind`.

    retriable: the same image may succeed later without being changed; a flood of such rejects is an outage.
    repeated: fetching tries again at once, `fetch.retries` times, before it gives up.
    """

    name: str
    stage: Stage
    retriable: bool
    cause: str
    remedy: str
    repeated: bool = False


_TABLE = (
    ErrorKind("duplicate_id", "plan", False, "an earlier row has this image_id with another uri",
              "give every image an id of its own"),
    ErrorKind("not_found", "fetch", True, "there is no object of this uri",
              "correct the manifest, or bring the object back and tag it again"),
    ErrorKind("forbidden", "fetch", True, "reading is not permitted", "grant the right to read, then tag it again"),
    ErrorKind("timeout", "fetch", True, "the source did not answer within the time-outs of fetch.*",
              "look at the source, or raise fetch.read_timeout_s and fetch.total_timeout_s", repeated=True),
    ErrorKind("connection", "fetch", True, "the storage failed while the object was read",
              "look at the storage, then tag it again", repeated=True),
    ErrorKind("dns", "fetch", True, "the host's name has no address", "correct the host, or look at the name server",
              repeated=True),
    ErrorKind("tls", "fetch", True, "no trusted, encrypted connection to the host could be made",
              "mend the host's certificate, or give its authority in SSL_CERT_FILE"),
    ErrorKind("throttled", "fetch", True, "the source asked for fewer requests",
              "lower fetch.concurrency or fetch.concurrency_per_host, then tag it again", repeated=True),
    ErrorKind("http_5xx", "fetch", True, "the server failed (status 500 to 599)", "tag it again later", repeated=True),
    ErrorKind("http_4xx", "fetch", False, "the server refused the request (status 400 to 499, none of the others here)",
              "look at the status in error_detail, and correct the uri"),
    ErrorKind("bad_response", "fetch", True, "the answer breaks the rules of HTTP or of the store",
              "look at the server, then tag it again", repeated=True),
    ErrorKind("too_many_redirects", "fetch", False, "more redirects than fetch.max_redirects, or a circle of them",
              "give the uri that they lead to"),
    ErrorKind("robots", "fetch", False, "the server's X-Robots-Tag forbids such use",
              "ask the owner; with permission, set fetch.robots=false"),
    ErrorKind("blocked_address", "fetch", False, "the host is at a private, local or otherwise reserved address",
              "allow the host by name in fetch.allow_hosts if it is meant"),
    ErrorKind("blocked_path", "fetch", False, "a local path outside of fetch.allow_roots, or an unsafe archive member",
              "add the folder to fetch.allow_roots if it is meant"),
    ErrorKind("too_large", "fetch", False, "more bytes than fetch.max_image_bytes", "raise fetch.max_image_bytes"),
    ErrorKind("unsupported_uri", "fetch", False, "no reader for uris of this form",
              "write it as a path, s3://, gs://, az:// or http(s):// uri"),
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


def as_markdown() -> str:
    """All error kinds as the table of docs/reference/errors.md."""
    lines = ["| kind | stage | retriable | tried again at once | cause | remedy |", "|---|---|---|---|---|---|"]
    for kind in _TABLE:
        flags = ("yes" if flag else "no" for flag in (kind.retriable, kind.repeated))
        lines.append(f"| `{kind.name}` | {kind.stage} | {' | '.join(flags)} | {kind.cause} | {kind.remedy} |")
    return "\n".join(lines) + "\n"
