"""What to change in a vocabulary, and the files and options that say it."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ramcore.descriptions import Descriptions
from ramcore.errors import VocabularyError
from ramcore.vocabulary import parse_threshold, read_text


@dataclass(frozen=True)
class VocabularyEdits:
    """Changes in the order in which they are made.

    keep: the bundle's tags to keep, in this order; None keeps all. A name that occurs twice keeps both tags.
    merge: new name to the kept tags that become this one tag; see `ramcore.compile_vocabulary`.
    rename: a kept tag's name to its new one.
    add: new tags with their texts, after the others.
    thresholds, tags_zh: by the names after all that.
    """

    keep: Sequence[str] | None = None
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    add: Descriptions = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    tags_zh: Mapping[str, str] = field(default_factory=dict)


def read_names(path: str | Path) -> list[str]:
    """A list of tags, one per line; blank lines are skipped, a tag twice raises `VocabularyError`."""
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice or not names:
        raise VocabularyError(f"{path} {'has ' + repr(twice[0]) + ' twice' if twice else 'is empty'}: give tags once")
    return names


def read_column(path: str | Path, column: str) -> dict[str, str]:
    """A CSV with the header `tag,<column>` as a mapping; anything else raises `VocabularyError` with its line."""
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    values: dict[str, str] = {}
    try:
        header = next(rows, [])
        if header != ["tag", column]:
            raise VocabularyError(f"{path}: the header is {','.join(header)!r}, it must be 'tag,{column}'")
        for row in filter(None, rows):  # blank lines are none
            if len(row) != 2 or row[0] in values:
                raise VocabularyError(
                    f"{path} line {rows.line_num} is {','.join(row)!r}: give each tag once, with one value"
                )
            values[row[0]] = row[1].strip()
    except csv.Error as error:
        raise VocabularyError(f"{path} line {rows.line_num} is not CSV: {error}") from error
    return values


def read_thresholds(path: str | Path) -> dict[str, float]:
    """A CSV with the header `tag,threshold`; a value that is no number in (0, 1] raises `VocabularyError`."""
    return {tag: parse_threshold(value, f"{path}: {tag}") for tag, value in read_column(path, "threshold").items()}


def parse_renames(options: Sequence[str]) -> dict[str, str]:
    """ "old=new" options as a mapping."""
    renames: dict[str, str] = {}
    for option in options:
        old, new = _split(option, "old=new")
        if old in renames:
            raise VocabularyError(f"{option!r}: {old} is renamed to {renames[old]} already: give each tag once")
        renames[old] = new
    return renames


def parse_merges(options: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """ "a,b=c" options as a mapping from the new name to the tags that become it."""
    merges: dict[str, tuple[str, ...]] = {}
    for option in options:
        members, name = _split(option, "a,b=c")
        if name in merges:
            raise VocabularyError(f"{option!r}: {name} is made of {', '.join(merges[name])} already: name all at once")
        merges[name] = tuple(member.strip() for member in members.split(","))
    return merges


def _split(option: str, form: str) -> tuple[str, str]:
    left, equals, right = option.rpartition("=")
    if not equals or not left.strip() or not right.strip():
        raise VocabularyError(f"{option!r}: give it in the form {form}")
    return left.strip(), right.strip()
