"""A report as CSV and as Markdown."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.costs.ledger import RUN, Ledger
from pipeline.report import cost_views, views
from pipeline.report.document import Report, row_dict

_UNSAFE = str.maketrans(
    {"\n": " ", "\r": " ", "<": "&lt;", ">": "&gt;", "&": "&amp;", **{sign: f"\\{sign}" for sign in "\\|[]*"}}
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NAMES = ("key", "node_type", "card", "currency")
_TAGS = 20


def as_csv(ledger: Ledger) -> str:
    """The cost table: a row for each node type and node, and for the run; amounts in the ledger's currency.

    A name that a spreadsheet would take for a formula has an apostrophe in front, as OWASP's "CSV Injection" advises.
    """
    rows = [
        _without_formulas({"row": kind, **row_dict(row), "currency": ledger.currency})
        for kind, part in (("type", ledger.rows_by_type), ("node", ledger.rows_by_node), (RUN, (ledger.run,)))
        for row in part
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _without_formulas(row: dict[str, Any]) -> dict[str, Any]:
    unsafe = {name: f"'{row[name]}" for name in _NAMES if row[name] is not None and row[name].startswith(_FORMULA)}
    return row | unsafe


def as_markdown(report: Report) -> str:
    """Headline figures, the next dollar, cost by node type, splits, rejects and frequent tags."""
    lines = [f"# {safe(report.root)}", ""]
    lines += markdown_table(("", "", ""), [(item.label, item.value, item.note) for item in views.headlines(report)])
    if report.next_dollar is not None:
        found = report.next_dollar
        lines += ["", "## The next dollar", "", f"**{found.bottleneck.title}.** {safe(found.brings)}", ""]
        lines += [f"- {safe(line)}" for line in found.bottleneck.evidence]
        lines += ["", f"What to do: {safe(found.bottleneck.remedy)}"]
    lines += ["", "## Cost by node type", ""]
    if report.ledger is None:
        lines.append(views.NO_TELEMETRY)
    else:
        rows = (*report.ledger.rows_by_type, report.ledger.run)
        lines += markdown_table(
            cost_views.cost_columns(report.ledger.currency), cost_views.cost_table(rows, report.ledger.currency)
        )
        unpriced = [f"- No price: {safe(line)}" for line in report.ledger.unpriced]
        lines += ["", *unpriced, *([""] if unpriced else []), "## Where time goes", ""]
        lines += markdown_table(("", *cost_views.SPLIT_NAMES), cost_views.splits_table(report.ledger))
    if report.predicted is not None:
        lines += ["", "## Predicted and actual", ""]
        lines += markdown_table(cost_views.PREDICTED_COLUMNS, cost_views.predicted_rows(report.predicted))
        lines += ["", *markdown_table(cost_views.KIND_COLUMNS, cost_views.predicted_kinds(report.predicted))]
    if report.rejects:
        lines += ["", "## Rejects", ""]
        lines += markdown_table(
            ("kind", "images", "cause"), [(k.kind, f"{k.images:,}", k.cause) for k in report.rejects]
        )
    frequent = views.frequent_tags(report.tags)[:_TAGS] if report.tags.images else []
    if frequent:
        lines += ["", "## Most frequent tags", ""]
        lines += markdown_table(("tag", "images", "share"), [(tag.tag, tag.images, tag.share_text) for tag in frequent])
    return "\n".join(lines) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; what is in the cells cannot break it."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(safe(cell) for cell in row) + " |" for row in rows]


def safe(text: str) -> str:
    """Text in Markdown: no table, link or markup comes of it."""
    return text.translate(_UNSAFE)
