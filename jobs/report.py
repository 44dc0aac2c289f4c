"""`ramfleet report RUN`: what a finished run did and cost, as a page, JSON, CSV or Markdown."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import ReadingConfig, ReadingSettings

if TYPE_CHECKING:
    from pipeline.finished_run import FinishedRun
    from pipeline.report.document import Options, Report


class Form(StrEnum):
    """What a report is written as."""

    html = "html"
    json = "json"
    csv = "csv"
    md = "md"


def report(
    run: Annotated[str, typer.Argument(help="A finished run: its folder, or s3://bucket/prefix.")],
    as_json: Annotated[bool, typer.Option("--json", help="All figures as one JSON object.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="The cost table: node types, nodes, the run.")] = False,
    as_md: Annotated[bool, typer.Option("--md", help="The main tables as Markdown.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A local file.  [default: report.html in the run; standard output for --json, --csv, --md]"),
    ] = None,
    prices: Annotated[
        list[str] | None,
        typer.Option(help="File of prices to reckon with, instead of those noted as nodes joined; may be repeated."),
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, max=500, help="Tagged images that are shown; 0 reads none.")] = 24,
    pictures_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for reading all of them again from where they are.")
    ] = 10.0,
    quote: Annotated[
        Path | None, typer.Option(help="What `ramfleet quote --json` wrote, to be held against the run.")
    ] = None,
    config: ReadingConfig = None,
    overrides: ReadingSettings = None,
) -> None:
    """Write the report of a finished run: report.html, a page that needs no network and no script.

    A local picture is shown if it still is what was tagged; others are fetched as `ramfleet tag` would.
    """
    from pipeline.config import load_config
    from pipeline.costs.price_files import load_prices
    from pipeline.finished_run import FinishedRun
    from pipeline.quoting.saved_quote import read_quote_file
    from pipeline.report.document import Options, make_report
    from pipeline.stores.opening import open_store

    form = _form(as_json, as_csv, as_md)
    settings = load_config(config, overrides or ())
    paths = (*settings.prices, *(prices or ()))
    finished = FinishedRun(open_store(run))
    options = Options(
        prices=load_prices(paths) if paths else None,
        fetch=settings.fetch,
        storage=settings.storage,
        pictures=pictures if form is Form.html else 0,
        pictures_timeout_s=pictures_timeout,
        quote=None if quote is None else read_quote_file(quote)[0],
    )
    if form is Form.html and out is None:
        _put_page(run, finished, options)
    else:
        _deliver(_text(make_report(finished, options), form), out)


def _form(as_json: bool, as_csv: bool, as_md: bool) -> Form:
    chosen = [form for form, given in ((Form.json, as_json), (Form.csv, as_csv), (Form.md, as_md)) if given]
    if len(chosen) > 1:
        raise typer.BadParameter(f"give one of {', '.join(f'--{form}' for form in chosen)}, not several")
    return chosen[0] if chosen else Form.html


def _put_page(run: str, finished: "FinishedRun", options: "Options") -> None:
    """report.html into the run; the error of a run that cannot be written to says how to write it elsewhere."""
    from pipeline.errors import StoreError
    from pipeline.report.page import write_report

    try:
        typer.echo(write_report(finished, options))
    except StoreError as error:
        raise type(error)(f"{error}; `ramfleet report {run} --out FILE.html` writes it elsewhere") from error


def _deliver(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_local(out, text)


def _text(made: "Report", form: Form) -> str:
    import json

    from pipeline.errors import InputError
    from pipeline.report.document import as_dict
    from pipeline.report.exports import as_csv, as_markdown
    from pipeline.report.page import render

    if form is Form.html:
        return render(made)
    if form is Form.json:
        return json.dumps(as_dict(made), indent=2, ensure_ascii=False) + "\n"
    if form is Form.md:
        return as_markdown(made)
    if made.ledger is None:
        raise InputError(
            f"{made.root}: no attempt was recorded, so there are no costs for --csv; report the run it is from"
        )
    return as_csv(made.ledger)


def write_local(path: Path, text: str) -> None:
    """Write a file, and say where. Raises InputError if that cannot be."""
    from pipeline.errors import InputError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written: {error.strerror}") from error
    typer.echo(str(path))
