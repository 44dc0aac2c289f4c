"""A quote held against the run that it was made for."""

import json
from copy import deepcopy
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from committed_run import commit_all, plan_run
from loads import RAM_PLUS
from synthetic_run import LOAD_S, Cards, write_run
from typer.testing import CliRunner

from jobs.main import app
from pipeline.cards.profiles import load_profiles
from pipeline.costs.price_files import load_prices
from pipeline.errors import ConfigError
from pipeline.finalize import finalize
from pipeline.finished_run import FinishedRun
from pipeline.quoting.answer import Wish
from pipeline.quoting.fleet_file import parse_fleet
from pipeline.quoting.quote import make_quote
from pipeline.quoting.rentals import open_market
from pipeline.quoting.saved_quote import SavedQuote, keep_quote, parse_quote
from pipeline.quoting.simulate import Job
from pipeline.quoting.words import quote_document
from pipeline.report.document import Options, as_dict, make_report
from pipeline.report.exports import as_markdown
from pipeline.report.page import render
from pipeline.report.predicted import Predicted
from pipeline.stores.local_store import LocalStore

IMAGES = 60_000
FLEET = (Cards("a100", "A100", 2, 100.0, Decimal("1.20")), Cards("t4-spot", "T4", 4, 10.0, Decimal("0.30")))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path / "run")
    write_run(made, IMAGES, IMAGES // 10, FLEET)
    return made


def quote_of(tmp_path: Path, **speeds: float) -> dict[str, Any]:
    """The JSON of a quote for the very nodes of FLEET, which are there from the first second."""
    nodes = [
        {"name": cards.node_type, "card": cards.card, "vram_gib": 40 if cards.card == "A100" else 16,
         "least_nodes": cards.nodes, "most_nodes": cards.nodes, "startup_minutes": 0,
         "images_per_s": speeds.get(cards.card, cards.rate)}
        for cards in FLEET
    ]  # fmt: skip
    assumptions = {"load_seconds": LOAD_S, "run_seconds": 0, "node_spread": 0, "straggler_share": 0}
    fleet = parse_fleet(json.dumps({"nodes": nodes, "assumptions": assumptions}), "fleet")
    prices = tmp_path / "prices.yaml"
    prices.write_text("".join(f"{cards.card}: {cards.price} $/h\n" for cards in FLEET))
    market = open_market(fleet, load_prices([str(prices)]), load_profiles(), RAM_PLUS)
    quote = make_quote(Wish(IMAGES), market, Job(IMAGES, image_bytes=100_000, pixel_bytes=442_368))
    document: dict[str, Any] = json.loads(json.dumps(quote_document(quote)))
    return document


def held_against(store: LocalStore, quote: dict[str, Any]) -> Predicted:
    found = make_report(FinishedRun(store), Options(pictures=0, quote=parse(quote))).predicted
    assert found is not None
    return found


def parse(quote: dict[str, Any]) -> SavedQuote:
    return parse_quote(json.dumps(quote).encode(), "quote=q.json")


@pytest.mark.lengthy
def test_a_quote_of_the_same_nodes_agrees(store: LocalStore, tmp_path: Path) -> None:
    """Every kind is found again, with the rate that it was quoted with; time and cost are near."""
    found = held_against(store, quote_of(tmp_path))
    assert [(kind.name, kind.quoted_nodes, kind.nodes) for kind in found.kinds] == [("a100", 2, 2), ("t4-spot", 4, 4)]
    assert [kind.rate for kind in found.kinds] == pytest.approx([100, 10], rel=0.03)
    assert [kind.share for kind in found.kinds] == pytest.approx([kind.quoted_share for kind in found.kinds], abs=0.05)
    assert [figure.name for figure in found.figures] == ["time", "cost", "images/s", "images for the money"]
    assert all(abs(figure.off) < 0.1 for figure in found.figures if figure.off is not None)
    assert found.others == ()


def test_what_came_out_otherwise_is_outside(store: LocalStore, tmp_path: Path) -> None:
    """A card that was quoted with half its speed: the run is faster than four of five simulated ones."""
    found = held_against(store, quote_of(tmp_path, A100=50.0))
    time = found.figures[0]
    assert time.name == "time"
    assert time.is_within is False
    assert time.off == pytest.approx(-0.45, abs=0.1)


@pytest.mark.lengthy
@pytest.mark.parametrize(("low", "high", "is_within"), [(1, 270, False), (280, 999, False), (1, 999, True)])
def test_within_is_between_the_simulated_runs(
    store: LocalStore, tmp_path: Path, low: float, high: float, is_within: bool
) -> None:
    """The run took 276 s."""
    quote = quote_of(tmp_path)
    quote["simulated"]["seconds"] |= {"p10": low, "p50": (low + high) / 2, "p90": high}
    assert held_against(store, quote).figures[0].is_within is is_within


@pytest.mark.lengthy
def test_of_another_number_of_images_only_rates_are_compared(store: LocalStore, tmp_path: Path) -> None:
    """What a run of 60,000 took says nothing of one of 120,000."""
    quote = quote_of(tmp_path)
    found = held_against(store, quote | {"images": 2 * IMAGES})
    assert [figure.name for figure in found.figures] == ["images/s", "images for the money"]
    assert "The quote was for 120,000 images, the run did 60,000" in " ".join(page_of(store, quote, 2 * IMAGES).split())


def page_of(store: LocalStore, quote: dict[str, Any], images: int = IMAGES) -> str:
    return render(make_report(FinishedRun(store), Options(pictures=0, quote=parse(quote | {"images": images}))))


@pytest.mark.lengthy
def test_other_currency_compares_no_money(store: LocalStore, tmp_path: Path) -> None:
    """Nothing is converted."""
    found = held_against(store, quote_of(tmp_path) | {"currency": "EUR"})
    assert [figure.name for figure in found.figures] == ["time", "images/s"]


@pytest.mark.lengthy
def test_kinds_are_told_by_name_and_else_by_card(store: LocalStore, tmp_path: Path) -> None:
    """A name that the cluster does not know is found by its card; a card that was quoted twice is not guessed."""
    quote = quote_of(tmp_path)
    quote["kinds"][0]["name"] = "the big ones"
    quote["kinds"][0]["card"] = "a100"
    assert [(kind.name, kind.nodes) for kind in held_against(store, quote).kinds] == [
        ("the big ones", 2),
        ("t4-spot", 4),
    ]
    again = deepcopy(quote)
    again["kinds"].append(quote["kinds"][0] | {"name": "more of them"})
    found = held_against(store, again)
    assert [(kind.name, kind.nodes, kind.rate is None) for kind in found.kinds] == [
        ("the big ones", 0, True),
        ("t4-spot", 4, False),
        ("more of them", 0, True),
    ]
    assert found.others == ("a100",)


@pytest.mark.lengthy
def test_the_quote_of_a_run_is_in_all_its_reports(store: LocalStore, tmp_path: Path) -> None:
    """Kept in the run folder: on the page, in the JSON and in the Markdown; without one the page says how to get it."""
    without = make_report(FinishedRun(store), Options(pictures=0))
    assert without.predicted is None
    assert "No quote is kept with this run" in render(without)
    keep_quote(store, json.dumps(quote_of(tmp_path)).encode())
    report = make_report(FinishedRun(store), Options(pictures=0))
    assert "Quote and run by kind of node" in render(report)
    assert "| t4-spot | 4 | 4 | 10 |" in as_markdown(report)
    document = as_dict(report)["predicted"]
    assert document["figures"]["time"]["off"] == pytest.approx(0, abs=0.1)
    assert document["kinds"][1]["rate"] == pytest.approx(10, rel=0.03)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": 0}, "quote=q.json: images=0: input should be greater than 0"),
        ({"currency": None}, "quote=q.json: currency=None: input should be a valid string"),
        ({"kinds": [{"name": "x"}]}, "quote=q.json: kinds.0.nodes: field required"),
        ({"simulated": {"seconds": 3}}, "quote=q.json: simulated.seconds=3:"),
    ],
)
def test_what_is_no_quote_names_the_field(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """With its value, before anything is done with it."""
    with pytest.raises(ConfigError) as caught:
        parse(quote_of(tmp_path) | change)
    assert said in str(caught.value)


def test_a_file_that_is_no_quote_stops_the_job_before_it_begins(tmp_path: Path) -> None:
    """Missing, or not JSON: nothing is written."""
    (tmp_path / "q.json").write_text("nonsense")
    for name, said in (("q.json", "not JSON"), ("none.json", "No such file")):
        command = ["tag", str(tmp_path), "--out", str(tmp_path / "run"), "--quote", str(tmp_path / name)]
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, ConfigError)
        assert said in str(result.exception)
    assert not (tmp_path / "run").exists()


@pytest.mark.lengthy
def test_finalize_writes_the_report_it_is_told_to(tmp_path: Path, tiny_bundle: Path) -> None:
    """With the run's own figures; without being told to, a page of an older state does not stay."""
    store = LocalStore(tmp_path / "run")
    commit_all(store, plan_run(store, tiny_bundle, ["a", "b", "c"]))
    finalize(store, Options(pictures=0))
    assert b"of 3; " in store.read("report.html")
    finalize(store)
    assert not store.exists("report.html")


@pytest.mark.lengthy
def test_a_quote_that_is_nearly_right_is_refused(tmp_path: Path) -> None:
    """A range upside down would call every run outside; of two kinds of one name neither can be told."""
    turned, doubled = (quote_of(tmp_path, t4=10.0) for _ in range(2))
    turned["simulated"]["seconds"] = {"p10": 900, "p50": 700, "p90": 500}
    with pytest.raises(ConfigError, match=r"simulated\.seconds: p10 900, p50 700, p90 500 are not in order"):
        parse(turned)
    doubled["kinds"] = 2 * doubled["kinds"]
    with pytest.raises(ConfigError, match=r"^quote=q\.json: several kinds are called"):
        parse(doubled)
    with pytest.raises(ConfigError, match=r"quote=q\.json: not JSON"):
        parse_quote(b"[" * 100_000, "quote=q.json")
