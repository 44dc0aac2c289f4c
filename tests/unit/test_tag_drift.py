"""Tag drift against a loop over all images."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import write_run

import pipeline.report.tag_drift as drift_module
from pipeline.finished_run import FinishedRun
from pipeline.report.tag_drift import Drift, tag_drift
from pipeline.stores.local_store import LocalStore
from pipeline.tables.parts import create_part
from pipeline.tables.schemas import to_parquet
from ramcore.vocabulary import Vocabulary

# "dog" twice: tags may share a name.
TAGS_A = ("dog", "cat", "sea", "dog")
TAGS_B = ("sea", "dog", "owl", "cat")
Images = dict[str, dict[int, float]]
SCORES = st.sampled_from([0.4, 0.5, 0.6, 0.75, 0.9])
IMAGES = st.dictionaries(
    st.sampled_from([f"i{number}" for number in range(12)]), st.dictionaries(st.integers(0, 3), SCORES), max_size=12
)


def run_of(folder: Path, images: Images, tags: tuple[str, ...]) -> FinishedRun:
    """Thresholds are 0.5; what is lower is stored too."""
    store = LocalStore(folder)
    write_run(store, 0, 0, names=Vocabulary(tags, ("",) * len(tags), np.full(len(tags), 0.5, np.float32)))
    rows = [sorted(scores.items()) for scores in images.values()]
    table = pa.table(
        {
            "image_id": pa.array(list(images), pa.string()),
            "uri": pa.array([f"/{image_id}" for image_id in images], pa.string()),
            "sha256": pa.array(["00"] * len(images), pa.string()),
            "tag_ids": pa.array([[tag for tag, _ in row] for row in rows], pa.list_(pa.int32())),
            "scores": pa.array([[score for _, score in row] for row in rows], pa.list_(pa.float32())),
        }
    )
    document = json.loads(store.read("run.json"))
    document["parts"]["tags"] = [create_part(store, "tags/", 1, to_parquet(table))]
    store.replace("run.json", json.dumps(document).encode())
    return FinishedRun(store)


def drift_of(a: Images, b: Images) -> Drift:
    with tempfile.TemporaryDirectory() as folder:
        return tag_drift(run_of(Path(folder) / "a", a, TAGS_A), run_of(Path(folder) / "b", b, TAGS_B))


def names_of(images: Images, tags: tuple[str, ...]) -> dict[str, set[str]]:
    return {image: {tags[tag] for tag, score in scores.items() if score > 0.5} for image, scores in images.items()}


def stored(scores: dict[int, float], tags: tuple[str, ...]) -> dict[str, float]:
    """The highest score of each name."""
    found: dict[str, float] = {}
    for tag, score in scores.items():
        found[tags[tag]] = max(score, found.get(tags[tag], 0.0))
    return found


@pytest.mark.lengthy
@settings(max_examples=60, deadline=None)
@given(IMAGES, IMAGES)
def test_every_figure_is_that_of_a_loop(a: Images, b: Images) -> None:
    """Shares, counts, agreement and the images that changed, whatever the overlap."""
    before, after = names_of(a, TAGS_A), names_of(b, TAGS_B)
    common = before.keys() & after.keys()
    found = drift_of(a, b)
    assert found.paired == bool(common and 2 * len(common) >= max(len(a), len(b)))
    shown = [{i: names[i] for i in common} if found.paired else names for names in (before, after)]
    assert {shift.tag for shift in found.shifts} == {*TAGS_A, *TAGS_B}
    for shift in found.shifts:
        hits = [sum(shift.tag in tags for tags in names.values()) for names in shown]
        assert (shift.share_a, shift.share_b) == tuple(
            hit / max(1, len(names)) for hit, names in zip(hits, shown, strict=True)
        )
        assert shift.gained == sum(shift.tag in after[i] - before[i] for i in common)
        assert shift.lost == sum(shift.tag in before[i] - after[i] for i in common)
        assert shift.known == {"dog": "ab", "cat": "ab", "sea": "ab", "owl": "b"}[shift.tag]
        assert shift.low - 1e-12 <= shift.change <= shift.high + 1e-12
        assert (shift.kind == "appeared") == (hits[0] == 0 < hits[1])
        assert (shift.kind == "vanished") == (hits[1] == 0 < hits[0])
    assert (found.agreement.images, found.agreement.same) == (len(common), sum(before[i] == after[i] for i in common))
    changed = {image.image_id: image for image in found.changed}
    assert changed.keys() == {i for i in common if before[i] != after[i]}
    for image_id, image in changed.items():
        assert (set(image.gained), set(image.lost)) == (
            after[image_id] - before[image_id],
            before[image_id] - after[image_id],
        )
        scores = stored(a[image_id], TAGS_A), stored(b[image_id], TAGS_B)
        moved = sum(abs(scores[1][tag] - scores[0][tag]) for tag in scores[0].keys() & scores[1].keys())
        assert image.score_change == pytest.approx(moved, abs=1e-6)
    assert [image.rank for image in found.changed] == sorted((image.rank for image in found.changed), reverse=True)


def synthetic(folder: Path, seed: int, share: float) -> FinishedRun:
    """2,000 images of which a share has the last of 200 tags, and each of the others one in fifty."""
    draw = np.random.default_rng(seed)
    tags = tuple(f"tag {number}" for number in range(200))
    has = draw.random((2_000, 200)) < 0.02
    has[:, -1] = draw.random(2_000) < share
    images = {f"i{n}": {int(tag): 0.9 for tag in np.flatnonzero(row)} for n, row in enumerate(has)}
    return run_of(folder, images, tags)


def test_noise_is_not_marked_and_drift_is(tmp_path: Path) -> None:
    """Of 199 tags that are drawn anew some intervals miss 0, but only the one that drifted is marked."""
    found = tag_drift(synthetic(tmp_path / "a", 1, 0.10), synthetic(tmp_path / "b", 2, 0.15))
    assert [shift.tag for shift in found.shifts if shift.marked] == ["tag 199"]
    missed = [shift for shift in found.shifts if shift.low > 0 or shift.high < 0]
    assert 1 < len(missed) < 25
    assert found.shifts[0].tag == "tag 199"
    assert found.tested == 200


def test_only_so_many_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that changed most, over all parts."""
    monkeypatch.setattr(drift_module, "_PART_ROWS", 100)
    a, b = synthetic(tmp_path / "a", 1, 0.1), synthetic(tmp_path / "b", 2, 0.1)
    every = tag_drift(a, b, 5_000).changed
    assert len(every) > 1_000
    assert tag_drift(a, b, 7).changed == every[:7]
