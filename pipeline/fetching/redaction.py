"""Uris without what they may hold of credentials, for messages and for tables."""

import re

import pyarrow as pa
import pyarrow.compute as pc

_USERINFO = r"(?P<scheme>^[A-Za-z][A-Za-z0-9+.\-]*:[/\\]{2,})[^/?#\\]*@"
_QUERY = r"\?[^#]*"
_SECRET_PARAMETER = (
    r"(?i)(?P<before>[?&;])(?:x-amz-[^=&#]*|x-goog-[^=&#]*|awsaccesskeyid|googleaccessid|signature|sig|key-pair-id"
    r"|auth|authorization|access_?key|[^=&#?;]*(?:token|secret|password|credential|api[_-]?key|hmac)[^=&#;]*)=[^&#;]*"
)
"""Parameters of signed URLs of S3, GCS, Azure and CloudFront, and names that tell a secret."""


def redacted(uri: str) -> str:
    """The uri for a message: without user and password, and without any query."""
    return re.sub(_QUERY, "?…", re.sub(_USERINFO, r"\g<scheme>", uri))


def without_credentials(uri: str) -> str:
    """The uri for a table: without user and password and signatures; other parameters tell images apart and stay."""
    return str(_cut(pa.array([uri], pa.string()))[0].as_py())


def column_without_credentials(uris: pa.Array) -> pa.Array:
    """`without_credentials` of every uri; uris: string array, nulls stay."""
    return _cut(uris)


def _cut(uris: pa.Array) -> pa.Array:
    if not pc.any(pc.match_substring_regex(uris, r"^[A-Za-z][A-Za-z0-9+.\-]*:[/\\]{2,}[^#]*[?@]")).as_py():
        return uris
    is_uri = pc.match_substring_regex(uris, r"^[A-Za-z][A-Za-z0-9+.\-]*:[/\\]{2,}")
    cut = pc.replace_substring_regex(uris, _for_re2(_USERINFO), r"\1")
    cut = pc.replace_substring_regex(cut, _for_re2(_SECRET_PARAMETER), r"\1")
    cut = pc.replace_substring_regex(cut, r"([?&;])[&;]+", r"\1")
    cut = pc.replace_substring_regex(cut, r"[?&;]+(#|$)", r"\1")
    return pc.if_else(is_uri, cut, uris)


def _for_re2(pattern: str) -> str:
    return re.sub(r"\(\?P<\w+>", "(", pattern)
