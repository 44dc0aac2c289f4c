"""From scores to rows."""

import numpy as np
import pyarrow as pa

from pipeline.tables.schemas import IMAGE_FIELDS
from pipeline.tables.selection import floors, select
from pipeline.tagging import rejected_part, tag_table, tagged_part
from ramcore.vocabulary import Vocabulary

THRESHOLDS = np.array([0.5, 0.5, 0.5], np.float32)


def rows(*error_kinds: str | None) -> pa.Table:
    columns = {"image_id": [f"i{number}" for number in range(len(error_kinds))]}
    table = pa.table(columns)
    for field in IMAGE_FIELDS:
        value = {"error_kind": list(error_kinds), "attempts": [1] * len(error_kinds)}.get(field.name)
        table = table.append_column(field, pa.array(value or [None] * len(error_kinds), field.type))
    return table


def vocabulary(zh: bool = True) -> Vocabulary:
    return Vocabulary(("dog", "cat", "sky"), ("狗", "猫", "天空") if zh else ("", "", ""), THRESHOLDS)


def scored(*scores: list[float]) -> object:
    return tagged_part(select(np.array(scores, np.float32), THRESHOLDS, floors(THRESHOLDS, "auto"), 0))


def test_rejected_rows_have_null_tags_and_the_others_keep_their_order() -> None:
    """Scores go to the decoded rows in order, around the rejects."""
    table = tag_table(rows(None, "truncated", None), [scored([0.9, 0.1, 0.48], [0.1, 0.2, 0.8])], vocabulary())
    assert table["tags"].to_pylist() == [["dog"], None, ["sky"]]
    assert table["tags_zh"].to_pylist() == [["狗"], None, ["天空"]]
    assert table["tag_ids"].to_pylist() == [[0, 2], None, [2]]


def test_an_image_without_tags_has_empty_lists() -> None:
    """Tagged with nothing is not the same as rejected."""
    table = tag_table(rows(None), [scored([0.1, 0.1, 0.1])], vocabulary())
    assert table["tags"].to_pylist() == [[]]
    assert table["error_kind"].to_pylist() == [None]


def test_a_poisoned_image_is_rejected_and_its_neighbours_are_tagged() -> None:
    """Parts of a chunk that was cut up come together again."""
    parts = [scored([0.9, 0.1, 0.1]), rejected_part("poison", "killed two", 2), scored([0.1, 0.9, 0.1])]
    table = tag_table(rows(None, None, "empty", None), parts, vocabulary())
    assert table["error_kind"].to_pylist() == [None, "poison", "empty", None]
    assert table["attempts"].to_pylist() == [1, 2, 1, 1]
    assert table["tags"].to_pylist() == [["dog"], None, None, ["cat"]]


def test_scores_that_are_not_finite_are_a_reject() -> None:
    """Never an image that is silently without tags."""
    table = tag_table(rows(None, None), [scored([np.nan, 0.9, 0.1], [0.9, 0.1, 0.1])], vocabulary())
    assert table["error_kind"].to_pylist() == ["not_finite", None]
    assert table["tags"].to_pylist() == [None, ["dog"]]


def test_a_chunk_of_rejects_alone_is_a_table_too() -> None:
    """Nothing decoded: no parts, all tags null."""
    table = tag_table(rows("empty", "truncated"), [], vocabulary())
    assert table["tags"].null_count == 2
    assert table.schema.field("scores").type == pa.list_(pa.float32())


def test_captions_go_to_their_images() -> None:
    """Around rejects, images whose scores are not finite, and parts of a chunk that was cut up."""
    scores = np.array([[0.9, 0.1, 0.1], [np.nan, 0.1, 0.1]], np.float32)
    first = tagged_part(select(scores, THRESHOLDS, floors(THRESHOLDS, "auto"), 0), ["a dog", "nothing"])
    last = select(scores[:1], THRESHOLDS, floors(THRESHOLDS, "auto"), 0)
    parts = [first, rejected_part("poison", "killed two", 2), tagged_part(last, ["the dog"])]
    table = tag_table(rows("empty", None, None, None, None), parts, vocabulary())
    assert table["caption"].to_pylist() == [None, "a dog", None, None, "the dog"]


def test_without_captions_the_column_is_null() -> None:
    """A model that writes none leaves no empty texts."""
    assert tag_table(rows(None), [scored([0.9, 0.1, 0.1])], vocabulary())["caption"].to_pylist() == [None]


def test_a_vocabulary_without_chinese_gives_empty_lists() -> None:
    """tags_zh is empty, not full of empty strings."""
    table = tag_table(rows(None), [scored([0.9, 0.9, 0.1])], vocabulary(zh=False))
    assert table["tags_zh"].to_pylist() == [[]]
