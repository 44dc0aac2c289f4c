"""What tags are called: names in both languages, other names, and groups of a hierarchy; from a name to tag ids."""

import csv
import difflib
import io
import re
import unicodedata
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from ramcore.errors import VocabularyError
from ramcore.vocabulary import Vocabulary, read_text

_SUGGESTED = 3
_CLOSE = 0.6
_REMARK = re.compile(r"（[^）]*）")
_BLANK = re.compile(r"[\s_-]+")


def folded(name: str) -> str:
    """A name as it is compared: compatibility forms and case folded; blanks, hyphens and underscores are one blank."""
    return _BLANK.sub(" ", unicodedata.normalize("NFKC", name).casefold()).strip()


@dataclass(frozen=True)
class Names:
    """The tags of an index, by id, and what else they are called.

    tags, tags_zh: as in the vocabulary of the run; a Chinese name "胡同/球道" is three names, itself and its parts.
    synonyms: (name, tag) pairs. parents: (child, parent) pairs of names: who asks for the parent also finds the child.
    """

    tags: tuple[str, ...]
    tags_zh: tuple[str, ...]
    synonyms: tuple[tuple[str, str], ...] = ()
    parents: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls,
        vocabulary: Vocabulary,
        synonyms: Path | None = None,
        hierarchy: Path | None = None,
        kept: "Names | None" = None,
    ) -> "Names":
        """Those of a vocabulary, with further names from CSV files `name,tag` and `tag,parent`.

        kept: where the further names of a file that is not given come from. Raises InputError for a file that names
        no tag of the vocabulary, or a tag as its own ancestor.
        """
        pairs, edges = ((), ()) if kept is None else (kept.synonyms, kept.parents)
        if synonyms is not None:
            pairs = tuple(read_pairs(synonyms, "--synonyms", ("name", "tag")))
        if hierarchy is not None:
            edges = tuple(read_pairs(hierarchy, "--hierarchy", ("tag", "parent")))
        names = cls(vocabulary.tags, vocabulary.tags_zh, pairs, edges)
        for name, tag in pairs:
            if not names._own.get(folded(tag)):
                raise InputError(f"--synonyms {synonyms}: {name!r} is to mean {tag!r}, {names.unknown(tag)}")
        names._check_hierarchy(hierarchy)
        return names

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Names":
        """What `as_dict` gave."""
        pairs = (tuple((str(a), str(b)) for a, b in values[name]) for name in ("synonyms", "parents"))
        return cls(tuple(values["tags"]), tuple(values["tags_zh"]), *pairs)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: list(getattr(self, name)) for name in ("tags", "tags_zh", "synonyms", "parents")}

    def ids(self, name: str) -> tuple[int, ...]:
        """The tags that a name means, descendants included; none for a name that is not known."""
        return self._ids_of(folded(name))

    def ids_with_prefix(self, prefix: str) -> tuple[int, ...]:
        """The tags that have a name which begins so, descendants included."""
        start = folded(prefix)
        names = self._in_order[bisect_left(self._in_order, start) :]
        found = {tag for name in takewhile(lambda name: name.startswith(start), names) for tag in self._ids_of(name)}
        return tuple(sorted(found))

    def unknown(self, name: str) -> str:
        """What is said of a name that no tag has: "which is no tag: did you mean …?" """
        closest = self.closest(name)
        hint = f"did you mean {', '.join(closest)}?" if closest else "names are in vocabulary.parquet of the run"
        return f"which is no tag: {hint}"

    def closest(self, name: str) -> list[str]:
        """Known names that are like this one, the likeliest first: those that hold it as a word, then similar ones."""
        word = folded(name)
        holding = [known for known in self._known if word and word in known.split(" ")]
        # Of names as much alike, those of the same letters: swapped ones are the commonest slip.
        similar = sorted(
            difflib.get_close_matches(word, self._known, 3 * _SUGGESTED, _CLOSE),
            key=lambda known: _other_letters(known, word),
        )
        shown = dict.fromkeys([*similar, *sorted(holding, key=len)])
        return [self._known[known] for known in shown][:_SUGGESTED]

    def completions(self, start: str, most: int) -> list[tuple[str, tuple[int, ...]]]:
        """At most `most` names, with the tags they mean, that go on from what was typed so far.

        Those that begin so come first, then those with a word that begins so, then those that hold it; of each the
        shorter ones first.
        """
        typed = folded(start)
        if not typed:
            return []
        found = [name for name in self._known if typed in name]
        found.sort(key=lambda name: (not name.startswith(typed), f" {typed}" not in f" {name}", len(name), name))
        return [(self._known[name], self._ids_of(name)) for name in found[:most]]

    def shown(self, tag: int) -> tuple[str, str]:
        """A tag's name and its Chinese name, "" without one."""
        return self.tags[tag], self.tags_zh[tag]

    @cached_property
    def _own(self) -> dict[str, set[int]]:
        """Tags by their folded names, synonyms included, the hierarchy not."""
        own: dict[str, set[int]] = defaultdict(set)
        for tag, (english, chinese) in enumerate(zip(self.tags, self.tags_zh, strict=True)):
            for name in (english, *_chinese_names(chinese)):
                own[folded(name)].add(tag)
        for name, tag_name in self.synonyms:
            own[folded(name)] |= own.get(folded(tag_name), set())
        own.pop("", None)
        return dict(own)

    @cached_property
    def _known(self) -> dict[str, str]:
        """Every name that means something, folded, with how it is written."""
        written = [*self.tags, *(name for chinese in self.tags_zh for name in _chinese_names(chinese))]
        written += [name for name, _ in self.synonyms] + [parent for _, parent in self.parents]
        known: dict[str, str] = {}
        for name in written:
            known.setdefault(folded(name), name)
        known.pop("", None)
        return known

    @cached_property
    def _in_order(self) -> list[str]:
        """The same sorted: names that begin alike lie together."""
        return sorted(self._known)

    @cached_property
    def _children(self) -> dict[str, set[str]]:
        """Folded names by what stands above them; all names of one tag are the same place of the hierarchy."""
        children: dict[str, set[str]] = defaultdict(set)
        for child, parent in self.parents:
            for place in self._places(parent):
                children[place] |= self._places(child)
        return dict(children)

    def _places(self, name: str) -> set[str]:
        """A name as places of the hierarchy: "#7" of tag 7, or the name itself of a group that is no tag."""
        own = self._own.get(folded(name))
        return {f"#{tag}" for tag in own} if own else {folded(name)}

    def _ids_of(self, name: str) -> tuple[int, ...]:
        if not self.parents:
            return tuple(sorted(self._own.get(name, ())))
        if name not in self._known:
            return ()
        below = _descendants(self._children, self._places(name))
        return tuple(sorted(int(place[1:]) for place in below if place.startswith("#")))

    def _check_hierarchy(self, file: Path | None) -> None:
        for child, parent in self.parents:
            if self._places(parent) & _descendants(self._children, self._places(child)):
                raise InputError(
                    f"--hierarchy {file}: {parent!r} is below {child!r} and above it; remove one of the lines"
                )
        groups = {folded(parent) for _, parent in self.parents}
        for child, _ in self.parents:
            if folded(child) not in self._own and folded(child) not in groups:
                raise InputError(f"--hierarchy {file}: {child!r} is below another tag, {self.unknown(child)}")


def read_pairs(path: Path, option: str, header: tuple[str, str]) -> Iterable[tuple[str, str]]:
    """The rows of a CSV of two columns. Raises InputError that names the line."""
    try:
        rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        if (found := next(rows, [])) != list(header):
            raise InputError(f"{option} {path}: the header is {','.join(found)!r}, it must be {','.join(header)!r}")
        for row in filter(None, rows):
            if len(row) != 2 or not folded(row[0]) or not folded(row[1]):
                raise InputError(f"{option} {path} line {rows.line_num} is {','.join(row)!r}: give two names")
            yield row[0].strip(), row[1].strip()
    except VocabularyError as error:
        raise InputError(f"{option}: {error}") from error
    except csv.Error as error:
        raise InputError(f"{option} {path}: it is not CSV: {error}") from error


def _chinese_names(name: str) -> list[str]:
    """The whole name, its parts between slashes, and these without remarks in brackets."""
    parts = [name, *name.split("/")]
    return list(
        dict.fromkeys(part.strip() for part in [*parts, *(_REMARK.sub("", part) for part in parts)] if part.strip())
    )


def _other_letters(a: str, b: str) -> int:
    ours, theirs = Counter(a), Counter(b)
    return (ours - theirs).total() + (theirs - ours).total()


def _descendants(children: Mapping[str, set[str]], places: set[str]) -> set[str]:
    """The places and all below them."""
    found, waiting = set(places), list(places)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found
