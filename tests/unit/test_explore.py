"""The page over a run: what its JSON says, and whom it answers."""

import base64
import hashlib
import io
import json
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import Result
from committed_run import commit_all, plan_run, tagged_rows
from PIL import Image
from starlette.testclient import TestClient
from synthetic_run import write_run
from typer.testing import CliRunner

import jobs.explore as explore_module
import pipeline.explore.app as app_module
import pipeline.explore.thumbnails as thumbnails_module
import pipeline.index
import ramcore
from jobs.main import app as main_app
from pipeline.chunks import commit_chunk
from pipeline.config import FetchConfig, StorageConfig
from pipeline.errors import InputError
from pipeline.explore.app import make_app
from pipeline.explore.browse import Browser, BrowserSettings
from pipeline.explore.committed import open_run
from pipeline.explore.scores import ScoreTable
from pipeline.explore.thumbnails import Thumbnails, _Kept
from pipeline.finalize import finalize
from pipeline.finished_run import FinishedRun
from pipeline.index.feed import feed
from pipeline.index.kinds import open_writer
from pipeline.index.source import open_source
from pipeline.report.contact_sheet import NoPictureError
from pipeline.stores.local_store import LocalStore
from ramcore.bundle import demo_bundle, read_vocabulary
from ramcore.errors import BundleError
from ramcore.vocabulary import Vocabulary

IMAGES = 300
PICTURES = Path(demo_bundle()).parent / "pictures"
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
        Browser(run, index, BrowserSettings(cache)) as browser,
    ):
        yield TestClient(make_app(browser), base_url="http://127.0.0.1:8000")


def tags_of(run: FinishedRun) -> pa.Table:
    return run.table("tags")


def test_a_search_is_that_of_the_index(client: TestClient, run: FinishedRun) -> None:
    """Total, page and facets are those that the index gives; facets also the second time."""
    got = client.get("/api/search", params={"q": "dog OR 海滩", "limit": 5, "offset": 2}).json()
    facets = [client.get("/api/facets", params={"q": "dog OR 海滩", "limit": 3}).json() for _ in range(2)]
    with pipeline.index.open(run.root) as index:
        expected = index.search("dog OR 海滩", 5, 2, 3).as_dict()
    assert {**got, "facets": facets[0]} == expected
    assert facets[1] == expected["facets"]
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


@contextmanager
def browsing(store: LocalStore, folder: Path, meanwhile: Callable[[], None] = lambda: None) -> Iterator[Browser]:
    """A run with an index of its own. meanwhile: called before the index is fed again."""

    def renew() -> None:
        with open_writer("sqlite", str(folder / "index.sqlite")) as writer:
            feed(open_source(store), writer, "sqlite")

    def renew_later() -> None:
        meanwhile()
        renew()

    renew()
    with (
        pipeline.index.open(folder / "index.sqlite") as index,
        Browser(open_run(store), index, BrowserSettings(folder / "cache"), renew=renew_later) as browser,
    ):
        yield browser


def test_all_scores_over_the_runs_own_threshold_were_stored(tmp_path: Path) -> None:
    """Also where output.score_floor lies above it: what is unknown begins below."""
    store = LocalStore(tmp_path / "run")
    write_run(store, 20, 1, names=NAMES)
    document = json.loads(store.read("run.json"))
    document["pinned"]["output.score_floor"] = 0.9
    store.replace("run.json", json.dumps(document).encode())
    own = NAMES.thresholds[0]
    with browsing(store, tmp_path) as browser:
        assert not browser.tried(0, float(own), 0)["below_stored"]
        assert browser.tried(0, float(np.nextafter(own, np.float32(0))), 0)["below_stored"]


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


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "same-site"}, {"origin": "http://127.0.0.1:9"}, {"origin": "null"}]
)
def test_another_page_of_this_machine_may_not_ask(client: TestClient, headers: dict[str, str]) -> None:
    """Nor send a picture: another port is another page."""
    assert client.post("/api/look", content=b"x", headers=headers).status_code == 403


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


@pytest.mark.lengthy
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


def test_scores_of_a_run_as_it_was_are_removed(tmp_path: Path) -> None:
    """Those of another run stay."""
    stores = [LocalStore(tmp_path / name) for name in ("run", "other")]
    for store in stores:
        write_run(store, 20, 1, names=NAMES)
        ScoreTable(FinishedRun(store), tmp_path / "cache")
    before = set((tmp_path / "cache").glob("scores-*"))
    document = json.loads(stores[0].read("run.json"))
    ScoreTable(FinishedRun(stores[0], {**document, "finalized_at": "later"}), tmp_path / "cache")
    after = set((tmp_path / "cache").glob("scores-*"))
    assert (len(before), len(after), len(before & after)) == (2, 2, 1)


def test_a_cache_without_room_is_said_in_one_line(tmp_path: Path) -> None:
    """The system lets no file grow any more: nothing is left behind, and the next attempt succeeds."""
    store = LocalStore(tmp_path / "run")
    write_run(store, 2_000, 1, names=NAMES)
    cache = tmp_path / "cache"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(InputError, match=f"^--cache {cache}: cannot be written: File too large; make room") as said:
            ScoreTable(FinishedRun(store), cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(said.value)
    assert list(cache.iterdir()) == []
    assert ScoreTable(FinishedRun(store), cache).images == 2_000


def test_a_cache_that_cannot_be_made_is_said_in_one_line(run: FinishedRun, tmp_path: Path) -> None:
    """A file lies in its place."""
    (tmp_path / "cache").write_text("")
    error = run_command(run.root, "--cache", str(tmp_path / "cache" / "inside")).exception
    assert isinstance(error, InputError)
    assert "Not a directory; make room, or name another folder" in str(error)


def test_an_index_that_cannot_lie_in_the_run_lies_in_the_cache(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By root and plan; an index that lies in the run is used wherever it is."""
    store = LocalStore(tmp_path / "run")
    write_run(store, 5, 1, names=NAMES)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    places = []
    for plan_hash in ("a", "b"):
        opened = FinishedRun(store, {**FinishedRun(store).document, "plan_hash": plan_hash})
        places.append(Path(explore_module._default_index(store.root, opened, tmp_path / "cache")))
    assert {place.parent for place in places} == {tmp_path / "cache"}
    assert places[0] != places[1]
    assert explore_module._default_index(run.root, run, tmp_path / "cache") == f"{run.root}/index.sqlite"


DEMO = read_vocabulary(demo_bundle())


@pytest.fixture(scope="module")
def demo_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Over a run with the tags of the demo bundle, but with a threshold of its own."""
    folder = tmp_path_factory.mktemp("demo")
    store = LocalStore(folder / "run")
    raised = DEMO.thresholds.copy()
    raised[:5] = 0.999
    write_run(store, IMAGES, 4, names=Vocabulary(DEMO.tags, DEMO.tags_zh, raised))
    with open_writer("sqlite", str(folder / "run" / "index.sqlite")) as writer:
        feed(open_source(store), writer, "sqlite")
    with (
        pipeline.index.open(store.root) as index,
        Browser(FinishedRun(store), index, BrowserSettings(folder, model=demo_bundle(), device="cpu")) as browser,
    ):
        yield TestClient(make_app(browser), base_url="http://127.0.0.1:8000")


@pytest.mark.lengthy
def test_a_picture_is_tagged_as_the_run_would(demo_client: TestClient) -> None:
    """Scores are the model's, thresholds the run's, and neighbours have a tag of it."""
    data = (PICTURES / "scene_05.jpg").read_bytes()
    got = demo_client.post("/api/look", content=data).json()
    tagger = ramcore.load(demo_bundle(), device="cpu")
    scores = tagger.scores(tagger.pixels(data, "fast")[None])[0].numpy()
    for entry in got["scores"]:
        assert entry["score"] == pytest.approx(float(scores[entry["tag_id"]]), abs=1e-5)
        assert entry["fired"] == (entry["score"] > entry["threshold"])
        assert (entry["tag_id"] < 5) == (entry["threshold"] == pytest.approx(0.999))
    assert got["same_tags"]
    tags = {entry["tag"] for entry in got["scores"] if entry["fired"]}
    assert tags
    assert got["neighbours"]
    assert all(tags & {tag["tag"] for tag in each["tags"]} for each in got["neighbours"])
    with Image.open(io.BytesIO(base64.b64decode(got["jpeg"]))) as shown:
        assert (shown.format, max(shown.size)) == ("JPEG", 192)


@pytest.mark.parametrize("file", ["broken_empty.jpg", "broken_html.jpg", "broken_header.png", "broken_truncated.jpg"])
def test_what_is_no_picture_is_refused(demo_client: TestClient, file: str) -> None:
    """With what is wrong with it, and the next one is tagged."""
    answer = demo_client.post("/api/look", content=(PICTURES / file).read_bytes())
    assert answer.status_code == 400
    assert "\n" not in answer.json()["error"]
    assert demo_client.post("/api/look", content=(PICTURES / "scene_00.jpg").read_bytes()).status_code == 200


def test_a_body_that_is_too_large_is_refused(demo_client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says of its length."""
    monkeypatch.setattr(app_module, "MOST_BYTES", 1_000_000)
    answer = demo_client.post("/api/look", content=(b"\0" * 400_000 for _ in range(5)))
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        "the picture has more than 1 MB: give a smaller one",
    )


def test_a_model_that_is_not_here_is_asked_for(client: TestClient) -> None:
    """The run's bundle is on another machine."""
    answer = client.post("/api/look", content=(PICTURES / "scene_00.jpg").read_bytes())
    assert answer.status_code == 400
    assert answer.json()["error"].endswith("is not here: give --model")


def test_a_growing_run_is_taken_in(tmp_path: Path, tiny_bundle: Path) -> None:
    """New chunks are counted and then shown: found, with scores, and rejects among them; the rest stays as it was."""
    store = LocalStore(tmp_path / "run")
    ids = [f"i{number}" for number in range(10)]
    plan = plan_run(store, tiny_bundle, ids)
    rejected = {"i5": "decode_error"}

    def commit(chunk: int) -> None:
        assert commit_chunk(store, chunk, tagged_rows(plan, plan.read_chunk(store, chunk), rejected))

    def renew() -> None:
        with open_writer("sqlite", str(tmp_path / "index.sqlite")) as writer:
            feed(open_source(store), writer, "sqlite")

    commit(0)
    renew()
    cache = tmp_path / "cache"
    with (
        pipeline.index.open(tmp_path / "index.sqlite") as index,
        Browser(open_run(store), index, BrowserSettings(cache), renew=renew) as browser,
    ):
        client = TestClient(make_app(browser), base_url="http://127.0.0.1:8000")
        assert client.get("/api/run").json()["status"] == "growing"
        assert client.get("/api/news").json() == {"chunks": 0, "complete": False}
        assert client.get("/api/image", params={"id": "i6"}).status_code == 404
        commit(1)
        assert client.get("/api/news").json() == {"chunks": 1, "complete": False}
        assert client.get("/api/search").json()["total"] == 4
        assert client.post("/api/renew").json()["images"] == 7
        assert client.get("/api/search").json()["total"] == 7
        assert client.get("/api/image", params={"id": "i6"}).json()["scores"][0]["fired"]
        assert client.get("/api/image", params={"id": "i5"}).status_code == 404
        rejects = client.get("/api/rejects", params={"kind": "decode_error"}).json()
        assert [row["image_id"] for row in rejects["rows"]] == ["i5"]
        commit(2)
        finalize(store)
        about = client.post("/api/renew").json()
        assert (about["status"], about["images"]) == ("complete", 9)
        assert client.get("/api/news").json() == {"chunks": 0, "complete": False}
        assert client.get("/api/threshold", params={"tag_id": 0, "threshold": 0.5}).json()["images"] == 9
        assert len(list(cache.glob("scores-*"))) == 1


def growing_run(folder: Path, bundle: Path) -> tuple[LocalStore, Callable[[int], None]]:
    """A run of three chunks, the first committed, and what commits another."""
    store = LocalStore(folder / "run")
    plan = plan_run(store, bundle, [f"i{number}" for number in range(10)])

    def commit(chunk: int) -> None:
        assert commit_chunk(store, chunk, tagged_rows(plan, plan.read_chunk(store, chunk), {}))

    commit(0)
    return store, commit


def test_a_chunk_that_comes_while_the_run_is_taken_in_is_news_again(tmp_path: Path, tiny_bundle: Path) -> None:
    """The index may have it by then; the page does not say that it is up to date."""
    store, commit = growing_run(tmp_path, tiny_bundle)
    late = [2]

    def meanwhile() -> None:
        if late:
            commit(late.pop())

    with browsing(store, tmp_path, meanwhile) as browser:
        commit(1)
        assert browser.renew()["images"] == 8
        assert browser.news() == {"chunks": 1, "complete": False}
        assert browser.renew()["images"] == 10


def test_the_end_of_a_run_is_news(tmp_path: Path, tiny_bundle: Path) -> None:
    """Also if all its chunks were taken in before."""
    store, commit = growing_run(tmp_path, tiny_bundle)
    commit(1)
    commit(2)
    with browsing(store, tmp_path) as browser:
        finalize(store)
        assert browser.news() == {"chunks": 0, "complete": True}
        assert browser.renew()["status"] == "complete"
        assert browser.news() == {"chunks": 0, "complete": False}


def test_what_is_gone_is_said_as_other_errors_are(tmp_path: Path, tiny_bundle: Path) -> None:
    """The chunks of a run were removed under the page: JSON, with the headers of the page."""
    store, _ = growing_run(tmp_path, tiny_bundle)
    with browsing(store, tmp_path) as browser:
        client = TestClient(make_app(browser), base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
        for path in Path(store.root, "chunks").rglob("*.*"):
            path.unlink()
        answer = client.get("/api/image", params={"id": "i1"})
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("FileNotFoundError: ")
    assert "content-security-policy" in answer.headers


@pytest.fixture
def thumbnails(tmp_path: Path) -> Iterator[tuple[Thumbnails, Path, str]]:
    """With a picture and its sha256."""
    picture = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), (9, 8, 7)).save(picture)
    with Thumbnails(tmp_path / "cache", FetchConfig(), StorageConfig()) as made:
        yield made, picture, hashlib.sha256(picture.read_bytes()).hexdigest()


def test_a_picture_does_not_wait_for_others_for_long(
    thumbnails: tuple[Thumbnails, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and tried again when it is asked for again."""
    made, picture, sha256 = thumbnails
    monkeypatch.setattr(thumbnails_module, "_WAIT_S", 0.01)
    with ExitStack() as others:
        for _ in range(4):
            others.enter_context(made._turns)
        with pytest.raises(NoPictureError, match="try again"):
            made.jpeg(str(picture), sha256)
    assert made.jpeg(str(picture), sha256)


def test_a_picture_that_failed_is_not_read_at_once_again(
    thumbnails: tuple[Thumbnails, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only when a minute has passed."""
    made, picture, sha256 = thumbnails
    hidden = picture.rename(picture.with_suffix(".away"))
    for _ in range(2):
        with pytest.raises(NoPictureError, match="cannot be read now"):
            made.jpeg(str(picture), sha256)
        if hidden.exists():
            hidden.rename(picture)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert made.jpeg(str(picture), sha256)


def test_a_thumbnail_that_cannot_be_kept_is_shown(thumbnails: tuple[Thumbnails, Path, str], tmp_path: Path) -> None:
    """Where its folder should be is a file."""
    made, picture, sha256 = thumbnails
    (tmp_path / "cache").write_text("")
    assert made.jpeg(str(picture), sha256)


def test_names_with_quotes_are_left_out_of_what_is_alike(tmp_path: Path) -> None:
    """No query can hold them; the other tags are searched for."""
    names = Vocabulary(
        tuple([f'{n}" disk' for n in range(32)] + [f"tag {n}" for n in range(32)]), ("",) * 64, NAMES.thresholds
    )
    store = LocalStore(tmp_path / "run")
    write_run(store, 100, 1, names=names)
    with browsing(store, tmp_path) as browser:
        found = [browser.neighbours(f"image-{number:07d}", 5) for number in range(20)]
    assert any(found)


def test_thumbnails_have_a_limit(tmp_path: Path) -> None:
    """Those that were not looked at for the longest time go; what is looked at stays."""
    kept = _Kept(tmp_path, 1_000)
    for number in range(10):
        kept.put(f"{number}0", bytes(100))
        os.utime(tmp_path / f"{number}0" / f"{number}0.jpg", (number, number))
    assert kept.get("00") == bytes(100)
    kept.put("aa", bytes(100))
    assert [name for name in (f"{number}0" for number in range(10)) if kept.get(name) is None] == ["10", "20"]
    assert kept.get("aa") is not None
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.jpg")) <= 1_000


def test_thumbnails_of_another_process_count(tmp_path: Path) -> None:
    """The limit is that of the folder."""
    _Kept(tmp_path, 1_000).put("00", bytes(900))
    later = _Kept(tmp_path, 1_000)
    later.put("10", bytes(300))
    assert (later.get("00"), later.get("10")) == (None, bytes(300))
    later.put("20", bytes(1_001))
    assert later.get("20") is None


def run_command(*arguments: str) -> Result:
    return CliRunner().invoke(main_app, ["explore", *arguments])


def test_a_port_in_use_is_said_at_once(run: FinishedRun) -> None:
    """In one line, before anything is made."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error = run_command(run.root, "--port", str(port)).exception
    assert isinstance(error, InputError)
    assert str(error) == f"--port {port}: Address already in use; give another one, or none for one that is free"


@pytest.mark.parametrize(("option", "value"), [("--port", "65536"), ("--port", "-1"), ("--thumbnails-mib", "-1")])
def test_numbers_out_of_range_are_refused(run: FinishedRun, option: str, value: str) -> None:
    """Before anything is made."""
    result = run_command(run.root, option, value)
    assert result.exit_code == 2
    assert "Invalid value" in result.output


def test_an_index_of_another_run_is_refused_and_stays(run: FinishedRun, tmp_path: Path, tiny_bundle: Path) -> None:
    """It is not brought to this run."""
    store = LocalStore(tmp_path / "other")
    commit_all(store, plan_run(store, tiny_bundle, ["a", "b"]))
    index = str(tmp_path / "other.sqlite")
    with open_writer("sqlite", index) as writer:
        feed(open_source(store), writer, "sqlite")
    error = run_command(run.root, "--index", index, "--cache", str(tmp_path / "cache")).exception
    assert isinstance(error, InputError)
    assert str(error).startswith(f"the index {index} holds another run, {store.root}: ")
    assert str(error).endswith("with --index")
    with pipeline.index.open(index) as opened:
        assert opened.search("*").total == 2


def test_a_bundle_that_is_none_is_refused_at_once(run: FinishedRun, tmp_path: Path) -> None:
    """Not when the first picture is dropped."""
    assert isinstance(run_command(run.root, "--model", str(tmp_path)).exception, BundleError)
