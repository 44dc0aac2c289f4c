"""What every kind of index has to keep: the answers of a loop over all documents. Test modules import these tests.

They need the fixture `new_index`.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from indexes import ALL, TAGS, Asked, Images, NewIndex, image_sets, one_tag, queries, source

import pipeline.index.feed as feed_module
from pipeline.index import Index

SEVERAL = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
IMAGES: Images = {
    "a": {0: 900, 3: 800},
    "b": {0: 700, 6: 950},
    "c": {0: 850, 3: 990, 6: 680},
    "d": {1: 999},
    "e": {},
}


def assert_answers(index: Index, asked: Asked, images: Images) -> None:
    """The index answers as a loop over all images does; pages are its answer in pieces."""
    expected = asked.answer(images)
    text = asked.written()
    found = index.search(text, limit=100, facets=100)
    assert {hit.image_id: round(1000 * hit.score) for hit in found.hits} == expected, text
    assert found.total == len(expected)
    ranks = [hit.score for hit in found.hits]
    assert ranks == sorted(ranks, reverse=True)
    pages = [hit for offset in range(0, len(expected) + 1, 3) for hit in index.search(text, 3, offset).hits]
    assert pages == found.hits
    counts = {tag: sum(tag in images[name] for name in expected) for tag in range(len(TAGS))}
    shown = sorted(((-count, tag) for tag, count in counts.items() if count))
    assert [(facet.tag, facet.images) for facet in found.facets] == [(TAGS[tag], -count) for count, tag in shown]


@pytest.mark.lengthy
@SEVERAL
@given(images=image_sets(), asked=st.lists(queries(), min_size=1, max_size=6))
def test_a_query_means_the_same_everywhere(
    new_index: NewIndex, tmp_path: Path, images: Images, asked: list[Asked]
) -> None:
    """Random queries over random documents: the images, their ranks, the pages and the facets of a brute-force loop."""
    made = new_index()
    made.feed(source(tmp_path, [images]))
    with made.open() as index:
        for each in asked:
            assert_answers(index, each, images)


@pytest.mark.lengthy
@SEVERAL
@given(data=st.data(), asked=queries())
def test_an_index_follows_its_runs(new_index: NewIndex, tmp_path: Path, data: st.DataObject, asked: Asked) -> None:
    """After any series of runs, each the base of the next, the index answers as one that was made of the last alone."""
    made = new_index()
    base = None
    for number in range(3):
        images = data.draw(image_sets())
        halves: list[Images] = [{}, {}]
        for turn, name in enumerate(sorted(images)):
            halves[turn % 2][name] = images[name]  # type: ignore[index]
        made.feed(source(tmp_path, halves, f"run {number}", base))
        base = f"run {number}"
        with made.open() as index:
            assert_answers(index, asked, images)
            assert_answers(index, ALL, images)


def test_documents_come_back_whole(new_index: NewIndex, tmp_path: Path) -> None:
    """What is stored of an image is what is found; its tags are the surest first."""
    made = new_index()
    made.feed(source(tmp_path, [IMAGES]))
    with made.open() as index:
        [hit] = index.search("dog person beach").hits
    assert (hit.image_id, hit.uri, hit.width, hit.height) == ("c", "/pictures/c", 640, None)
    assert hit.caption == "picture 2\nof\tmany"
    assert [(tag.tag, tag.tag_zh, tag.score) for tag in hit.tags] == [
        ("beach", "海滩", 0.99),
        ("dog", "狗", 0.85),
        ("person", "人", 0.68),
    ]


def test_what_is_in_the_index_is_not_written_again(new_index: NewIndex, tmp_path: Path) -> None:
    """A unit that is done is not read; of others, only what is new or changed is written."""
    made = new_index()
    made.feed(source(tmp_path, [IMAGES]))
    again = made.feed(source(tmp_path, [IMAGES], broken_after=0))
    assert (again.seen, again.new, again.changed, again.removed, again.documents) == (0, 0, 0, 0, 5)
    changed = {**IMAGES, "a": {0: 901}, "f": {0: 700}}
    del changed["e"]
    fed = made.feed(source(tmp_path, [changed]))
    assert (fed.seen, fed.new, fed.changed, fed.removed, fed.documents) == (5, 1, 1, 1, 5)


@pytest.mark.parametrize("where", ["between batches", "before the ledger", "in the sweep"])
def test_a_feed_that_dies_is_taken_up_again(
    new_index: NewIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """An index that was given up in mid-feed, and then fed another run, equals one that was built in one go."""
    monkeypatch.setattr(feed_module, "COMMIT_ROWS", 2)
    made = new_index()
    made.feed(source(tmp_path, [IMAGES], "old"))
    units: list[Images] = [{"a": {0: 999}, "x": {0: 1}}, {"b": {6: 700}, "y": {6: 2}}, {"c": {3: 800}, "z": {3: 3}}]
    run = source(tmp_path, units, "new", "old", broken_after=2 if where == "between batches" else 99)
    with monkeypatch.context() as patched:
        if where != "between batches":
            ledger = "postgres_index.PostgresLedger" if made.kind == "postgres" else "ledger.Ledger"
            step = {"before the ledger": "record", "in the sweep": "forget"}[where]
            patched.setattr(f"pipeline.index.{ledger}.{step}", _away)
        with pytest.raises(OSError, match=r"killed|the store is away"):
            made.feed(run)
    for plan_hash, images in (("old", IMAGES), ("new", {name: tags for unit in units for name, tags in unit.items()})):
        parts = [IMAGES] if plan_hash == "old" else units
        made.feed(source(tmp_path, parts, plan_hash, "old"))
        with made.open() as index:
            for asked in (one_tag("dog"), ALL):
                assert_answers(index, asked, images)


def _away(*arguments: object) -> None:
    raise OSError("killed")
