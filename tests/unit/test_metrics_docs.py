"""What is written about metrics and events is what the code does: the dashboard, and the places that write events."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.events.kinds import EVENTS
from pipeline.metrics import kinds
from pipeline.metrics.kinds import METRICS, RAY_PREFIX, RUN

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "infra/grafana/ramfleet.json").read_text(encoding="utf-8"))
_CALCULATED_FIELDS = {"node_joined", "sample"}
"""Events that are written with `**fields`: their fields are compared with what really comes of that elsewhere."""


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_names_follow_the_rules_of_prometheus(metric: kinds.Metric) -> None:
    """A prefix, base units, counters and only they end in _total; every event that feeds it exists."""
    assert re.fullmatch(r"ramfleet_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    base = metric.name.removesuffix("_total")
    assert {"s": "_seconds", "By": "_bytes", "W": "_watts", "1": "_ratio"}.get(metric.unit, "") in base
    assert set(metric.events) <= EVENTS.keys()
    assert "|" not in metric.meaning
    assert RUN not in metric.labels


# ---- events ----


def written() -> list[tuple[str, str, set[str], bool]]:
    """(module, event, fields, whether there are more) of every call `log.write("event", field=…)` in the code."""
    found = []
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if _writes_event(node):
                assert isinstance(node, ast.Call)
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{path}: the name of an event is to be written out"
                fields = {keyword.arg for keyword in node.keywords if keyword.arg}
                more = any(keyword.arg is None for keyword in node.keywords)
                found.append((path.stem, str(name.value), fields, more))
    return found


def _writes_event(node: ast.AST) -> bool:
    """Whether it is a call of `write` on something named log or _log, as EventLogs are."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "write"):
        return False
    log = node.func.value
    return (log.attr if isinstance(log, ast.Attribute) else getattr(log, "id", "")) in ("log", "_log") and not (
        node.args and isinstance(node.args[0], ast.BinOp)  # the line that an EventLog itself writes
    )


@pytest.mark.lengthy
def test_the_code_writes_the_events_of_the_table_and_no_others() -> None:
    """In both directions."""
    assert {event for _, event, _, _ in written()} == EVENTS.keys()


@pytest.mark.parametrize("call", written(), ids=lambda call: f"{call[0]}-{call[1]}")
def test_events_are_written_with_the_fields_of_the_table(call: tuple[str, str, set[str], bool]) -> None:
    """All of them and no others."""
    _, event, fields, more = call
    assert more == (event in _CALCULATED_FIELDS)
    assert fields <= EVENTS[event].fields.keys() if more else fields == EVENTS[event].fields.keys()


# ---- the dashboard ----


def expressions() -> list[tuple[str, str]]:
    """(panel, PromQL) of every query of the dashboard."""
    return [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def variables() -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_the_dashboard_asks_for_metrics_and_labels_that_exist(title: str, expression: str) -> None:
    """Each selector names a metric, with the run and labels of its own; results are grouped by labels that it has."""
    selectors = re.findall(r"\$\{prefix\}(\w+)\{([^}]*)\}", expression)
    names = re.findall(r"ramfleet_\w+", expression)
    assert [name for name, _ in selectors] == names
    assert names
    for name, matchers in selectors:
        labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
        assert labels[0] == RUN
        assert set(labels[1:]) <= set(METRICS[name].labels)
    common = set.intersection(*(set(METRICS[name].labels) for name in names)) if "/" not in expression else set()
    grouped = {label for group in re.findall(r" by \(([^)]*)\)", expression) for label in group.split(", ")}
    assert grouped <= (common or {label for name in names for label in METRICS[name].labels})


def test_legends_name_labels_that_are_grouped_by() -> None:
    """A label that was summed away would be empty in the legend."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = {label for group in re.findall(r" by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
            assert shown == grouped, panel["title"]


def test_the_dashboard_shows_what_a_run_is_watched_for() -> None:
    """Speed, progress, rejects, replicas, losses, money, use of the machines: every such metric is on some panel."""
    used = {name for _, expression in expressions() for name in re.findall(r"ramfleet_\w+", expression)}
    left_out = {"ramfleet_chunks_taken_over_total", "ramfleet_memory_exhausted_total", "ramfleet_card_faults_total"}
    assert METRICS.keys() - used <= left_out | {"ramfleet_node_seconds_total", "ramfleet_spilled_bytes_total"}


def test_the_dashboard_can_be_imported_anywhere() -> None:
    """Its data source is a variable, panels have ids of their own and do not overlap, the prefix is Ray's."""
    sources = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    assert sources == {"${datasource}"}
    assert variables()["datasource"]["type"] == "datasource"
    assert variables()["prefix"]["current"]["value"] == RAY_PREFIX
    assert f"ramfleet_images_planned, {RUN})" in variables()["run"]["query"]["query"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
