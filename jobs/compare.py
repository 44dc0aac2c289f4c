"""`ramfleet compare A B`: tag drift, throughput and cost between two finished runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.report import write_local

if TYPE_CHECKING:
    from pipeline.report.compare import Comparison

_TAGS = 20


def compare(
    run_a: Annotated[str, typer.Argument(help="A finished run: its folder, or s3://bucket/prefix.")],
    run_b: Annotated[str, typer.Argument(help="The run that it is compared with.")],
    as_json: Annotated[bool, typer.Option("--json", help="All figures and tags as one JSON object.")] = False,
    as_md: Annotated[bool, typer.Option("--md", help="Markdown instead of a table for the terminal.")] = False,
    out: Annotated[Path | None, typer.Option(help="A local file for --json or --md.")] = None,
    prices: Annotated[
        list[str] | None,
        typer.Option(help="File of prices to reckon both with, instead of those noted as nodes joined."),
    ] = None,
    tags: Annotated[int, typer.Option(min=0, help="So many tags, those whose share changed most.")] = _TAGS,
) -> None:
    """Compare two finished runs: figures and cost, how far they agree on common images, which tags drifted."""
    from pipeline.costs.price_files import load_prices
    from pipeline.finished_run import FinishedRun
    from pipeline.report.compare import as_dict, compare_runs
    from pipeline.stores.opening import open_store

    if as_json and as_md:
        raise typer.BadParameter("give one of --json, --md, not both")
    if out is not None and not (as_json or as_md):
        raise typer.BadParameter("--out needs --json or --md")
    a, b = (FinishedRun(open_store(run)) for run in (run_a, run_b))
    found = compare_runs(a, b, load_prices(prices) if prices else None)
    if not (as_json or as_md):
        _print(found, tags)
        return
    text = json.dumps(as_dict(found), indent=2, ensure_ascii=False) + "\n" if as_json else _markdown(found, tags)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_local(out, text)


def _print(found: "Comparison", tags: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    console.print(f"A  {found.a.root}\nB  {found.b.root}", markup=False, highlight=False)
    for title, head, rows in _tables(found, tags):
        table = Table(*head, title=title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
    console.print(_agreement(found), markup=False, highlight=False)


def _markdown(found: "Comparison", tags: int) -> str:
    from pipeline.report.exports import markdown_table

    lines = ["# Two runs", ""]
    lines += markdown_table(("", "run"), [("A", found.a.root), ("B", found.b.root)])
    for title, head, rows in _tables(found, tags):
        lines += ["", f"## {title}", "", *markdown_table(head, rows)]
    return "\n".join([*lines, "", _agreement(found)]) + "\n"


def _tables(found: "Comparison", tags: int) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    from pipeline.report.compare import figure_rows
    from pipeline.report.numbers import share

    drifted = [shift for shift in found.shifts if shift.change or shift.gained or shift.lost][:tags]
    drift: list[tuple[str, ...]] = [
        (s.tag, share(s.share_a), share(s.share_b), f"{100 * s.change:+.2f}", f"{s.gained:,}", f"{s.lost:,}")
        for s in drifted
    ]
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = [
        ("Figures", ("", "A", "B", "change"), [*figure_rows(found)])
    ]
    if drift:
        head = ("tag", "of images in A", "in B", "points", "gained", "lost")
        tables.append(("Tags that changed most", head, drift))
    return tables


def _agreement(found: "Comparison") -> str:
    from pipeline.report.numbers import share

    agreement = found.agreement
    if not agreement.images or agreement.mean_overlap is None:
        return "The two runs have no tagged image in common."
    every = "" if agreement.every == 1 else f" (one in {agreement.every} was compared)"
    return (
        f"{agreement.images:,} images in both{every}: {share(agreement.same / agreement.images)} with the same tags; "
        f"{share(agreement.mean_overlap)} of the tags of an image are the same on average."
    )
