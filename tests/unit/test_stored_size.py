"""Bytes of stored score lists."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import OutputConfig
from pipeline.stores.local_store import LocalStore
from pipeline.tables.schemas import to_parquet
from pipeline.tables.stored_size import bytes_of_scores, bytes_on_disk, heavy_warning


def tag_table(images: int, scores: int) -> pa.Table:
    generator = np.random.default_rng(0)
    values = generator.random((images, scores), dtype=np.float32)
    return pa.table(
        {
            "image_id": [f"image {number}" for number in range(images)],
            "tag_ids": pa.array([list(range(scores))] * images, pa.list_(pa.int32())),
            "scores": pa.array(list(values), pa.list_(pa.float32())),
        }
    )


def test_bytes_on_disk_are_those_of_the_two_lists(tmp_path: Path) -> None:
    """Random scores do not compress: four bytes each, and little for the ids; over all parts."""
    store = LocalStore(tmp_path)
    for number in range(2):
        store.create(f"tags/{number}.parquet", to_parquet(tag_table(200, 100), row_group_size=50))
    measured = bytes_on_disk(store, ["tags/0.parquet", "tags/1.parquet"])
    assert measured == bytes_on_disk(store, ["tags/0.parquet"])
    assert 0.8 * 400 < measured < 1.5 * 400
    assert measured * 200 < (tmp_path / "tags/0.parquet").stat().st_size


@pytest.mark.parametrize("parts", [[], ["tags/0.parquet"]])
def test_no_images_weigh_nothing(tmp_path: Path, parts: list[str]) -> None:
    """Neither without parts nor with an empty one."""
    store = LocalStore(tmp_path)
    store.create("tags/0.parquet", to_parquet(tag_table(1, 1).slice(0, 0)))
    assert bytes_on_disk(store, parts) is None


def test_bytes_of_scores_follow_floor_and_cap() -> None:
    """Eight for each score that is stored."""
    scores, thresholds = np.array([0.1, 0.46, 0.9], np.float32), np.full(3, 0.5, np.float32)
    assert bytes_of_scores(scores, thresholds, OutputConfig()) == 16
    assert bytes_of_scores(scores, thresholds, OutputConfig(score_floor=0)) == 24
    assert bytes_of_scores(scores, thresholds, OutputConfig(score_floor=0, top_k=1)) == 8


@pytest.mark.parametrize(("size", "warned"), [(None, False), (2048, False), (2049, True), (36_680, True)])
def test_only_heavy_lists_are_warned_about(size: float | None, warned: bool) -> None:
    """Over two kilobytes, with the remedy."""
    warning = heavy_warning(size)
    assert (warning is not None) == warned
    assert not warned or "output.top_k=128" in warning
