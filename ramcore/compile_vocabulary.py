"""A bundle with another vocabulary, from a bundle: fewer tags, new, renamed and merged ones, other thresholds.

Tags do not see each other, so kept tags keep their scores and cost falls with their number.

A merged tag is one tag that stands for several. In RAM++ it has all their descriptions: those most like the
image count, whichever member they came from. In RAM its embedding is the mean of theirs, at their mean length.
So its score is the model's for the joint meaning, not the highest of the members' scores. It takes the place
and the Chinese name of its first member, and the lowest threshold among them. Tag2Text, which learns its tags,
can drop and rename but neither merge nor add.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from ramcore.bundle import (
    TOKENIZER_FILE,
    bundle_hash,
    check_target,
    read_config_and_vocabulary,
    save_bundle,
    weights_file,
)
from ramcore.config import ModelConfig
from ramcore.errors import VocabularyError
from ramcore.open_set import OPEN_SET_THRESHOLD, label_embeddings
from ramcore.reweight import description_rows
from ramcore.text_tower import TextTower
from ramcore.vocabulary import Vocabulary
from ramcore.vocabulary_edits import VocabularyEdits
from ramcore.weights import model_class, read_weights


@dataclass(frozen=True)
class VocabularyChanges:
    """What became of a vocabulary; `lines` says it to a person.

    dropped, added: names; renamed: (old, new); merged: (members, new); thresholds, tags_zh: (name, old, new) of
    kept tags; bundle_hash: of the new bundle.
    """

    before: int
    after: int
    dropped: tuple[str, ...]
    added: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    merged: tuple[tuple[tuple[str, ...], str], ...]
    thresholds: tuple[tuple[str, float, float], ...]
    tags_zh: tuple[tuple[str, str, str], ...]
    bundle_hash: str

    def lines(self) -> list[str]:
        """One line per kind of change and per changed tag, dropped tags in one line."""
        found = [f"{self.before} tags before, {self.after} after"]
        if self.dropped:
            found.append(f"dropped {len(self.dropped)}: {', '.join(self.dropped)}")
        found += [f"added {name}" for name in self.added]
        found += [f"merged {' + '.join(members)} into {name}" for members, name in self.merged]
        found += [f"renamed {old} to {new}" for old, new in self.renamed]
        found += [f"threshold of {name}: {old:.4g} to {new:.4g}" for name, old, new in self.thresholds]
        found += [f"Chinese name of {name}: {old or 'none'} to {new or 'none'}" for name, old, new in self.tags_zh]
        return found


@dataclass(frozen=True)
class _Tag:
    """A tag of the new vocabulary: of the old ids `sources`, or new where there are none."""

    name: str
    tag_zh: str
    threshold: float
    sources: tuple[int, ...] = ()


def compile_vocabulary(
    bundle: str | Path, out: str | Path, edits: VocabularyEdits, tower: TextTower | None = None
) -> VocabularyChanges:
    """Write the bundle with the edited vocabulary to the new or empty folder `out`.

    tower: the text model, needed where tags are added. Added tags get threshold 0.5 unless one is given. Raises
    `VocabularyError` for a tag that is not there, a name that would be there twice and what the kind of model
    cannot do, and `BundleError` where a folder is not usable.
    """
    check_target(Path(out))
    config, vocabulary = read_config_and_vocabulary(bundle)
    _check_kind(config, edits, tower)
    tags = _edited(vocabulary, edits)
    new_config, state = _edited_model(config, read_weights(config, weights_file(bundle)), tags, edits, tower)
    new_vocabulary = Vocabulary(
        tuple(tag.name for tag in tags),
        tuple(tag.tag_zh for tag in tags),
        np.array([tag.threshold for tag in tags], np.float32),
    )
    changes = _changes(vocabulary, tags, edits)
    tokenizer = Path(bundle) / TOKENIZER_FILE if config.caption else None
    model = model_class(config.kind).from_state(new_config, state)
    save_bundle(out, model, new_config, new_vocabulary, _card(new_config, changes), tokenizer=tokenizer)
    return replace(changes, bundle_hash=bundle_hash(out))


def _check_kind(config: ModelConfig, edits: VocabularyEdits, tower: TextTower | None) -> None:
    if config.kind == "tag2text" and (edits.add or edits.merge):
        raise VocabularyError("kind tag2text learns its tags: it can drop and rename them, not add or merge")
    if edits.add and tower is None:
        raise VocabularyError(f"{len(edits.add)} tags to add and no text model: give the folder of CLIP ViT-B/16")


def _edited(vocabulary: Vocabulary, edits: VocabularyEdits) -> list[_Tag]:
    """The new tags in order, with names, thresholds and Chinese names as they will be."""
    tags = _merged(_kept(vocabulary, edits.keep), edits)
    tags = [replace(tag, name=edits.rename[tag.name]) if tag.name in edits.rename else tag for tag in tags]
    tags += [_Tag(name, "", OPEN_SET_THRESHOLD) for name in edits.add]
    # Names that were there twice, as in Tag2Text's list, may stay; new ones must be new.
    given = {*edits.rename.values(), *edits.merge, *edits.add}
    names = [tag.name for tag in tags]
    for name in given:
        if names.count(name) > 1:
            raise VocabularyError(f"tag {name!r} would be there twice: drop the other one or choose another name")
    _check_names("thresholds", edits.thresholds, names)
    _check_names("Chinese names", edits.tags_zh, names)
    return [
        replace(
            tag,
            threshold=edits.thresholds.get(tag.name, tag.threshold),
            tag_zh=edits.tags_zh.get(tag.name, tag.tag_zh),
        )
        for tag in tags
    ]


def _kept(vocabulary: Vocabulary, keep: Sequence[str] | None) -> list[_Tag]:
    ids: dict[str, list[int]] = {}
    for tag, name in enumerate(vocabulary.tags):
        ids.setdefault(name, []).append(tag)
    if keep is not None:
        _check_names("tags to keep", keep, ids)
    chosen = range(len(vocabulary)) if keep is None else [tag for name in keep for tag in ids[name]]
    return [
        _Tag(vocabulary.tags[tag], vocabulary.tags_zh[tag], float(vocabulary.thresholds[tag]), (tag,)) for tag in chosen
    ]


def _merged(tags: list[_Tag], edits: VocabularyEdits) -> list[_Tag]:
    names = [tag.name for tag in tags]
    members = [member for group in edits.merge.values() for member in group]
    _check_names("tags to merge", members, names)
    _check_names("tags to rename", edits.rename, [name for name in names if name not in members])
    if len(set(members)) != len(members):
        raise VocabularyError(f"tags to merge {members}: give each in one merger only, and once")
    for new, group in edits.merge.items():
        parts = [tag for member in group for tag in tags if tag.name == member]
        joint = _Tag(
            name=new,
            tag_zh=parts[0].tag_zh,
            threshold=min(tag.threshold for tag in parts),
            sources=tuple(source for tag in parts for source in tag.sources),
        )
        tags = [joint if tag is parts[0] else tag for tag in tags if tag is parts[0] or tag not in parts]
    return tags


def _edited_model(
    config: ModelConfig, state: dict[str, Tensor], tags: list[_Tag], edits: VocabularyEdits, tower: TextTower | None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    if config.kind == "tag2text":
        ids = torch.tensor([tag.sources[0] for tag in tags])
        state |= {"label_embed.weight": state["label_embed.weight"][ids]}
        state |= {key: state[key][:, ids].contiguous() for key in ("fc.W", "fc.b")}
        return replace(config, num_tags=len(tags)), state
    old, counts = state["label_embed"], config.description_counts
    parts = [_rows(config.kind, old, counts, tag.sources) for tag in tags if tag.sources]
    if edits.add and tower is not None:
        labels, new_counts = label_embeddings(config, edits.add, tower)
        parts += torch.split(torch.from_numpy(labels).to(old.dtype), new_counts)
    state |= {"label_embed": torch.cat(parts)}
    return replace(config, num_tags=len(tags), descriptions_per_tag=tuple(len(part) for part in parts)), state


def _rows(kind: str, label_embed: Tensor, counts: Sequence[int], sources: Sequence[int]) -> Tensor:
    """The rows of a tag made of these old ones."""
    rows = label_embed[description_rows(counts, sources)]
    if kind == "ram_plus" or len(rows) == 1:
        return rows
    length = torch.linalg.vector_norm(rows.float(), dim=1).mean()
    mean: Tensor = F.normalize(rows.float().mean(dim=0), dim=0) * length
    return mean[None].to(rows.dtype)


def _check_names(what: str, wanted: object, known: object) -> None:
    missing = [str(name) for name in wanted if name not in known]  # type: ignore[attr-defined, operator]
    if missing:
        raise VocabularyError(f"{what}: there is no {', '.join(missing[:20])}; give names as the bundle writes them")


def _changes(vocabulary: Vocabulary, tags: list[_Tag], edits: VocabularyEdits) -> VocabularyChanges:
    used = {source for tag in tags for source in tag.sources}
    thresholds = []
    names_zh = []
    for tag in tags:
        if not tag.sources:
            continue
        before = min(float(vocabulary.thresholds[source]) for source in tag.sources)
        before_zh = vocabulary.tags_zh[tag.sources[0]]
        if np.float32(tag.threshold) != np.float32(before):
            thresholds.append((tag.name, before, tag.threshold))
        if tag.tag_zh != before_zh:
            names_zh.append((tag.name, before_zh, tag.tag_zh))
    return VocabularyChanges(
        before=len(vocabulary),
        after=len(tags),
        dropped=tuple(name for number, name in enumerate(vocabulary.tags) if number not in used),
        added=tuple(edits.add),
        renamed=tuple(edits.rename.items()),
        merged=tuple((tuple(group), name) for name, group in edits.merge.items()),
        thresholds=tuple(thresholds),
        tags_zh=tuple(names_zh),
        bundle_hash="",
    )


def _card(config: ModelConfig, changes: VocabularyChanges) -> str:
    listed = "\n".join(f"- {line if len(line) <= 2000 else line[:2000] + ' …'}" for line in changes.lines())
    return f"""---
tags:
- image-tagging
- {config.kind}
---

# {config.kind} · {config.num_tags} tags · {config.image_size} pixels

Made by `ramfleet model vocabulary` from another bundle, whose weights and licence it has.

{listed}
"""
