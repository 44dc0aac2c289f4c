"""The page over a run: what its JSON says, and whom it answers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from starlette.testclient import TestClient
from synthetic_run import write_run

import pipeline.index
from pipeline.config import FetchConfig, StorageConfig
from pipeline.explore.app import make_app
from pipeline.explore.browse import Browser
from pipeline.explore.scores import ScoreTable
from pipeline.finished_run import FinishedRun
from pipeline.index.feed import feed
from pipeline.index.kinds import open_writer
from pipeline.index.source import open_source
from pipeline.stores.local_store import LocalStore
from ramcore.vocabulary import Vocabulary

IMAGES = 300
NAMES = Vocabulary(
    tuple(["dog", "hot dog", "beach", "sea lion"] + [f"tag {n}" for n in range(60)]),
    tuple(["狗", "热狗", "海滩", "海狮"] + [""] * 60),
    np.full(64, 0.68, np.float32),
)
REJECTS = [(f"bad-{n}", f"/pictures/<b>{n}</b>.jpg", "decode", "broken") for n in range(7)] + [
    ("gone-0", "/pictures/gone.jpg", "not_found", "no such file")
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("explored")
    pictures = []
    for number in range(3):
        path = folder / f"picture {number} #é.png"
        Image.new("RGB", (400, 300), (80 * number, 100, 50)).save(path)
        pictures.append(str(path))
    store = LocalStore(folder / "run")
    write_run(store, IMAGES, 4, names=NAMES, rejects=REJECTS, uris=pictures)
    with open_writer("sqlite", str(folder / "run" / "index.sqlite")) as writer:
        feed(open_source(store), writer, "sqlite")
    return FinishedRun(store)


@pytest.fixture(scope="module")
def client(run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    cache = tmp_path_factory.mktemp("cache")
    with (
        pipeline.index.open(run.root) as index,
        Browser(run, index, cache, FetchConfig(), StorageConfig()) as browser,
    ):
        yield TestClient(make_app(browser), base_url="http://127.0.0.1:8000")


def tags_of(run: FinishedRun) -> pa.Table:
    return run.table("tags")


def test_a_search_is_that_of_the_index(client: TestClient, run: FinishedRun) -> None:
    """Total, page and facets are those that the index gives."""
    got = client.get("/api/search", params={"q": "dog OR 海滩", "limit": 5, "offset": 2, "facets": 3}).json()
    with pipeline.index.open(run.root) as index:
        assert got == index.search("dog OR 海滩", 5, 2, 3).as_dict()
    assert got["total"] > 7


def test_an_unknown_tag_is_refused_with_what_may_be_meant(client: TestClient) -> None:
    """The index's own sentence comes through."""
    answer = client.get("/api/search", params={"q": "beech"})
    assert answer.status_code == 400
    assert "did you mean beach" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("search?limit=-1", 400, "limit=-1: give a whole number from 0 to 500"),
        ("search?limit=501", 400, "limit=501"),
        ("search?offset=%C2%B2", 400, "offset=²"),
        ("search?q=(dog", 400, "( is not closed"),
        ("image", 400, "id is missing"),
        ("image?id=nobody", 404, "no tagged image"),
        ("thumbnail?id=../../etc/passwd", 404, "no tagged image"),
        ("rejects?kind=odd", 404, "kinds are decode, not_found"),
        ("threshold?tag_id=64&threshold=0.5", 404, "tags 0 to 63"),
        ("threshold?tag_id=1&threshold=nan", 400, "threshold=nan: give a number from 0 to 1"),
        ("threshold?tag_id=1&threshold=1.5", 400, "threshold=1.5"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(client: TestClient, path: str, status: int, said: str) -> None:
    """One line that names the parameter and its value."""
    answer = client.get(f"/api/{path}")
    assert answer.status_code == status
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("start", "names"), [("do", ["dog", "hot dog"]), ("海", ["海滩", "海狮"]), ("LION", ["sea lion"])]
)
def test_names_are_completed_in_both_languages(client: TestClient, start: str, names: list[str]) -> None:
    """What begins so comes first, then what has a word that does."""
    assert [entry["name"] for entry in client.get("/api/complete", params={"start": start}).json()] == names


def test_an_image_has_all_its_stored_scores(client: TestClient, run: FinishedRun) -> None:
    """Every image: scores as stored, and as tags those over their thresholds."""
    for row in tags_of(run).slice(0, 20).to_pylist():
        got = client.get("/api/image", params={"id": row["image_id"]}).json()
        stored = dict(zip(row["tag_ids"], row["scores"], strict=True))
        assert {entry["tag_id"]: entry["score"] for entry in got["scores"]} == stored
        assert all(entry["fired"] == (entry["score"] > entry["threshold"]) for entry in got["scores"])
        assert (got["uri"], got["width"]) == (row["uri"], 640)


def test_neighbours_share_tags(client: TestClient) -> None:
    """The image itself is not among them, and each has a tag of its."""
    own = client.get("/api/image", params={"id": "image-0000004"}).json()
    tags = {entry["tag"] for entry in own["scores"] if entry["fired"]}
    found = client.get("/api/neighbours", params={"id": "image-0000004", "limit": 6}).json()
    assert len(found) == 6
    assert "image-0000004" not in {each["image_id"] for each in found}
    assert all(tags & {tag["tag"] for tag in each["tags"]} for each in found)


@pytest.mark.parametrize("threshold", [0.0, 0.68, 0.75, 0.7512345, 1.0])
def test_a_threshold_decides_as_a_loop_over_all_scores(client: TestClient, run: FinishedRun, threshold: float) -> None:
    """Count and neighbours of the threshold equal those of a loop in float32."""
    stored = [
        (score, row["image_id"])
        for row in tags_of(run).to_pylist()
        for tag, score in zip(row["tag_ids"], row["scores"], strict=True)
        if tag == 2
    ]
    limit = float(np.float32(threshold))
    over = sorted(entry for entry in stored if entry[0] > limit)
    under = sorted((entry for entry in stored if entry[0] <= limit), reverse=True)
    got = client.get("/api/threshold", params={"tag_id": 2, "threshold": threshold, "limit": 4}).json()
    assert got["images"] == len(over)
    assert sum(got["histogram"]) == len(stored)
    assert [entry["score"] for entry in got["over"]] == [score for score, _ in over[:4]]
    assert [entry["score"] for entry in got["under"]] == [score for score, _ in under[:4]]


def test_scores_under_what_was_stored_are_not_guessed(client: TestClient) -> None:
    """Below the lowest stored score the answer says that it knows nothing."""
    ask = {"tag_id": 0, "limit": 0}
    assert client.get("/api/threshold", params={**ask, "threshold": 0.01}).json()["below_stored"]
    assert not client.get("/api/threshold", params={**ask, "threshold": 0.7}).json()["below_stored"]


def test_a_thumbnail_is_made_once(client: TestClient, run: FinishedRun) -> None:
    """A JPEG of 192 pixels a side at most, which stays when the picture has gone."""
    first = client.get("/api/thumbnail", params={"id": "image-0000001"})
    assert first.headers["content-type"] == "image/jpeg"
    uri = Path(tags_of(run)["uri"][1].as_py())
    hidden = uri.rename(uri.with_suffix(".away"))
    try:
        assert client.get("/api/thumbnail", params={"id": "image-0000001"}).content == first.content
    finally:
        hidden.rename(uri)


def test_a_picture_that_changed_is_not_shown(client: TestClient, run: FinishedRun) -> None:
    """Only what was tagged is shown."""
    Image.new("RGB", (10, 10)).save(tags_of(run)["uri"][2].as_py())
    answer = client.get("/api/thumbnail", params={"id": "image-0000002"})
    assert answer.status_code == 404
    assert answer.json()["error"] == "is not the image that was tagged any more"


def test_rejects_are_paged_by_kind(client: TestClient) -> None:
    """All pages together are all rejects of the kind."""
    kinds = client.get("/api/rejects").json()
    assert [(kind["kind"], kind["images"]) for kind in kinds] == [("decode", 7), ("not_found", 1)]
    pages = [client.get("/api/rejects", params={"kind": "decode", "limit": 3, "offset": n}).json() for n in (0, 3, 6)]
    assert [row["image_id"] for page in pages for row in page["rows"]] == [f"bad-{n}" for n in range(7)]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1"])
def test_other_names_of_the_machine_are_not_answered(client: TestClient, host: str) -> None:
    """A site whose name was made to lead here gets nothing."""
    for path in ("/", "/api/run", "/app.js"):
        assert client.get(path, headers={"host": host}).status_code == 421


def test_another_site_may_not_ask(client: TestClient) -> None:
    """A browser says where a request comes from."""
    assert client.get("/api/run", headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_the_page_runs_nothing_inline(client: TestClient) -> None:
    """The policy forbids code in the page, and the page has none."""
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<style" not in page.text
    assert " style=" not in page.text
    assert "<script>" not in page.text


def test_a_run_without_images_can_be_opened(tmp_path: Path) -> None:
    """Empty tables are no special case."""
    store = LocalStore(tmp_path / "run")
    write_run(store, 0, 0, names=NAMES)
    table = ScoreTable(FinishedRun(store), tmp_path / "cache")
    assert (table.count(0), table.row_of("image-0000000")) == (0, None)


def test_scores_are_found_over_many_row_groups(tmp_path: Path) -> None:
    """Each image's row is its own, in a table of several parts and groups."""
    store = LocalStore(tmp_path / "run")
    write_run(store, 120_000, 1, names=NAMES)
    run = FinishedRun(store)
    table = ScoreTable(run, tmp_path / "cache")
    assert len(run.row_groups("tags")) > 1
    for row in (0, 16_384, 50_000, 119_999):
        assert table.row_of(f"image-{row:07d}") == row
    tag = 2
    assert all(tag in {each for each, _, _ in table.scores_of(stored.row)} for stored in table.at(tag, 0, 5))
    first = pq.read_table(tmp_path / "run" / run.document["parts"]["tags"][0])
    assert first.num_rows <= 120_000
