"""`ramfleet compare A B`: tag drift, throughput and cost between two finished runs."""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import ReadingConfig, ReadingSettings
from jobs.report import write_local

if TYPE_CHECKING:
    from pipeline.report.compare import Comparison

_TAGS = 20
_IMAGES = 10
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What would move the cursor or break a line; manifests may have it in ids, vocabularies have it not."""
_Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, head, rows."""


class Form(StrEnum):
    """What a comparison is written as."""

    terminal = "terminal"
    json = "json"
    md = "md"
    html = "html"


def compare(
    run_a: Annotated[str, typer.Argument(help="A finished run: its folder, or s3://bucket/prefix.")],
    run_b: Annotated[str, typer.Argument(help="The run that it is compared with.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="All figures and tags, and the 100 images that changed most, as JSON.")
    ] = False,
    as_md: Annotated[bool, typer.Option("--md", help="Markdown instead of a table for the terminal.")] = False,
    as_html: Annotated[bool, typer.Option("--html", help="A page without scripts; needs --out.")] = False,
    out: Annotated[Path | None, typer.Option(help="A local file for --json, --md or --html.")] = None,
    prices: Annotated[
        list[str] | None,
        typer.Option(help="File of prices to reckon both with, instead of those noted as nodes joined."),
    ] = None,
    tags: Annotated[int, typer.Option(min=0, help="So many tags of each table, marked ones first.")] = _TAGS,
    images: Annotated[
        int, typer.Option(min=0, max=100, help="So many of the images that changed most; with --html their pictures.")
    ] = _IMAGES,
    config: ReadingConfig = None,
    overrides: ReadingSettings = None,
) -> None:
    """Compare two finished runs: figures and cost, how far they agree on common images, which tags drifted.

    Tags that appeared, vanished or changed rate come with confidence intervals, and the images that changed most.
    """
    from pipeline.config import load_config
    from pipeline.costs.price_files import load_prices
    from pipeline.finished_run import FinishedRun
    from pipeline.report.compare import as_dict, compare_runs
    from pipeline.report.compare_page import render_comparison
    from pipeline.stores.opening import open_store

    form = _form(as_json, as_md, as_html, out)
    settings = load_config(config, overrides or ())
    a, b = (FinishedRun(open_store(run)) for run in (run_a, run_b))
    found = compare_runs(a, b, load_prices(prices) if prices else None)
    match form:
        case Form.terminal:
            _print(found, tags, images)
            return
        case Form.json:
            text = json.dumps(as_dict(found), indent=2, ensure_ascii=False) + "\n"
        case Form.md:
            text = _markdown(found, tags, images)
        case Form.html:
            text = render_comparison(found, tags, images, settings.fetch, settings.storage)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_local(out, text)


def _form(as_json: bool, as_md: bool, as_html: bool, out: Path | None) -> Form:
    chosen = [form for form, given in ((Form.json, as_json), (Form.md, as_md), (Form.html, as_html)) if given]
    if len(chosen) > 1:
        raise typer.BadParameter(f"give one of {', '.join(f'--{form}' for form in chosen)}, not several")
    if out is not None and not chosen:
        raise typer.BadParameter("--out needs --json, --md or --html")
    if out is None and chosen == [Form.html]:
        raise typer.BadParameter("--html needs --out FILE.html")
    return chosen[0] if chosen else Form.terminal


def _print(found: "Comparison", tags: int, images: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pipeline.report.compare import closing_lines

    console = Console()
    console.print(f"A  {found.a.root}\nB  {found.b.root}", markup=False, highlight=False)
    for title, head, rows in _tables(found, tags, images):
        table = Table(*head, title=title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "left" if column.header in ("gained tags", "lost tags") else "right"
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
    for line in closing_lines(found.drift):
        console.print(line, markup=False, highlight=False)


def _markdown(found: "Comparison", tags: int, images: int) -> str:
    from pipeline.report.compare import closing_lines
    from pipeline.report.exports import markdown_table, safe

    lines = ["# Two runs", ""]
    lines += markdown_table(("", "run"), [("A", found.a.root), ("B", found.b.root)])
    for title, head, rows in _tables(found, tags, images):
        lines += ["", f"## {title}", "", *markdown_table(head, rows)]
    for line in closing_lines(found.drift):
        lines += ["", safe(line)]
    return "\n".join(lines) + "\n"


def _tables(found: "Comparison", tags: int, images: int) -> list[_Table]:
    from pipeline.report.compare import DRIFT_COLUMNS, drift_tables, figure_rows

    tables: list[_Table] = [("Figures", ("", "A", "B", "change"), [*figure_rows(found)])]
    tables += [(title, DRIFT_COLUMNS, rows) for title, rows in drift_tables(found.drift, tags) if rows]
    changed: list[tuple[str, ...]] = [
        (_CONTROL.sub("�", image.image_id), ", ".join(image.gained), ", ".join(image.lost), f"{image.score_change:.3f}")
        for image in found.drift.changed[:images]
    ]
    if changed:
        tables.append(("Images that changed most", ("id", "gained tags", "lost tags", "scores moved"), changed))
    return tables
