"""The page of `ramfleet explore` in a real browser, served by the command itself."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from browser import open_browser
from committed_run import plan_run, tagged_rows
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from synthetic_run import write_run

import ramcore
from pipeline.chunks import commit_chunk
from pipeline.stores.local_store import LocalStore
from ramcore.bundle import demo_bundle
from ramcore.vocabulary import Vocabulary

pytestmark = pytest.mark.integration

IMAGES = 200
_PATIENCE_MS, _USUAL_MS = 60_000, 5_000
PICTURES = Path(demo_bundle()).parent / "pictures"
NASTY = "<img src=x onerror=alert(1)>"
NAMES = Vocabulary(
    ("dog", "hot dog", "beach", NASTY, *(f"tag {n}" for n in range(60))),
    ("狗", "热狗", "海滩", "", *[""] * 60),
    np.full(64, 0.68, np.float32),
)
REJECTS = [(f"bad-{n:03d}", f"/pictures/<b>{n}</b>.jpg", "decode", "broken") for n in range(60)]


@dataclass
class Site:
    """A page at an address, and what the browser complained of."""

    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)

    def note_host(self, url: str) -> None:
        """A request to another address is a complaint."""
        if not url.removeprefix("blob:").startswith(self.address):
            self.complaints.append(url)

    def go(self, view: str) -> Page:
        self.page.goto(f"{self.address}#/{view}")
        expect(self.page.locator("main")).to_have_attribute("aria-busy", "false")
        return self.page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Waits for as long as a busy machine may take."""
    expect.set_options(timeout=_PATIENCE_MS)
    yield from open_browser()
    expect.set_options(timeout=_USUAL_MS)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the command, which makes the index first."""
    folder = tmp_path_factory.mktemp("explored")
    pictures = []
    for number in range(40):
        path = folder / f"picture {number} #é.png"
        Image.new("RGB", (120, 90), (6 * number, 100, 50)).save(path)
        pictures.append(str(path))
    write_run(LocalStore(folder / "run"), IMAGES, 4, names=NAMES, rejects=REJECTS, uris=pictures)
    Path(pictures[39]).unlink()
    with serving(folder / "run", "--cache", str(folder / "cache"), "--model", str(demo_bundle())) as address:
        yield address


@contextmanager
def serving(run: Path, *options: str) -> Iterator[str]:
    """The command over a run, at an address of its own; interrupted at the end, it says nothing more."""
    command = [sys.executable, "-m", "jobs.main", "explore", str(run), "--device", "cpu", *options]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root, env={**os.environ}
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0]
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(browser: Browser, address: str) -> Iterator[Site]:
    """At the width of a desk; nothing may be asked of another host, and no script may fail."""
    with browser.new_context(viewport={"width": 1200, "height": 900}) as context:
        site = Site(context.new_page(), address)
        site.page.on("pageerror", lambda error: site.complaints.append(str(error)))
        site.page.on("request", lambda request: site.note_host(request.url))
        site.page.on("console", lambda line: site.complaints.append(line.text) if _is_complaint(line) else None)
        yield site
        assert site.complaints == []


def _is_complaint(line: ConsoleMessage) -> bool:
    """Chromium notes every refused request, which tests ask for on purpose."""
    return line.type in ("error", "warning") and not line.text.startswith("Failed to load resource")


def test_a_name_is_completed_and_found(site: Site) -> None:
    """Typed in part, chosen by keys, quoted as the language needs it, and found."""
    page = site.go("search")
    page.keyboard.press("/")
    page.keyboard.type("beach -hot")
    expect(page.locator("#names li").first).to_contain_text("hot dog")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#query")).to_have_value('beach -"hot dog" ')
    page.keyboard.press("Enter")
    expect(page.locator(".pages .count").first).to_contain_text("images")
    expect(page).to_have_title(re.compile('^beach -"hot dog"'))


def test_an_unknown_tag_is_answered_with_what_may_be_meant(site: Site) -> None:
    """The sentence of the index is on the page."""
    page = site.go("search?q=beech")
    expect(page.get_by_role("alert")).to_contain_text("did you mean beach")


def test_facets_narrow_the_result(site: Site) -> None:
    """Each facet leads to as many images as it says."""
    page = site.go("search?q=dog")
    facet = page.locator(".facets li").nth(1)
    images = facet.locator(".count").inner_text()
    facet.locator("button").first.click()
    expect(page.locator(".pages .count").first).to_contain_text(f"of {images} images")


def test_pages_and_images_are_walked_by_keys(site: Site) -> None:
    """Next page, an image by arrows, the one after it, and back to the same page."""
    page = site.go("search?q=*")
    page.keyboard.press("n")
    expect(page.locator(".pages .count").first).to_contain_text("49 to 96 of 200")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    second = page.locator(".tile").nth(1).get_attribute("href")
    third = page.locator(".tile").nth(2).get_attribute("href")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_be_visible()
    assert second is not None
    assert page.url.endswith(second)
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**{third}")
    page.keyboard.press("Escape")
    expect(page.locator(".pages .count").first).to_contain_text("49 to 96 of 200")


def test_an_image_has_its_picture_and_bars(site: Site) -> None:
    """The thumbnail is decoded, and a bar is as long as its score."""
    page = site.go("image?id=image-0000001")
    expect(page.locator(".image img")).to_have_js_property("naturalWidth", 192)
    row = page.locator(".scores li").first
    score = float(row.locator(".number").inner_text())
    share = row.locator(".bar").evaluate("bar => parseFloat(bar.firstChild.style.width)")
    assert share == pytest.approx(100 * score, abs=0.1)


def test_a_picture_that_is_gone_says_so(site: Site) -> None:
    """In words, in its place."""
    page = site.go("image?id=image-0000039")
    expect(page.locator(".image .why")).to_contain_text("cannot be read now")


def test_a_threshold_decides_as_it_moves(site: Site) -> None:
    """A higher threshold leaves fewer images; back at the run's it is as in the run."""
    page = site.go("threshold?tag_id=0")
    decided = page.locator("#decided")
    before = int(decided.inner_text())
    page.get_by_label("Threshold", exact=True).fill("0.8")
    expect(decided).not_to_have_text(str(before))
    assert int(decided.inner_text()) < before
    page.get_by_role("button", name="Run's").click()
    expect(decided).to_have_text(str(before))
    expect(page.locator("#trial")).to_contain_text("as in the run")


def test_names_are_text_only(site: Site) -> None:
    """Markup in the names of tags, in addresses and in the query is shown, not run."""
    page = site.go("threshold?tag_id=3")
    expect(page.locator("#tag-name")).to_have_text(NASTY)
    site.go("rejects")
    expect(page.locator("td", has_text="/pictures/<b>0</b>.jpg")).to_be_visible()
    site.go("search?q=%3Cimg%20src%3Dx%3E")
    expect(page.get_by_role("alert")).to_contain_text("<img")
    assert page.locator("main img[src='x'], main b").count() == 0


def test_rejects_are_paged(site: Site) -> None:
    """The second page has the rest."""
    page = site.go("rejects?kind=decode")
    page.keyboard.press("n")
    expect(page.locator(".pages .count")).to_contain_text("51 to 60 of 60")


DROP = """async ([name, address]) => {
  const held = new DataTransfer();
  const data = await (await fetch(address)).arrayBuffer();
  held.items.add(new File([data], name, { type: "image/jpeg" }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: held, bubbles: true, cancelable: true }));
}"""


def test_a_chosen_picture_is_tagged(site: Site) -> None:
    """The button takes a file; its tags are those that `ramcore` gives, with a picture of what was decoded."""
    picture = PICTURES / "scene_05.jpg"
    page = site.go("look")
    page.get_by_label("Choose a picture").set_input_files(picture)
    fired = page.locator("#seen .scores li.fired .name")
    expect(fired.first).to_be_visible(timeout=60_000)
    tags = ramcore.load(demo_bundle(), device="cpu").tag(picture, "fast").tags
    assert {name.split(" · ")[0] for name in fired.all_inner_texts()} == set(tags)
    expect(page.locator("#seen img")).to_have_js_property("naturalWidth", 192)
    expect(page).to_have_title(re.compile("^scene_05.jpg"))


def test_a_picture_dropped_on_any_view_is_tagged(site: Site) -> None:
    """From the search, a drop leads to its tags."""
    page = site.go("search?q=dog")
    page.evaluate(DROP, [NASTY, "api/thumbnail?id=image-0000001"])
    expect(page.locator("#seen dd").first).to_have_text(NASTY)
    assert page.url.endswith("#/look?")
    assert page.locator("main img[src='x']").count() == 0


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("page.jpg", b"<html>no</html>", "page.jpg: an HTML page: the bytes are of no known image format"),
        ("cut.png", b"\x89PNG\r\n\x1a\n", "the file ends before the picture does"),
        ("none.jpg", b"", "none.jpg: the file is empty, or a folder"),
    ],
)
def test_what_is_no_picture_is_said(site: Site, name: str, data: bytes, said: str) -> None:
    """With the name of the file, and why."""
    page = site.go("look")
    page.get_by_label("Choose a picture").set_input_files({"name": name, "mimeType": "image/jpeg", "buffer": data})
    expect(page.get_by_role("alert")).to_contain_text(said)


def test_a_picture_that_is_too_large_is_not_sent(site: Site, tmp_path: Path) -> None:
    """The page knows the limit."""
    large = tmp_path / "large.bmp"
    with large.open("wb") as file:
        file.truncate(50_000_001)
    page = site.go("look")
    page.get_by_label("Choose a picture").set_input_files(large)
    expect(page.get_by_role("alert")).to_contain_text("51 MB are too many: a picture may have 50 MB")


@pytest.mark.parametrize("view", ["search?q=dog", "image?id=image-0000001", "rejects", "threshold?tag_id=0", "look"])
def test_a_phone_needs_no_sideways_scrolling(site: Site, view: str, scheme: str) -> None:
    """At 360 pixels the page is as wide as the screen, light and dark."""
    site.page.set_viewport_size({"width": 360, "height": 740})
    site.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page = site.go(view)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(244, 245, 246)", "dark": "rgb(18, 21, 25)"}[scheme]


def test_new_chunks_of_a_growing_run_are_shown_when_asked_for(
    browser: Browser, tmp_path: Path, tiny_bundle: Path
) -> None:
    """The page says how many there are, and stays as it is until then; at the end no scores of a moment are left."""
    store = LocalStore(tmp_path / "run")
    plan = plan_run(store, tiny_bundle, [f"i{number}" for number in range(12)])

    def commit(chunk: int) -> None:
        assert commit_chunk(store, chunk, tagged_rows(plan, plan.read_chunk(store, chunk), {}))

    commit(0)
    with serving(tmp_path / "run", "--cache", str(tmp_path / "cache")) as address, browser.new_context() as context:
        page = Site(context.new_page(), address).go("search?q=*")
        expect(page.locator("#about")).to_contain_text("4 images so far")
        expect(page.locator("#news")).to_be_hidden()
        commit(1)
        commit(2)
        page.reload()
        expect(page.locator("#news")).to_have_text("2 new chunks: show")
        expect(page.locator(".pages .count").first).to_have_text("1 to 4 of 4 images")
        page.locator("#news").click()
        expect(page.locator(".pages .count").first).to_have_text("1 to 12 of 12 images")
        expect(page.locator("#news")).to_be_hidden()
    assert not list((tmp_path / "cache").glob("scores-*"))
