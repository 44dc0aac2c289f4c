"""Schemas of what a run writes, and the two codecs between tables and bytes."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FORMAT_VERSION = 1
"""Version of the run folder's layout; a run of another version is refused, not guessed at."""

ATTEMPT_KEY = b"ramfleet.attempt"
"""Key of a chunk file's metadata: how the attempt that won was done, as JSON; its `plan_hash` says of which run."""

IMAGE_FIELDS = [
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("sha256", pa.string()),
    pa.field("image_bytes", pa.int64()),
    pa.field("fetch_s", pa.float32()),
    pa.field("decode_s", pa.float32()),
    pa.field("error_kind", pa.string()),
    pa.field("error_detail", pa.string()),
    pa.field("attempts", pa.int32()),
]
"""What decoding adds to a planned row; width … sha256 are null where the image was rejected before."""

TAG_FIELDS = [
    pa.field("tags", pa.list_(pa.string())),
    pa.field("tags_zh", pa.list_(pa.string())),
    pa.field("tag_ids", pa.list_(pa.int32())),
    pa.field("scores", pa.list_(pa.float32())),
    pa.field("caption", pa.string()),
]
"""What tagging adds; all null in a rejected row."""

VERSION_COLUMN = "version"
"""Column of the planned rows that says which content an image had when it was planned; see `manifests/versions.py`."""

TAGS_COLUMNS = ("image_id", "uri", "width", "height", *(field.name for field in TAG_FIELDS), "sha256", "chunk")
REJECTS_COLUMNS = ("image_id", "uri", "error_kind", "error_detail", "attempts", "chunk")

VOCABULARY_SCHEMA = pa.schema(
    [("tag_id", pa.int32()), ("tag", pa.string()), ("tag_zh", pa.string()), ("threshold", pa.float32())]
)

TELEMETRY_SCHEMA = pa.schema(
    [
        ("chunk", pa.int64()),
        ("generation", pa.int32()),
        ("outcome", pa.string()),
        ("node_id", pa.string()),
        ("node_type", pa.string()),
        ("card", pa.string()),
        ("instance_type", pa.string()),
        ("market", pa.string()),
        ("zone", pa.string()),
        ("replica", pa.string()),
        ("dtype", pa.string()),
        ("microbatch", pa.int32()),
        ("images", pa.int64()),
        ("rejects", pa.int64()),
        ("bytes", pa.int64()),
        ("fetch_s", pa.float64()),
        ("decode_s", pa.float64()),
        ("wait_s", pa.float64()),
        ("transfer_s", pa.float64()),
        ("model_s", pa.float64()),
        ("commit_s", pa.float64()),
        ("peak_vram_bytes", pa.int64()),
        ("started_at", pa.timestamp("ms", tz="UTC")),
        ("ended_at", pa.timestamp("ms", tz="UTC")),
    ]
)


def to_parquet(table: pa.Table, **writer: Any) -> bytes:
    """A table as the bytes of a Parquet file, zstd-compressed; the same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **writer)
    return buffer.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    """The table in the bytes of a Parquet file, read on this thread: for small ones, of which there are many.

    Raises ArrowException or OSError for other bytes.
    """
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        return file.read(use_threads=False)


def to_ipc(table: pa.Table) -> bytes:
    """A table as the bytes of an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> pa.Table:
    """The table in the bytes of an Arrow stream."""
    return pa.ipc.open_stream(data).read_all()


def with_attempt(table: pa.Table, attempt: dict[str, Any]) -> pa.Table:
    """The table with an attempt's record in its metadata."""
    metadata = {**(table.schema.metadata or {}), ATTEMPT_KEY: json.dumps(attempt, sort_keys=True).encode()}
    return table.replace_schema_metadata(metadata)


def attempt_of(schema: pa.Schema) -> dict[str, Any]:
    """The attempt's record in a chunk file's metadata."""
    record: dict[str, Any] = json.loads(schema.metadata[ATTEMPT_KEY])
    return record
