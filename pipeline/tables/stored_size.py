"""What the stored score lists of an image weigh."""

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import OutputConfig
from pipeline.stores.run_store import RunStore
from pipeline.tables.selection import floors, select

HEAVY_BYTES = 2048
"""Bytes per image from which on a person is told: a hundred million images are 200 GB then."""

_SCORE_BYTES = 8
_LISTS = ("tag_ids.", "scores.")


def bytes_on_disk(store: RunStore, parts: list[str]) -> float | None:
    """Bytes of the compressed score lists per image of a tag table, from its parts' footers; None without images."""
    images = size = 0
    for part in parts:
        with store.open(part) as file:
            footer = pq.ParquetFile(file).metadata
        images += footer.num_rows
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            columns = [group.column(index) for index in range(group.num_columns)]
            size += sum(column.total_compressed_size for column in columns if column.path_in_schema.startswith(_LISTS))
    return size / images if images else None


def bytes_of_scores(scores: NDArray[np.float32], thresholds: NDArray[np.float32], output: OutputConfig) -> int:
    """Bytes of one image's score lists before compression; scores: float32 [tags], all of them."""
    floor = floors(thresholds, output.score_floor)
    return _SCORE_BYTES * len(select(scores[None], thresholds, floor, output.top_k).scores)


def heavy_warning(bytes_per_image: float | None) -> str | None:
    """A line for a person where score lists are heavy, with the remedy."""
    if bytes_per_image is None or bytes_per_image <= HEAVY_BYTES:
        return None
    return (
        f"Score lists take {bytes_per_image:,.0f} bytes per image, more than {HEAVY_BYTES:,}: "
        "output.score_floor=auto and output.top_k=128 keep what thresholds are likely to need."
    )
