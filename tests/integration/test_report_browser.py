"""The page of a report in a real browser: light and dark, wide and narrow, on paper."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page
from synthetic_run import FLEET, Cards, vocabulary, write_run

from pipeline.finished_run import FinishedRun
from pipeline.quoting.saved_quote import keep_quote
from pipeline.report.document import make_report
from pipeline.report.page import render
from pipeline.stores.local_store import LocalStore

pytestmark = pytest.mark.integration

MANY = tuple(Cards(f"node-type-{n:02d}-spot", f"GeForce-RTX-{n}", 2, 8.0 + 3 * n, None) for n in range(19))

_BOXES = """() => {
  const seen = [];
  for (const svg of document.querySelectorAll('svg.chart')) {
    if (getComputedStyle(svg).display === 'none') continue;
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].map(text => {
      const box = text.getBoundingClientRect();
      return {text: text.textContent, left: box.left, right: box.right, top: box.top, bottom: box.bottom};
    });
    const marks = [...svg.querySelectorAll('path, use')].filter(mark => {
      const box = mark.getBoundingClientRect();
      const style = getComputedStyle(mark);
      return box.width > 2 && box.height > 2 && style.fill !== 'none';
    }).length;
    seen.push({label: svg.getAttribute('aria-label'), left: frame.left, right: frame.right, top: frame.top,
               bottom: frame.bottom, texts, marks});
  }
  return seen;
}"""

_HTML_TEXTS = """() => {
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode;
    if (!node.textContent.trim() || node.parentElement.closest('svg, details:not([open])')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects())
      if (box.width > 1 && box.height > 1)
        found.push({text: node.textContent.trim().slice(0, 40), left: box.left, right: box.right,
                    top: box.top + window.scrollY, bottom: box.bottom + window.scrollY});
  }
  return found;
}"""

_CONTRASTS = """() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [r, g, b] = channels(colour).map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const parts = channels(getComputedStyle(e).backgroundColor);
      if (parts.length === 3 || parts[3] > 0) return getComputedStyle(e).backgroundColor;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const element of document.querySelectorAll(
      'h1, h2, h3, p, td, th, a, dt, dd, li, summary, figcaption, .tag b, svg.chart text')) {
    const box = element.getBoundingClientRect();
    if (!box.width || !element.textContent.trim()) continue;
    const style = getComputedStyle(element);
    const inside = element.closest('svg');
    // White on a coloured part of a bar is measured by the bar's own test.
    const colour = inside ? style.fill : style.color;
    const ground = behind(inside || element);
    if (inside && colour === ground) continue;
    const [one, other] = [light(colour), light(ground)].sort((a, b) => b - a);
    found.push({text: element.textContent.trim().slice(0, 40), ratio: (one + 0.05) / (other + 0.05)});
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from open_browser()


@pytest.fixture(scope="module", params=["usual", "many", "one"])
def page_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a usual run, of one with 19 types of nodes and no prices, of one with a single image."""
    folder = tmp_path_factory.mktemp("report")
    store = LocalStore(folder / "run")
    if request.param == "usual":
        write_usual(store, folder)
        keep_quote(store, QUOTE)
    elif request.param == "many":
        write_run(store, 60_000, 6_000, MANY, vocabulary(4_585))
    else:
        write_run(store, 1, 1, FLEET[:1])
    path = folder / "report.html"
    path.write_text(render(make_report(FinishedRun(store))), encoding="utf-8")
    return path


QUOTE = json.dumps(
    {
        "images": 200_000,
        "currency": "USD",
        "nodes": 15,
        "simulated": {
            "seconds": {"p10": 900.0, "p50": 1000.0, "p90": 1100.0},
            "dollars": {"p10": 1.1, "p50": 1.25, "p90": 1.31},
        },
        "kinds": [
            {"name": name, "card": name, "nodes": 5, "images_per_s": 42.0, "images": 1000.0, "dollars": 0.5,
             "preemptions": 1.5}
            for name in ("rtx3090-spot", "rtx2080", "never-rented")
        ],
    }
).encode()  # fmt: skip


def write_usual(store: LocalStore, folder: Path) -> None:
    pictures = []
    for number in range(12):
        image = Image.new("RGB", (480, 320 + 40 * (number % 4)), (60 + 15 * number, 120, 200 - 12 * number))
        ImageDraw.Draw(image).ellipse((90, 60, 300, 260), fill=(250, 200, 20 * number))
        image.save(folder / f"{number}.jpg")
        pictures.append(str(folder / f"{number}.jpg"))
    rejects = [
        (f"folder/of/pictures/{number}.jpg", f"/data/folder/of/pictures/{number}.jpg", kind, detail)
        for number, (kind, detail) in enumerate(
            [("truncated", "ends after 1,024 bytes")] * 9 + [("timeout", "no end within 120 s")] * 4 + [("empty", "")]
        )
    ]
    events = [
        {"at": 300.0, "event": "replica_gone", "replica": "r-rtx2080-03", "cause": "out of memory"},
        {"at": 200.0, "event": "node_joined", "node": "late", "since": 0.0, "card": "T4", "node_type": "t4-spot"},
    ]
    write_run(store, 200_000, 12_000, FLEET, vocabulary(400), rejects, 4_000, pictures, events[:1])


def look(browser: Browser, path: Path, scheme: Any, width: int, media: Any = "screen") -> Page:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.emulate_media(media=media, color_scheme=scheme)
    page.goto(path.as_uri())
    return page


def overlaps(boxes: list[dict[str, Any]], tolerance: float = 1.0) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share more than `tolerance` pixels each way."""
    found = []
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            across = min(one["right"], other["right"]) - max(one["left"], other["left"])
            down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
            if across > tolerance and down > tolerance:
                found.append((one["text"], other["text"]))
    return found


@pytest.mark.parametrize("width", [1400, 1000, 700, 390])
def test_charts_are_full_and_their_texts_apart(browser: Browser, page_file: Path, width: int) -> None:
    """At every width each chart has marks, lies on the page, keeps its texts inside and none on another."""
    page = look(browser, page_file, "light", width)
    charts = page.evaluate(_BOXES)
    assert len(charts) >= 6
    for chart in charts:
        assert chart["marks"] > 0, chart["label"]
        assert chart["left"] >= 0
        assert chart["right"] <= width
        assert overlaps(chart["texts"]) == [], chart["label"]
        for text in chart["texts"]:
            assert chart["left"] - 2 <= text["left"], text
            assert text["right"] <= chart["right"] + 2, text
            assert chart["top"] - 2 <= text["top"], text
            assert text["bottom"] <= chart["bottom"] + 2, text
    page.context.close()


@pytest.mark.parametrize("width", [1400, 390])
def test_texts_of_the_page_are_apart(browser: Browser, page_file: Path, width: int) -> None:
    """No text lies on another, and nothing but a table that scrolls is wider than the page."""
    page = look(browser, page_file, "light", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert overlaps(page.evaluate(_HTML_TEXTS), 2.0) == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(browser: Browser, page_file: Path, scheme: str) -> None:
    """Each has its own ground, and all text the contrast of WCAG 2 AA, 4.5 to 1."""
    page = look(browser, page_file, scheme, 1200)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 600) == (scheme == "light")
    contrasts = page.evaluate(_CONTRASTS)
    assert len(contrasts) > 100
    assert [found for found in contrasts if found["ratio"] < 4.5] == []
    page.context.close()


def test_nothing_is_loaded(browser: Browser, page_file: Path) -> None:
    """The page asks for nothing but itself, and nothing in it is refused by its own policy."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(page_file.as_uri())
    assert asked.count("file") == 1
    assert set(asked) <= {"file", "data"}
    assert complaints == []
    context.close()


def test_names_for_those_who_do_not_see(browser: Browser, page_file: Path) -> None:
    """Each chart that is shown is an image with a name, pictures have alternative texts, headings their order."""
    page = look(browser, page_file, "light", 1200)
    assert page.get_by_role("img").count() >= 6
    assert page.locator("svg.chart:not([aria-label]), img:not([alt])").count() == 0
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    page.context.close()


def test_paper_is_light(browser: Browser, page_file: Path) -> None:
    """Printed from a dark screen, and of a narrow window, the page is white with its wide charts."""
    page = look(browser, page_file, "dark", 390, "print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('svg.wide')).display") == "block"
    assert page.evaluate("getComputedStyle(document.querySelector('svg.narrow')).display") == "none"
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.context.close()
