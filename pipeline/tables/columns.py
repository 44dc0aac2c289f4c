"""The tables of a run as its readers see them: every column with its type and what it means."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.tables.schemas import (
    IMAGE_FIELDS,
    REJECTS_COLUMNS,
    TAG_FIELDS,
    TAGS_COLUMNS,
    TELEMETRY_SCHEMA,
    VERSION_COLUMN,
    VOCABULARY_SCHEMA,
)

_PLANNED_FIELDS = [
    pa.field("image_id", pa.string()),
    pa.field("uri", pa.string()),
    pa.field("chunk", pa.int64()),
    pa.field("planned_error", pa.string()),
]
_VERSION = pa.field(VERSION_COLUMN, pa.string())
_NAMED_FIELDS = [pa.field(name, pa.string()) for name in ("grounding_prompt", "tags_joined", "tags_zh_joined")]
_ALL = {field.name: field for field in (*_PLANNED_FIELDS, *IMAGE_FIELDS, *TAG_FIELDS, *_NAMED_FIELDS, _VERSION)}


def _fields(names: Iterable[str]) -> tuple[pa.Field, ...]:
    return tuple(_ALL[name] for name in names)


MEANINGS = {
    "image_id": "key of the image: its path below INPUT, or the manifest's image_id, id or key, else the uri",
    "uri": "where its bytes are; user, password and signature are cut, but for plan/",
    "chunk": "number of its chunk, the unit of work and commit",
    "planned_error": "duplicate_id if the plan rejects the row already, else null",
    "width": "of the image, in pixels, as it is stored; null where it was not decoded",
    "height": "the same",
    "sha256": "of the image's bytes, in hexadecimal",
    "image_bytes": "how many these are",
    "fetch_s": "seconds of fetching, all attempts without the waits between; of a chunk the sum of its images",
    "decode_s": "seconds of decoding and resizing; of a chunk the sum of its images",
    "error_kind": "why it was not tagged, one of a closed set ([errors.md](errors.md)); null in a tagged row",
    "error_detail": "one line about it for people, without credentials",
    "attempts": "how often it was tried to fetch it, retries of the run included",
    "tags": "English names of the tags over their thresholds, in order of the vocabulary",
    "tags_zh": "their Chinese names; an empty list where the vocabulary has none at all",
    "tag_ids": "ids of all tags whose score was stored, ascending",
    "scores": "their scores, 0 … 1, in the same order",
    "caption": "a sentence, of models that write one (tag2text); else null",
    "grounding_prompt": "with output.grounding_prompt: dog . cat .",
    "tags_joined": "with output.joined: dog | cat",
    "tags_zh_joined": "the same in Chinese",
    VERSION_COLUMN: "which content the image had when it was planned; null where nothing is known",
    "tag_id": "position of the tag in the model's list",
    "tag": "its English name",
    "tag_zh": "its Chinese name, or an empty text",
    "threshold": "a tag is set where its score is strictly greater",
    "generation": "0, or which retry's object it is; null if none came of the attempt",
    "outcome": "committed: an object was made, once for each; shared: a further replica's piece of it; beaten: another "
    "driver was first; died: the replica was lost",
    "node_id": "node of the replica, as Ray calls it",
    "node_type": "kind of that node, by which costs are grouped",
    "card": "the replica's card as Ray calls it, or cpu",
    "instance_type": "the cloud's name of the machine, where a label says it",
    "market": "spot or on-demand, where a label says it",
    "zone": "availability zone, where a label says it",
    "replica": "which replica worked",
    "dtype": "number type that it computed in",
    "microbatch": "images that it ran through the model at once",
    "images": "images of the attempt",
    "rejects": "how many of them were rejected",
    "bytes": "bytes of the images, as they were fetched",
    "wait_s": "seconds that decoded pixels waited for a replica",
    "transfer_s": "seconds from lease to tags, but for the model's: pixels there, scores back",
    "model_s": "seconds that the model worked; it did so until ended_at",
    "commit_s": "seconds of creating the object",
    "peak_vram_bytes": "most memory of the card that the replica has held so far; null on CPUs",
    "started_at": "when the lease came; in a chunk without a piece, when work on it began",
    "ended_at": "when the model was done, by the clock of its node",
}
"""What each column holds."""


@dataclass(frozen=True)
class RunTable:
    """One kind of Parquet objects of a run. optional: columns that only some options or inputs bring; kept: whether
    the columns of `manifest.keep` follow."""

    name: str
    objects: str
    holds: str
    fields: tuple[pa.Field, ...]
    optional: tuple[pa.Field, ...] = ()
    kept: bool = False


RUN_TABLES = (
    RunTable("Tags", "tags/part-*.parquet", "A row for each tagged image.", _fields(TAGS_COLUMNS),
             (*_NAMED_FIELDS, _VERSION), kept=True),
    RunTable("Rejects", "rejects/part-*.parquet", "A row for each image that could not be tagged.",
             _fields(REJECTS_COLUMNS)),
    RunTable("Duplicates", "duplicates/part-*.parquet", "A row for each row of INPUT that repeats an earlier one.",
             _fields(("image_id", "uri"))),
    RunTable("Telemetry", "telemetry/part-*.parquet", "A row for each attempt at a chunk, or at a piece of one.",
             tuple(TELEMETRY_SCHEMA)),
    RunTable("Vocabulary", "vocabulary.parquet", "A row for each tag of the model.", tuple(VOCABULARY_SCHEMA)),
    RunTable("Plan", "plan/part-*.parquet", "A row for each image that is to be tagged, a row group for each chunk. "
             "Here uris are whole, as they are needed to fetch.", tuple(_PLANNED_FIELDS), (_VERSION,), kept=True),
    RunTable("Chunks", "chunks/*.g*.parquet", "The rows of one chunk, tagged or rejected; of several generations the "
             "highest counts. What the tables above are made of: read those.",
             (*_PLANNED_FIELDS[:3], *IMAGE_FIELDS, *TAG_FIELDS), (*_NAMED_FIELDS, _VERSION), kept=True),
)  # fmt: skip


def as_markdown() -> str:
    """All tables as docs/reference/schemas.md has them."""
    return "\n".join(line for table in RUN_TABLES for line in _section(table))


def type_name(kind: pa.DataType) -> str:
    """A type's common name: `float32`, `list<string>`."""
    if pa.types.is_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _section(table: RunTable) -> list[str]:
    lines = [f"## {table.name}", "", f"`{table.objects}`: {table.holds}", "", "| column | type | |", "|---|---|---|"]
    for field in (*table.fields, *table.optional):
        more = "; *if asked for or known*" if field in table.optional else ""
        meaning = MEANINGS[field.name].replace("|", "\\|")
        lines.append(f"| `{field.name}` | `{type_name(field.type)}` | {meaning}{more} |")
    if table.kept:
        lines.append("| … | string or as given | the columns of INPUT that `manifest.keep` names |")
    return [*lines, ""]
