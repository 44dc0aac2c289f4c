"""`ramfleet index RUN --to KIND`: a run's tags as a search index; again: what has changed since."""

import time
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


_LINE_EVERY_S = 10.0


class Kind(StrEnum):
    """Kinds of index."""

    sqlite = "sqlite"
    duckdb = "duckdb"
    tantivy = "tantivy"
    lance = "lance"
    postgres = "postgres"
    opensearch = "opensearch"


def index(
    run: Annotated[str, typer.Argument(help="A run, finished or growing: its folder, or s3://bucket/prefix.")],
    to: Annotated[Kind, typer.Option(help="Kind of index.")] = Kind.sqlite,
    out: Annotated[
        str | None,
        typer.Option(help="File, folder or address of the index.  [default: index.KIND in the run's folder]"),
    ] = None,
    synonyms: Annotated[
        Path | None, typer.Option(help="CSV name,tag: further names.  [default: those the index has]")
    ] = None,
    hierarchy: Annotated[
        Path | None,
        typer.Option(help="CSV tag,parent: who asks for a parent also finds the tag.  [default: that of the index]"),
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="opensearch: send what is new to http(s)://HOST:PORT/INDEX as well.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also if the index holds another run, whose images go then.")
    ] = False,
) -> None:
    """Make a search index of a run, or bring it up to date: only new and changed images are written.

    Images that the run does not have (any more) leave the index; so an index can follow runs made with --base.
    """
    from rich.console import Console

    from pipeline.errors import StoppedError
    from pipeline.fetching.redaction import without_credentials
    from pipeline.index.feed import feed
    from pipeline.index.kinds import default_out, open_writer
    from pipeline.index.opensearch_index import push as send
    from pipeline.index.source import open_source
    from pipeline.stores.opening import open_store

    if push is not None and to is not Kind.opensearch:
        raise typer.BadParameter("--push is for --to opensearch")
    source = open_source(open_store(run))
    place = out or default_out(run, to.value)
    console = Console(stderr=True, soft_wrap=True)
    try:
        with open_writer(to.value, place) as writer, Bar(console) as bar:
            fed = feed(source, writer, to.value, synonyms, hierarchy, replace, bar.show)
            if push is not None:
                send(Path(place), push, writer.ledger)
    except KeyboardInterrupt:
        raise StoppedError("interrupted; run the same command again to go on") from None
    counts = f"{fed.new:,} new, {fed.changed:,} changed, {fed.removed:,} removed"
    rate = fed.seen / max(bar.elapsed_s, 1e-9)
    typer.echo(f"{without_credentials(place)}: {fed.documents:,} images; {counts} ({rate:,.0f} images/s)")


class Bar:
    """A bar on a terminal, a line every ten seconds elsewhere, on standard error."""

    def __init__(self, console: "Console") -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._console = console
        self._bar = Progress(
            TextColumn("[bold]indexing"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("indexing", total=None, rate="")
        self._started = time.monotonic()
        self._line_at = self._started + _LINE_EVERY_S

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the feed began."""
        return time.monotonic() - self._started

    def show(self, done: int, total: int) -> None:
        """Draw: so many images of so many are in the index."""
        rate = f"{done / max(self.elapsed_s, 1e-9):,.0f} images/s"
        self._bar.update(self._task, completed=done, total=total, rate=rate)
        if not self._console.is_terminal and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + _LINE_EVERY_S
            self._console.print(f"{done:,} of {total:,} images, {rate}", highlight=False)
