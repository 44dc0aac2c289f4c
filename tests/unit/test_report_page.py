"""The page of a report, its exports, its commands; whatever the names in a run, and with next to nothing in it."""

import csv
import io
import json
import re
import socket
from collections.abc import Iterator
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from committed_run import commit_all, plan_run
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from synthetic_run import FLEET, START_S, Cards, vocabulary, write_run
from typer.testing import CliRunner

from jobs.main import app
from pipeline.config import FetchConfig
from pipeline.errors import InputError
from pipeline.finalize import finalize
from pipeline.finished_run import FinishedRun
from pipeline.report import views
from pipeline.report.document import Options, Report, as_dict, make_report
from pipeline.report.exports import as_csv, as_markdown, markdown_table
from pipeline.report.page import render
from pipeline.stores.local_store import LocalStore
from ramcore.vocabulary import Vocabulary

NO_PICTURES = Options(pictures=0)
ONE_TYPE = (Cards("t4", "T4", 1, 10.0, Decimal("0.5"), 8 << 30),)
TWO_CHARTS = ("Images per second of one busy card", r"Images for \$1")
BY_MONEY = ["rtx2080", "rtx3090-spot", "a100"]
SECTIONS = ("next", "cost", "throughput", "time", "cards", "rejects", "tags", "pictures", "config")


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, its text; by section."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self._section, self._in_style = "", False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += attributes
        if tag == "section":
            self._section = dict(attributes)["id"] or ""
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.texts.setdefault(self._section, []).append(data)

    def text(self, section: str | None = None) -> str:
        parts = [part for name, found in self.texts.items() if section in (None, name) for part in found]
        return " ".join(" ".join(parts).split())


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Two pictures on disk."""
    paths = [tmp_path / "one.jpg", tmp_path / "two.png"]
    for shade, path in enumerate(paths):
        Image.new("RGB", (320, 200), (200, 40, 90 * shade)).save(path)
    return [str(path) for path in paths]


def page_of(store: LocalStore, options: Options = NO_PICTURES) -> Page:
    return Page(render(make_report(FinishedRun(store), options)))


# ---- next to nothing in it ----


@pytest.mark.lengthy
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("rejected", [False, True])
def test_a_tiny_run_makes_a_sensible_page(store: LocalStore, tiny_bundle: Path, images: int, rejected: bool) -> None:
    """One image or three, all tagged or all rejected: every section has content or says why not; no odd numbers."""
    ids = [f"i{number}" for number in range(images)]
    plan = plan_run(store, tiny_bundle, ids)
    commit_all(store, plan, dict.fromkeys(ids, "truncated") if rejected else {})
    finalize(store)
    page = page_of(store, Options(pictures=4, pictures_timeout_s=1.0))
    for section in SECTIONS:
        assert len(page.text(section)) > 20, section
    assert not re.search(r"\b(nan|inf|None)\b", page.text())
    assert "No image went through the model" in page.text("throughput")
    if rejected:
        assert "truncated" in page.text("rejects")
        assert "No image was tagged, so there are no tags and no scores." in page.text("tags")
        assert "No image was tagged." in page.text("pictures")
    else:
        assert "No image was rejected." in page.text("rejects")
        assert "No picture can be shown here. The first: cannot be read now: not_found" in page.text("pictures")


@pytest.mark.lengthy
def test_a_run_of_one_tagged_image_has_its_charts(store: LocalStore) -> None:
    """One attempt of one node is enough for each chart but the distribution over nodes."""
    write_run(store, 1, 1, ONE_TYPE)
    text = render(make_report(FinishedRun(store), NO_PICTURES))
    for name in ("Images per second of one busy card. t4 ", "Images for $1. t4 ", "Where time goes. t4: busy "):
        assert f'aria-label="{name}' in text
    assert text.count('<svg class="chart wide"') == text.count('<svg class="chart narrow"') == 7


@pytest.mark.lengthy
def test_the_best_node_type_is_the_first_bar(store: LocalStore) -> None:
    """By rate and by money, which order the types differently; the one without a price has no bar of money."""
    write_run(store, 40_000, 2_000)
    text = render(make_report(FinishedRun(store), NO_PICTURES))
    labels = {name: re.search(rf'aria-label="{name}\. ([^"]*)"', text) for name in TWO_CHARTS}
    found = {name: [bar.split()[0] for bar in label[1].split("; ")] for name, label in labels.items() if label}
    assert found == dict(zip(TWO_CHARTS, (["a100", "rtx3090-spot", "rtx2080", "t4-spot"], BY_MONEY), strict=True))


@pytest.mark.lengthy
def test_no_price_is_said_and_no_chart_is_empty(store: LocalStore) -> None:
    """Without a price there are seconds and rates, and the reason in place of amounts and of their chart."""
    write_run(store, 100, 10, (Cards("t4", "T4", 1, 10.0),))
    page = page_of(store)
    assert "cost not known" in page.text("")
    assert "No images for the money: no price is known" in page.text("cost")
    assert "No price: 1 × t4: no price for card T4" in page.text("cost")
    assert not re.search(r"\$\d*\.", page.text("cost") + page.text("time"))


def test_a_run_without_telemetry_says_so(store: LocalStore) -> None:
    """`ramfleet threshold` makes runs that no card worked for: no costs, but tags and scores."""
    write_run(store, 50, 5, ONE_TYPE)
    document = json.loads(store.read("run.json"))
    document["parts"]["telemetry"] = []
    store.replace("run.json", json.dumps(document).encode())
    made = make_report(FinishedRun(store), NO_PICTURES)
    page = Page(render(made))
    for section in ("next", "cost", "time"):
        assert views.NO_TELEMETRY in page.text(section)
    assert "tag 0" in page.text("tags")
    assert views.NO_TELEMETRY in as_markdown(made)
    assert as_dict(made)["cost"] is None


@pytest.mark.lengthy
def test_an_unfinished_run_says_so(store: LocalStore) -> None:
    """What is missing is counted on top."""
    write_run(store, 50, 5, ONE_TYPE)
    document = json.loads(store.read("run.json"))
    document["counts"] |= {"missing": 1234, "input": 1284}
    store.replace("run.json", json.dumps({**document, "status": "incomplete", "demo": True}).encode())
    text = page_of(store).text("")
    assert "1,234 images are not done yet" in text
    assert "it knows drawn scenes only" in text


# ---- whatever the names ----

EVIL = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12).map(
    lambda text: f"x{text}<x-evil onload=y>\"'&amp;--></style></svg></title>|$x^2$`x`{{{{7*7}}}}"
)


# No shrinking: every example draws a page.
@pytest.mark.lengthy
@settings(
    deadline=None,
    max_examples=3,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example("刌 <x-evil>")
@given(EVIL)
def test_names_are_shown_as_they_are(tmp_path: Path, evil: str) -> None:
    """HTML in tags, ids, uris, messages, node types, cards and paths stays text, in every form of a report."""
    evil = " ".join(evil.split())
    store = LocalStore(tmp_path / "run <x-evil>")
    names = Vocabulary((evil, "cat"), (evil, ""), np.array([0.68, 0.68], np.float32))
    fleet = (Cards(evil, evil, 1, 10.0, Decimal(1)), Cards("t4", "T4", 2, 9.0, None))
    write_run(store, 30, 6, fleet, names, [(evil, evil, "truncated", evil)], uris=())
    made = make_report(FinishedRun(store), Options(pictures=3, pictures_timeout_s=2.0))
    html = render(made)
    page = Page(html)
    assert "x-evil" not in page.elements
    assert not {"script", "iframe", "object", "embed", "link", "form"} & page.elements
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for section in ("cost", "cards", "rejects", "tags"):
        assert evil in page.text(section), section
    assert html.count("</html>") == html.count("</style>") == 1
    json.dumps(as_dict(made))
    assert "<x-evil" not in as_markdown(made)


def test_cells_do_not_break_a_markdown_table() -> None:
    """Bars, line breaks and HTML are made harmless."""
    assert markdown_table(("a", "b"), [("x|y", "1\n<b>")]) == ["| a | b |", "|---|---|", "| x\\|y | 1 &lt;b&gt; |"]
    link = markdown_table(("a",), [("![x](http://a/b.png) *",), ("\\|",), ("&lt;",)])
    assert link[2:] == ["| !\\[x\\](http://a/b.png) \\* |", "| \\\\\\| |", "| &amp;lt; |"]


@pytest.mark.lengthy
def test_the_page_needs_nothing_else(store: LocalStore, pictures: list[str]) -> None:
    """No address is loaded, no script runs: pictures are in the page, and nothing else may be loaded."""
    write_run(store, 10, 2, ONE_TYPE, uris=pictures)
    text = render(make_report(FinishedRun(store)))
    page = Page(text)
    loaded = [value or "" for name, value in page.attributes if name in ("src", "href", "xlink:href", "poster")]
    assert all(value.startswith(("#", "data:image/jpeg;base64,")) for value in loaded)
    assert not re.search(r"url\((?!#)|@import", text)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("content", policy) in page.attributes


# ---- pictures ----


@pytest.mark.lengthy
def test_pictures_that_are_what_was_tagged_are_shown(store: LocalStore, pictures: list[str]) -> None:
    """With alternative text; one that has changed since, and one that is gone, say so."""
    write_run(store, 3, 1, ONE_TYPE, uris=pictures)
    Image.new("RGB", (10, 10)).save(pictures[1])
    first, second, third = make_report(FinishedRun(store)).pictures
    assert first.data_uri is not None
    assert first.data_uri.startswith("data:image/jpeg;base64,")
    assert (second.data_uri, second.missing) == (None, "is not the image that was tagged any more")
    assert third.missing == "cannot be read now: not_found: there is no such file"
    assert ("alt", f"image-0000000, tagged {', '.join(tag for tag, _ in first.tags[:8])}") in Page(
        render(make_report(FinishedRun(store)))
    ).attributes


def test_pictures_outside_of_given_roots_are_not_read(store: LocalStore, pictures: list[str]) -> None:
    """fetch.allow_roots holds here too."""
    write_run(store, 1, 1, ONE_TYPE, uris=pictures)
    made = make_report(FinishedRun(store), Options(fetch=FetchConfig(allow_roots=("/somewhere",))))
    assert made.pictures[0].missing is not None
    assert "blocked_path" in made.pictures[0].missing


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.lengthy
def test_a_server_that_says_nothing_is_given_up(store: LocalStore, silent_server: int) -> None:
    """All pictures together have their time, and each says that it ran out; an inner address needs permission."""
    write_run(store, 2, 1, ONE_TYPE)
    uri = f"http://127.0.0.1:{silent_server}/a.jpg"
    put_uris(store, [uri, uri])
    fetch = FetchConfig(allow_hosts=("127.0.0.1",))
    made = make_report(FinishedRun(store), Options(fetch=fetch, pictures_timeout_s=0.3))
    for picture in made.pictures:
        assert picture.missing is not None
        assert "within 0.3 s" in picture.missing or "timeout" in picture.missing
    refused = make_report(FinishedRun(store), Options(pictures_timeout_s=5)).pictures[0]
    assert refused.missing is not None
    assert "blocked_address" in refused.missing


def put_uris(store: LocalStore, uris: list[str]) -> None:
    from pipeline.tables.parts import create_part
    from pipeline.tables.schemas import to_parquet

    table = FinishedRun(store).table("tags")
    table = table.set_column(table.schema.get_field_index("uri"), "uri", [uris])
    document = json.loads(store.read("run.json"))
    document["parts"]["tags"] = [create_part(store, "tags/", 1, to_parquet(table))]
    store.replace("run.json", json.dumps(document).encode())


# ---- the next dollar ----


def report_of(store: LocalStore) -> Report:
    return make_report(FinishedRun(store), NO_PICTURES)


@pytest.mark.lengthy
def test_cards_that_are_busy_are_the_bottleneck(store: LocalStore) -> None:
    """With nothing else over a tenth of the time, the model is named; the better card is money, not a bottleneck."""
    fleet = (Cards("cheap", "T4", 1, 20.0, Decimal("0.1")), Cards("dear", "A100", 1, 20.0, Decimal("1.0")))
    write_run(store, 60_000, 3_000, fleet)
    found = report_of(store).next_dollar
    assert found is not None
    assert found.bottleneck.name == "busy"
    assert found.mix is not None
    assert found.mix.dollars is not None
    assert "cheap did " in found.mix.evidence[0]
    assert found.mix.share == pytest.approx(0.45 / 0.55, abs=0.03)


def test_nodes_that_stand_by_are_the_bottleneck(store: LocalStore) -> None:
    """An hour of nodes after the work is named as that, with what it cost; the split is all of the idle time."""
    events = [{"at": 3600.0, "event": "driver_alive"}]
    write_run(store, 1_000, 100, ONE_TYPE, events=events)
    events_of = store.path("events/0a-fleet-0.jsonl")
    lines = [line for line in events_of.read_text().splitlines() if "driver_ended" not in line]
    events_of.write_text("\n".join(lines) + "\n")
    found = report_of(store).next_dollar
    assert found is not None
    assert found.bottleneck.name == "idle"
    assert found.bottleneck.title == "Nodes stand by before, between or after the work"
    assert found.bottleneck.dollars is not None
    assert float(found.bottleneck.dollars) == pytest.approx(0.5 * found.bottleneck.share, rel=0.01)


def test_loading_is_named(store: LocalStore) -> None:
    """A run that is over as soon as its model is loaded."""
    write_run(store, 20, 2, ONE_TYPE)
    found = report_of(store).next_dollar
    assert found is not None
    assert found.bottleneck.name == "load"
    assert "1 replica started, half of them within " in found.bottleneck.evidence[1]


def test_shares_of_all_levers_are_the_whole(store: LocalStore) -> None:
    """Those of time add up to 1, and their amounts to the cost."""
    write_run(store, 5_000, 400, FLEET[:2])
    made = report_of(store)
    assert made.next_dollar is not None
    assert made.ledger is not None
    levers = [lever for lever in made.next_dollar.levers if lever.name != "mix"]
    assert sum(lever.share for lever in levers) == pytest.approx(1)
    assert sum(lever.dollars or 0 for lever in levers) == made.ledger.run.total_dollars


# ---- exports and commands ----


def test_the_cost_table_as_csv(store: LocalStore) -> None:
    """Types, nodes and the run; the splits of each row add up to its cost, to the last digit."""
    write_run(store, 5_000, 400)
    ledger = report_of(store).ledger
    assert ledger is not None
    rows = list(csv.DictReader(io.StringIO(as_csv(ledger))))
    assert [row["row"] for row in rows] == ["type"] * 4 + ["node"] * 18 + ["run"]
    for row in rows:
        splits = [row[f"{split}_cost"] for split in ("busy", "load", "retried", "preempted", "wasted", "idle")]
        assert row["cost"] == "" if "t4" in row["key"] else sum(map(Decimal, splits)) == Decimal(row["cost"])
    assert sum(int(row["images"]) for row in rows if row["row"] == "node") == 5_000


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1"])
def test_no_name_is_a_formula_of_a_spreadsheet(store: LocalStore, name: str) -> None:
    """Node types and cards are named by whoever runs the nodes; numbers stay numbers."""
    write_run(store, 50, 5, [Cards(name, name, 1, 20.0, Decimal("0.1"))])
    ledger = report_of(store).ledger
    assert ledger is not None
    rows = list(csv.DictReader(io.StringIO(as_csv(ledger))))
    assert [row["node_type"] for row in rows] == [f"'{name}"] * 3
    assert [row["key"] for row in rows] == [f"'{name}", f"'{name}-00", "run"]
    assert Decimal(rows[0]["price_per_hour"]) == Decimal("0.1")


def run_command(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.lengthy
def test_the_command_writes_into_the_run_or_where_it_is_told(store: LocalStore, tmp_path: Path) -> None:
    """HTML into the run by default; --out elsewhere; the others to standard output."""
    write_run(store, 50, 5, ONE_TYPE)
    assert run_command("report", store.root, "--pictures", "0").strip() == f"{store.root}/report.html"
    assert store.read("report.html").startswith(b"<!doctype html>")
    assert json.loads(run_command("report", store.root, "--json"))["counts"]["tagged"] == 50
    assert run_command("report", store.root, "--csv").startswith("row,key,node_type,card,")
    assert "## Where time goes" in run_command("report", store.root, "--md")
    run_command("report", store.root, "--json", "--out", str(tmp_path / "r.json"))
    assert json.loads((tmp_path / "r.json").read_text())["run"] == store.root


def test_own_prices_are_reckoned_with(store: LocalStore, tmp_path: Path) -> None:
    """--prices replaces what was noted when nodes joined."""
    write_run(store, 50, 5, ONE_TYPE)
    noted = json.loads(run_command("report", store.root, "--json"))["cost"]["run"]["cost"]
    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: USD\nprices:\n  - {card: T4, per_hour: 5.0}\n")
    own = json.loads(run_command("report", store.root, "--json", "--prices", str(prices)))["cost"]["run"]["cost"]
    assert Decimal(own) == pytest.approx(10 * Decimal(noted))


def test_bad_arguments_are_refused(store: LocalStore, tmp_path: Path) -> None:
    """Two forms at once, a run that is none, a file that cannot be written."""
    write_run(store, 5, 1, ONE_TYPE)
    assert CliRunner().invoke(app, ["report", store.root, "--json", "--csv"]).exit_code == 2
    with pytest.raises(InputError, match=r"there is no run\.json"):
        run_command("report", str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="cannot be written"):
        run_command("report", store.root, "--md", "--out", str(tmp_path / "no" / "r.md"))


@pytest.mark.lengthy
def test_marks_are_put_together_where_they_would_overlap(store: LocalStore) -> None:
    """Hundreds of nodes that join at once are one mark with their number."""
    fleet = (Cards("t4", "T4", 300, 10.0, Decimal("0.1")),)
    write_run(store, 30_000, 3_000, fleet)
    view = views.throughput_chart(report_of(store))
    assert view is not None
    assert [(mark.label, mark.how_many) for mark in view.marks] == [("300 nodes joined", [300])]
    assert START_S > 0
    assert len(vocabulary(5)) == 5
