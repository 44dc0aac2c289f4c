"""`ramfleet status RUN`: how far a run is, and who works on it; from its folder alone, on any machine."""

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.status import Status, Worker
    from pipeline.stores.run_store import RunStore

_WORKERS = 5
_PAUSE = 10
"""Times what a look at the run took: so much is waited before the next."""


def status(
    run: Annotated[str, typer.Argument(help="The run folder, or s3://bucket/prefix.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
    events: Annotated[
        bool, typer.Option("--events", help="The run's events instead, one JSON object a line (docs/events.md).")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on, with what is new, until nobody works on the run.")
    ] = False,
) -> None:
    """Show the progress of a run from its folder alone: chunks, images, rates, rejects, who works on it."""
    from rich.console import Console

    from pipeline.events.follow import POLL_S
    from pipeline.status import run_status
    from pipeline.stores.opening import open_store

    store = open_store(run)
    if events:
        _print_events(store, follow)
        return
    console = Console(soft_wrap=True)
    while True:
        began = time.monotonic()
        found = run_status(store)
        if as_json:
            typer.echo(json.dumps(found.as_dict(), indent=None if follow else 2, ensure_ascii=False))
        else:
            _print(console, found)
        if not (follow and found.is_at_work):
            return
        time.sleep(max(POLL_S, _PAUSE * (time.monotonic() - began)))
        if console.is_terminal and not as_json:
            console.clear()


def _print_events(store: "RunStore", follow: bool) -> None:
    from pipeline.events.follow import EventTail, follow_events
    from pipeline.status import plan_of

    plan_of(store)
    for event in follow_events(store) if follow else EventTail(store).new():
        typer.echo(json.dumps(event, ensure_ascii=False))


def _print(console: "Console", found: "Status") -> None:
    from rich.table import Table

    table = Table(title=f"{found.root}: {found.state}", title_justify="left", show_header=False)
    share = f"  ({found.images_done / found.images:.1%})" if found.images else ""
    table.add_row("images", f"{found.images_done:,} of {found.images:,}{share}")
    table.add_row("chunks", f"{found.chunks_done:,} of {found.chunks:,}")
    if found.carried:
        table.add_row("carried over", f"{found.carried:,}")
    if found.duplicates:
        table.add_row("duplicates", f"{found.duplicates:,}")
    table.add_row("rejects so far", f"{sum(found.rejects.values()):,}")
    for kind, number in found.rejects.items():
        table.add_row(f"  {kind}", f"{number:,}")
    if found.rate is not None:
        recent = "" if found.recent_rate is None else f"; {found.recent_rate:,.1f} in the last 10 minutes of work"
        table.add_row("images/s", f"{found.rate:,.1f} from the first commit to the last{recent}")
    if found.last_commit_at is not None:
        table.add_row("last commit", _at(found.last_commit_at))
    if found.left_s is not None:
        table.add_row("time left", f"about {found.left_s / 60:,.0f} min")
    for worker in found.workers[:_WORKERS]:
        table.add_row("at work" if worker.at_work else "worked", _worker(worker))
    console.print(table)


def _worker(worker: "Worker") -> str:
    where = f"{worker.command} on {worker.host}, process {worker.pid}" if worker.host else worker.session
    replicas = f", {len(worker.replicas)} replica(s)" if worker.at_work else ""
    ended = "" if worker.ended or worker.at_work else ", ended without a word"
    return f"{where}: {worker.committed} chunks{replicas}, last heard of {_at(worker.last_event_at)}{ended}"


def _at(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
