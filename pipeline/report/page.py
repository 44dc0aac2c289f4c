"""A report as one HTML page that needs nothing else: no script, no font, no network."""

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.finished_run import REPORT, FinishedRun
from pipeline.report import cost_views, views
from pipeline.report.document import Options, Report, make_report
from pipeline.report.numbers import duration, money, plain, share


def fill(template: str, **values: Any) -> str:
    """A page from its template. Names, uris and messages of a run are shown as they are, never taken for HTML."""
    loader = PackageLoader("pipeline.report", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"duration": duration, "plain": plain, "share": share, "json": _json, "code": _code}
    source, _, _ = loader.get_source(environment, "report.css")
    return environment.get_template(template).render(css=Markup(source), **values)


def render(report: Report) -> str:
    """The page."""
    return fill("report.html.j2", r=report, v=views, c=cost_views, money=money, **_shown(report))


def write_report(run: FinishedRun, options: Options | None = None) -> str:
    """Put the page into the run folder; its path or URL."""
    run.store.replace(REPORT, render(make_report(run, options)).encode())
    return f"{run.root}/{REPORT}"


def _code(text: str) -> Markup:
    """Text with `commands` in it."""
    parts = [
        Markup("<code>{}</code>" if number % 2 else "{}").format(part) for number, part in enumerate(text.split("`"))
    ]
    return Markup("").join(parts)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shown(report: Report) -> dict[str, Any]:
    """What the template shows more than once, or only where there is something to show."""
    ledger = report.ledger
    return {
        "headlines": views.headlines(report),
        "rate_chart": None if ledger is None else cost_views.rate_chart(report, ledger),
        "money_chart": None if ledger is None else cost_views.money_chart(ledger),
        "splits_chart": None if ledger is None else cost_views.splits_chart(ledger),
        "throughput": views.throughput_chart(report),
        "latency_chart": views.latency_chart(report.attempts),
        "score_chart": views.score_chart(report.tags),
        "tags_per_image_chart": views.tags_per_image_chart(report.tags),
    }
