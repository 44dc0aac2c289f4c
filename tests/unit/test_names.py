"""Columns that name the tags of an image."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import load_config
from pipeline.tables.names import Naming, name_lists

TAGS, TAGS_ZH = ("dog", "Ice cream", "sky"), ("狗", "冰淇淋", "天空")


def columns(naming: Naming, tags_zh: tuple[str, ...] = TAGS_ZH) -> dict[str, list[object]]:
    """Of an image with dog and ice cream, a reject, and an image without tags."""
    tagged = np.array([True, False, True])
    both = name_lists(TAGS, tags_zh, tagged, np.array([2, 0]), np.array([0, 1], np.int32))
    return {name: column.to_pylist() for name, column in naming.columns(*both).items()}


def test_both_lists_are_filled_unless_told_otherwise() -> None:
    """A reject is null, an image without tags has an empty list."""
    expected = {"tags": [["dog", "Ice cream"], None, []], "tags_zh": [["狗", "冰淇淋"], None, []]}
    assert columns(Naming()) == expected


@pytest.mark.parametrize(("language", "empty"), [("en", "tags_zh"), ("zh", "tags")])
def test_one_language_leaves_the_other_list_empty(language: str, empty: str) -> None:
    """Empty, and null only in rejects."""
    found = columns(Naming(language))
    assert found[empty] == [[], None, []]
    assert found[({"tags", "tags_zh"} - {empty}).pop()][0]


def test_grounding_prompt_is_lower_case_english_with_full_stops() -> None:
    """Whatever the languages; an image without tags asks for nothing."""
    found = columns(Naming("zh", grounding_prompt=True))
    assert found["grounding_prompt"] == ["dog . ice cream .", None, ""]


def test_joined_columns_are_as_the_reference_prints_tags() -> None:
    """With a bar between; both languages."""
    found = columns(Naming(joined=True))
    assert found["tags_joined"] == ["dog | Ice cream", None, ""]
    assert found["tags_zh_joined"] == ["狗 | 冰淇淋", None, ""]


def test_columns_are_those_that_are_announced() -> None:
    """The tag table is laid out by these names."""
    naming = Naming(grounding_prompt=True, joined=True)
    assert list(columns(naming)) == ["tags", "tags_zh", *naming.extra_columns]
    both = pa.array([["dog"]]), pa.array([["狗"]])
    assert all(naming.columns(*both)[name].type == pa.string() for name in naming.extra_columns)


def test_a_vocabulary_without_chinese_has_empty_lists() -> None:
    """No lists of empty names."""
    assert columns(Naming(), ("", "", ""))["tags_zh"] == [[], None, []]


def test_a_run_is_named_by_its_result_keys() -> None:
    """A run that was planned before there were such keys has both lists and nothing else."""
    pinned = load_config(None, ["output.languages=zh", "output.joined=true"]).pinned()
    assert Naming.of(pinned) == Naming("zh", joined=True)
    assert Naming.of({}) == Naming()
