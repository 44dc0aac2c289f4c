"""Uris of images within other files: members of tars and cells of Parquet files.

    tar+s3://bucket/shard-000.tar#offset=1536&size=20480&name=000001.jpg
    parquet+file:///data/train.parquet#column=image.bytes&group=3&row=17

In front of `#` is the uri of the file, behind it where in the file the image is; all values are percent-encoded.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from pipeline.fetching.outcome import FetchError

_MOST_BYTES = 1 << 50


@dataclass(frozen=True)
class TarMember:
    """offset: of the content, whose header is the block in front of it; size: of the content in bytes."""

    container: str
    offset: int
    size: int
    name: str

    @property
    def uri(self) -> str:
        """As it stands in a plan."""
        return _join("tar", self.container, offset=self.offset, size=self.size, name=self.name)

    @property
    def is_safe(self) -> bool:
        """Whether the name stays below the folder that the tar would be unpacked into."""
        return is_safe_name(self.name)


@dataclass(frozen=True)
class Cell:
    """column: name, or name.bytes within a struct; row: within the row group, from 0."""

    container: str
    column: str
    group: int
    row: int

    @property
    def uri(self) -> str:
        """As it stands in a plan."""
        return _join("parquet", self.container, column=self.column, group=self.group, row=self.row)


def parse_member(uri: str) -> TarMember | Cell:
    """What a uri of scheme tar+… or parquet+… stands for. Raises FetchError for a malformed one."""
    scheme, _, rest = uri.partition("+")
    container, hash_sign, fragment = rest.partition("#")
    if not hash_sign or "://" not in container:
        raise FetchError(
            "unsupported_uri", f"{scheme[:20]}+ uris are {scheme[:20]}+file:///path#…, with the place in it"
        )
    values = dict(part.partition("=")[::2] for part in fragment.split("&"))
    try:
        if scheme == "tar":
            name = unquote(values["name"], errors="surrogateescape")
            return TarMember(container, _number(values["offset"]), _number(values["size"]), name)
        return Cell(container, unquote(values["column"]), _number(values["group"]), _number(values["row"]))
    except (KeyError, ValueError) as error:
        raise FetchError("unsupported_uri", f"the part behind # is not as {scheme[:20]}+ uris have it") from error


def is_safe_name(name: str) -> bool:
    """Whether a name in an archive is neither absolute nor leads upwards."""
    return bool(name) and not name.startswith(("/", "\\")) and ".." not in re.split(r"[/\\]", name) and "\0" not in name


def file_uri(path: str) -> str:
    """The file:// uri of an absolute local path."""
    return "file://" + quote(path.encode(errors="surrogateescape"))


def container_of(uri: str) -> str:
    """The uri of the file that holds the image: for all but tar+ and parquet+ uris the uri itself."""
    return uri.partition("+")[2].partition("#")[0] if uri.startswith(("tar+", "parquet+")) else uri


def _join(scheme: str, container: str, **place: int | str) -> str:
    if "://" not in container:
        container = file_uri(container)
    values = (
        f"{key}={quote(value.encode(errors='surrogateescape')) if isinstance(value, str) else value}"
        for key, value in place.items()
    )
    return f"{scheme}+{container.replace('#', '%23')}#{'&'.join(values)}"


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,16}", text):
        raise ValueError(text)
    number = int(text)
    if number > _MOST_BYTES:
        raise ValueError(text)
    return number
