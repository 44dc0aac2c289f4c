"""`ramfleet explore RUN`: look at a finished run in the browser, on this machine."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.stores.run_store import RunStore


def explore(
    run: Annotated[str, typer.Argument(help="A finished run: its folder, or s3://bucket/prefix.")],
    index: Annotated[
        str | None,
        typer.Option(help="Its search index, made if absent.  [default: the one in the run, else index.sqlite there]"),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0: one that is free.")] = 0,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for thumbnails and sorted scores.  [default: ~/.cache/ramfleet/explore]"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file; its fetch and storage sections say how pictures are read.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value of fetch and storage; may be repeated.")
    ] = None,
) -> None:
    """Serve a page with search, images and their scores, rejects, and thresholds to try; Ctrl-C ends it.

    Only this machine is answered, nothing is written to the run but an index if it has none, and no network is
    needed beyond what pictures are fetched from.
    """
    import pipeline.index
    from pipeline.config import load_config
    from pipeline.explore.browse import Browser
    from pipeline.finished_run import FinishedRun
    from pipeline.index.backend import package
    from pipeline.stores.opening import open_store

    for name in ("starlette", "uvicorn"):
        package(name, "explore", "`ramfleet explore`")
    from pipeline.explore.serve import serve

    settings = load_config(config, overrides or ())
    store = open_store(run)
    finished = FinishedRun(store)
    folder = _cache_folder() if cache is None else cache
    place = index or _default_index(run, folder)
    _make_if_absent(store, place)
    with (
        pipeline.index.open(place) as opened,
        Browser(finished, opened, folder, settings.fetch, settings.storage) as browser,
    ):
        serve(browser, port, lambda address: typer.echo(f"{address}  (Ctrl-C ends it)"))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ramfleet" / "explore"


def _default_index(run: str, folder: Path) -> str:
    """The run's folder if an index lies in it; of a run in a bucket, a file of the cache."""
    from pipeline.index.kinds import KINDS, default_out

    if "://" in run:
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder / f"index-{hashlib.sha256(run.encode()).hexdigest()[:16]}.sqlite")
    has_one = any((Path(run) / f"index.{kind}").exists() for kind in KINDS)
    return run if has_one else default_out(run, "sqlite")


def _make_if_absent(store: "RunStore", place: str) -> None:
    from rich.console import Console

    from jobs.index import Bar
    from pipeline.errors import StoppedError
    from pipeline.index.feed import feed
    from pipeline.index.kinds import open_writer
    from pipeline.index.source import open_source

    if "://" in place or Path(place).exists():
        return
    console = Console(stderr=True, soft_wrap=True)
    try:
        with open_writer("sqlite", place) as writer, Bar(console) as bar:
            feed(open_source(store), writer, "sqlite", None, None, False, bar.show)
    except KeyboardInterrupt:
        raise StoppedError("interrupted; run the same command again to go on") from None
