"""The tags a model knows: name, Chinese name and threshold per tag id, read from lists or from CSV."""

import csv
import io
import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ramcore.errors import VocabularyError

DEFAULT_THRESHOLD = 0.68
CSV_HEADER = ["tag_id", "tag", "tag_zh", "threshold"]

# Control, surrogate, line and paragraph characters: no tag needs them and they break line-based files.
_BREAKING = {"Cc", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tags in the order of the model's outputs: tag id = position.

    tags: names, not empty and without blanks around them. Names may repeat (Tag2Text has 116 that do).
    tags_zh: Chinese names, "" where there is none; they may repeat.
    thresholds: float32 [N] in (0, 1], read-only. A tag fires when its score is strictly greater, so a tag
        with threshold 1 never does.

    Raises `VocabularyError` when the lengths differ or a value is not as said here.
    """

    tags: tuple[str, ...]
    tags_zh: tuple[str, ...]
    thresholds: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        thresholds = np.array(self.thresholds, dtype=np.float32)
        thresholds.setflags(write=False)
        object.__setattr__(self, "thresholds", thresholds)
        self._check_lengths()
        for tag_id, (tag, tag_zh) in enumerate(zip(self.tags, self.tags_zh, strict=True)):
            if not tag or not _is_plain(tag) or not _is_plain(tag_zh):
                raise VocabularyError(
                    f"tag {tag_id} is {tag!r} ({tag_zh!r}): give a name without line breaks, no blanks around"
                )
        # NaN fails this comparison too.
        bad = np.flatnonzero(~((thresholds > 0) & (thresholds <= 1)))
        if bad.size:
            raise VocabularyError(
                f"threshold of tag {bad[0]} ({self.tags[bad[0]]}) is {thresholds[bad[0]]}: give one in (0, 1]"
            )

    def _check_lengths(self) -> None:
        counts = (len(self.tags), len(self.tags_zh), self.thresholds.size)
        if self.thresholds.ndim != 1 or len(set(counts)) != 1:
            raise VocabularyError(
                f"{counts[0]} tags, {counts[1]} Chinese names and thresholds of shape "
                f"{self.thresholds.shape}: give as many of each"
            )
        if not self.tags:
            raise VocabularyError("the vocabulary is empty: give at least one tag")

    def __len__(self) -> int:
        return len(self.tags)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        same_names = self.tags == other.tags and self.tags_zh == other.tags_zh
        return same_names and np.array_equal(self.thresholds, other.thresholds)

    def __hash__(self) -> int:
        return hash((self.tags, self.tags_zh, self.thresholds.tobytes()))

    @classmethod
    def from_lists(
        cls,
        tags_file: str | Path,
        zh_file: str | Path | None = None,
        thresholds_file: str | Path | None = None,
        default_threshold: float = DEFAULT_THRESHOLD,
    ) -> "Vocabulary":
        """Read lists of one entry per line, as the reference implementation ships them.

        The files are UTF-8 and aligned by line number only. Blanks around an entry are dropped (2,579 lines
        of the released Chinese list end in one). Without `zh_file` the Chinese names are empty; without
        `thresholds_file` every tag gets `default_threshold`, 0.68, the default of the reference's RAM++
        constructor. Lists of different lengths raise `VocabularyError` naming both files and their counts;
        a threshold that is not a number in (0, 1] raises one naming its line.
        """
        tags = read_lines(tags_file)
        if not tags:
            raise VocabularyError(f"{tags_file} is empty: give a list of tags, one per line")
        tags_zh = [""] * len(tags)
        if zh_file is not None:
            tags_zh = read_lines(zh_file)
            _check_same_length(tags_file, tags, zh_file, tags_zh)
        thresholds = [default_threshold] * len(tags)
        if thresholds_file is not None:
            lines = read_lines(thresholds_file)
            _check_same_length(tags_file, tags, thresholds_file, lines)
            thresholds = [parse_threshold(line, f"{thresholds_file} line {n}") for n, line in enumerate(lines, 1)]
        for number, tag in enumerate(tags, 1):
            if not tag:
                raise VocabularyError(f"{tags_file} line {number} is blank: give a tag or remove the line")
        return cls(tuple(tags), tuple(tags_zh), np.array(thresholds, dtype=np.float32))

    @classmethod
    def from_csv(cls, path: str | Path) -> "Vocabulary":
        """Read what `to_csv` wrote; a wrong header, id, number of columns or threshold names its line."""
        path = Path(path)
        rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        try:
            header = next(rows, [])
            if header != CSV_HEADER:
                raise VocabularyError(f"{path}: the header is {header}, it must be {','.join(CSV_HEADER)}")
            parsed = [_csv_row(row, tag_id, f"{path} line {tag_id + 2}") for tag_id, row in enumerate(rows)]
        except csv.Error as error:
            raise VocabularyError(f"{path} line {rows.line_num} is not CSV: {error}") from error
        thresholds = np.array([row[2] for row in parsed], dtype=np.float32)
        return cls(tuple(row[0] for row in parsed), tuple(row[1] for row in parsed), thresholds)

    def to_csv(self, path: str | Path) -> None:
        """Write `tag_id,tag,tag_zh,threshold` in UTF-8; everything reads back exactly."""
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(CSV_HEADER)
            for tag_id, (tag, tag_zh) in enumerate(zip(self.tags, self.tags_zh, strict=True)):
                writer.writerow([tag_id, tag, tag_zh, str(self.thresholds[tag_id])])

    def subset(self, tag_ids: Iterable[int]) -> "Vocabulary":
        """The vocabulary of these tags only, in this order (their ids become 0, 1, …)."""
        ids = list(tag_ids)
        tags = tuple(self.tags[i] for i in ids)
        return Vocabulary(tags, tuple(self.tags_zh[i] for i in ids), self.thresholds[ids])


def parse_threshold(text: str, where: str) -> float:
    """A threshold that a person wrote; `where` begins the message of the `VocabularyError` for what is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # NaN fails every comparison; what float32 rounds to 0 would let every score through.
    if not (value <= 1 and np.float32(value) > 0):
        raise VocabularyError(f"{where}: {text.strip()!r} is no threshold: give a number over 0 (as float32), up to 1")
    return value


def _is_plain(name: str) -> bool:
    return name == name.strip() and not any(unicodedata.category(char) in _BREAKING for char in name)


def read_text(path: str | Path) -> str:
    """A list file's text, as UTF-8. Raises VocabularyError that names the file."""
    try:
        # A byte-order mark, which some editors write, is not part of the first tag.
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise VocabularyError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error


def read_lines(path: str | Path) -> list[str]:
    """The lines of a list file without blanks around them; a last line may lack its end. Errors as `read_text`."""
    return [line.strip() for line in read_text(path).splitlines()]


def _check_same_length(tags_file: str | Path, tags: list[str], file: str | Path, lines: list[str]) -> None:
    if len(tags) != len(lines):
        raise VocabularyError(
            f"{tags_file} has {len(tags)} lines and {file} has {len(lines)}: they must match line by line"
        )


def _csv_row(row: list[str], tag_id: int, where: str) -> tuple[str, str, float]:
    if len(row) != len(CSV_HEADER):
        raise VocabularyError(f"{where} has {len(row)} columns, it must have {len(CSV_HEADER)}")
    if row[0] != str(tag_id):
        raise VocabularyError(f"{where}: tag_id is {row[0]!r}, it must be {tag_id} (ids count up from 0)")
    return row[1], row[2], parse_threshold(row[3], where)
