"""The columns that name the tags of an image: lists in both languages, and forms of them for other programs."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Languages = Literal["both", "en", "zh"]


@dataclass(frozen=True)
class Naming:
    """Which columns a run has.

    languages: the lists that are filled; the other is empty. grounding_prompt: "dog . cat ." as Grounding-DINO
    style detectors take it, English and lower case whatever the languages. joined: "dog | cat", as the reference
    prints tags.
    """

    languages: Languages = "both"
    grounding_prompt: bool = False
    joined: bool = False

    @classmethod
    def of(cls, pinned: dict[str, Any]) -> "Naming":
        """That of a run, from its result keys."""
        values = {name: pinned.get(f"output.{name}") for name in ("languages", "grounding_prompt", "joined")}
        return cls(**{name: value for name, value in values.items() if value is not None})

    @property
    def extra_columns(self) -> list[str]:
        """Names of the columns beside tags and tags_zh; all are strings."""
        prompt = ["grounding_prompt"] if self.grounding_prompt else []
        return prompt + (["tags_joined", "tags_zh_joined"] if self.joined else [])

    def columns(self, tags: pa.ListArray, tags_zh: pa.ListArray) -> dict[str, pa.Array]:
        """All columns by name, from the full lists of both languages; null lists give nulls."""
        shown = {
            "tags": tags if self.languages != "zh" else _emptied(tags),
            "tags_zh": tags_zh if self.languages != "en" else _emptied(tags_zh),
        }
        columns: dict[str, pa.Array] = dict(shown)
        if self.grounding_prompt:
            columns["grounding_prompt"] = _grounding_prompt(tags)
        if self.joined:
            columns |= {f"{name}_joined": pc.binary_join(lists, " | ") for name, lists in shown.items()}
        return columns


def name_lists(
    tags: tuple[str, ...] | list[str],
    tags_zh: tuple[str, ...] | list[str],
    tagged: NDArray[np.bool_],
    counts: NDArray[np.int64],
    fired_ids: NDArray[np.int32],
) -> tuple[pa.ListArray, pa.ListArray]:
    """Names of the tags that fired, in English and Chinese; the second's lists are empty where there are no names.

    tagged: which rows have lists, the others are null; counts: tags of each tagged row; fired_ids: one after the other.
    """
    ids = pa.array(fired_ids, pa.int32())
    english = lists(tagged, counts, pa.array(tags, pa.string()).take(ids))
    if not any(tags_zh):
        return english, _emptied(english)
    return english, lists(tagged, counts, pa.array(tags_zh, pa.string()).take(ids))


def lists(tagged: NDArray[np.bool_], counts: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    """Lists for every row: the next of `counts` values where it is tagged, null elsewhere."""
    lengths = np.zeros(len(tagged), dtype=np.int64)
    lengths[tagged] = counts
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~tagged))


def _emptied(names: pa.ListArray) -> pa.ListArray:
    tagged = names.is_valid().to_numpy(zero_copy_only=False)
    return lists(tagged, np.zeros(int(tagged.sum()), np.int64), pa.array([], pa.string()))


def _grounding_prompt(tags: pa.ListArray) -> pa.Array:
    prompt = pc.utf8_lower(pc.binary_join(tags, " . "))
    # An image without tags gets an empty prompt: a full stop alone would be asked for as an object.
    return pc.if_else(pc.equal(prompt, ""), prompt, pc.binary_join_element_wise(prompt, " .", ""))
