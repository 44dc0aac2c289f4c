"""From a replica's stored scores to the rows of a chunk."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.tables.names import Naming, lists, name_lists
from pipeline.tables.schemas import TAG_FIELDS
from pipeline.tables.selection import Selection, merge, nothing_selected
from ramcore.vocabulary import Vocabulary


@dataclass(frozen=True)
class Part:
    """What became of consecutive decoded images: a selection, or one image's reject.

    captions: one per image, or None where the run has none.
    """

    selection: Selection
    captions: list[str] | None = None
    error_kind: str | None = None
    error_detail: str | None = None
    attempts: int = 1


def tagged_part(selection: Selection, captions: list[str] | None = None) -> Part:
    """Images that the model has scored, and perhaps described."""
    return Part(selection, captions)


def rejected_part(kind: str, detail: str, attempts: int) -> Part:
    """One image that could not be scored."""
    return Part(nothing_selected(1), None, kind, detail, attempts)


def tag_table(rows: pa.Table, parts: list[Part], vocabulary: Vocabulary, naming: Naming | None = None) -> pa.Table:
    """A chunk's rows with tags and scores; rejected rows keep their reason and have null tags.

    rows: planned rows with tables.IMAGE_FIELDS; parts: of the rows without an error, in their order; naming:
    None is both lists and nothing beside them.
    """
    rows = _with_rejects(rows, parts)
    tagged = np.array([kind is None for kind in rows["error_kind"].to_pylist()], dtype=bool)
    selection = _accepted(parts)
    naming = naming or Naming()
    arrays = _tag_columns(tagged, selection, vocabulary, naming)
    arrays["caption"] = _texts(tagged, _captions(parts))
    for column in TAG_FIELDS:
        rows = rows.append_column(column, arrays[column.name])
    for name in naming.extra_columns:
        rows = rows.append_column(name, arrays[name])
    return rows


def _with_rejects(rows: pa.Table, parts: list[Part]) -> pa.Table:
    """Put the reasons of images that the model could not score into their rows."""
    kinds, details = rows["error_kind"].to_pylist(), rows["error_detail"].to_pylist()
    attempts = rows["attempts"].to_pylist()
    decoded = iter([row for row, kind in enumerate(kinds) if kind is None])
    for part in parts:
        for finite in part.selection.finite:
            row = next(decoded)
            if part.error_kind is not None:
                kinds[row], details[row], attempts[row] = part.error_kind, part.error_detail, part.attempts
            elif not finite:
                kinds[row], details[row] = "not_finite", "the model gave scores that are not finite numbers"
    for name, values in (("error_kind", kinds), ("error_detail", details), ("attempts", attempts)):
        position = rows.schema.get_field_index(name)
        rows = rows.set_column(position, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))
    return rows


def _accepted(parts: list[Part]) -> Selection:
    """All parts as one selection, without the images that are rejected."""
    merged = merge([part.selection for part in parts if part.error_kind is None])
    return replace(merged, counts=merged.counts[merged.finite], finite=merged.finite[merged.finite])


def _captions(parts: list[Part]) -> list[str | None]:
    """Captions of all images that are not rejected, in their order."""
    captions: list[str | None] = []
    for part in parts:
        if part.error_kind is None:
            finite = part.selection.finite
            texts = part.captions if part.captions is not None else [None] * len(finite)
            captions += [text for text, kept in zip(texts, finite, strict=True) if kept]
    return captions


def _tag_columns(
    tagged: NDArray[np.bool_], selection: Selection, vocabulary: Vocabulary, naming: Naming
) -> dict[str, pa.Array]:
    image = np.repeat(np.arange(len(selection.counts)), selection.counts)
    fired_counts = np.bincount(image[selection.fired], minlength=len(selection.counts))
    fired_ids = selection.tag_ids[selection.fired]
    return {
        **naming.columns(*name_lists(vocabulary.tags, vocabulary.tags_zh, tagged, fired_counts, fired_ids)),
        "tag_ids": lists(tagged, selection.counts, pa.array(selection.tag_ids)),
        "scores": lists(tagged, selection.counts, pa.array(selection.scores)),
    }


def _texts(tagged: NDArray[np.bool_], texts: list[str | None]) -> pa.Array:
    """The next of `texts` for every row that is tagged, null elsewhere."""
    following = iter(texts)
    return pa.array([next(following) if row else None for row in tagged], pa.string())
