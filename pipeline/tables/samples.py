"""A few tagged images with the scores of their tags, for people to look at."""

from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.stores.run_store import RunStore


def sample_rows(store: RunStore, parts: list[str], images: int) -> list[dict[str, Any]]:
    """So many rows, evenly spread over the first rows of a run's tag table.

    Each has `image_id`, and `tags` as (tag, score), highest score first.
    """
    with store.open("vocabulary.parquet") as file:
        vocabulary = pq.read_table(file)
    names = vocabulary["tag"].to_pylist()
    thresholds = vocabulary["threshold"].to_numpy()
    if not parts:
        return []
    with store.open(parts[0]) as file:
        batches = pq.ParquetFile(file).iter_batches(columns=["image_id", "tag_ids", "scores"])
        rows = next(batches, None)
    if rows is None:
        return []
    chosen = np.unique(np.linspace(0, rows.num_rows - 1, images).round().astype(int))
    return [_row(row, names, thresholds) for row in rows.take(chosen).to_pylist()]


def _row(row: dict[str, Any], names: list[str], thresholds: NDArray[np.float32]) -> dict[str, Any]:
    # By id, as names may repeat. float32 goes to a Python float and back unchanged.
    scores = dict(zip(row["tag_ids"], row["scores"], strict=True))
    fired = [tag for tag, score in scores.items() if np.float32(score) > thresholds[tag]]
    tags = [(names[tag], scores[tag]) for tag in fired]
    return {"image_id": row["image_id"], "tags": sorted(tags, key=lambda tag: -tag[1])}
