"""`ramfleet explore RUN`: look at a run in the browser, on this machine."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import ReadingConfig, ReadingSettings

if TYPE_CHECKING:
    from socket import socket as Socket  # noqa: N812

    from pipeline.explore.browse import BrowserSettings
    from pipeline.finished_run import FinishedRun
    from pipeline.stores.run_store import RunStore

_MIB = 2**20


def explore(
    run: Annotated[str, typer.Argument(help="A run, finished or growing: its folder, or s3://bucket/prefix.")],
    index: Annotated[
        str | None,
        typer.Option(
            help="Its search index, made if absent.  "
            "[default: the one in the run, else index.sqlite there, or a file of --cache]"
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0: one that is free.")] = 0,
    model: Annotated[
        Path | None,
        typer.Option(help="Bundle for pictures that are dropped in.  [default: the run's own, where it had it]"),
    ] = None,
    device: Annotated[str, typer.Option(help="For the model: auto, cpu, cuda or cuda:N.")] = "auto",
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder for thumbnails, sorted scores, and indexes that have no other place.  "
            "[default: ~/.cache/ramfleet/explore]"
        ),
    ] = None,
    thumbnails_mib: Annotated[
        int, typer.Option(min=0, help="Thumbnails that are kept, in MiB; beyond it the longest unseen ones go.")
    ] = 512,
    config: ReadingConfig = None,
    overrides: ReadingSettings = None,
) -> None:
    """Serve a page with search, images and their scores, rejects, and thresholds to try; Ctrl-C ends it.

    Only this machine is answered, nothing is written to the run but its index, and no network is needed beyond what
    pictures are fetched from.
    """
    from pipeline.config import load_config
    from pipeline.explore.browse import BrowserSettings
    from pipeline.index.backend import package
    from ramcore.bundle import read_config

    for name in ("starlette", "uvicorn"):
        package(name, "explore", "`ramfleet explore`")
    from pipeline.explore.serve import listening

    reading = load_config(config, overrides or ())
    if model is not None:
        read_config(model)
    folder = _cache_folder() if cache is None else cache
    settings = BrowserSettings(folder, reading.fetch, reading.storage, model, device, thumbnails_mib * _MIB)
    with listening(port) as socket:
        _serve(run, index, socket, settings)


def _serve(run: str, index: str | None, socket: "Socket", settings: "BrowserSettings") -> None:
    """Until it is interrupted."""
    import pipeline.index
    from pipeline.explore.browse import Browser
    from pipeline.explore.committed import open_run
    from pipeline.explore.serve import serve
    from pipeline.stores.opening import open_store

    store = open_store(run)
    # Listed before the index is fed: what is committed meanwhile is news to the page.
    opened_run = open_run(store)
    place = index or _default_index(run, opened_run, settings.folder)
    renew = _renewal(store, place)
    renew()
    with (
        pipeline.index.open(place) as opened,
        pipeline.index.open(place) as for_facets,
        Browser(opened_run, opened, settings, for_facets=for_facets, renew=renew) as browser,
    ):
        serve(browser, socket, lambda address: typer.echo(f"{address}  (Ctrl-C ends it)"))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ramfleet" / "explore"


def _default_index(name: str, run: "FinishedRun", folder: Path) -> str:
    """The run's folder if an index lies in it or can be made there, else a file of the cache."""
    from pipeline.explore.cache import writing
    from pipeline.index.kinds import KINDS, default_out
    from pipeline.index.ledger import FORMAT_VERSION

    if "://" not in name:
        if any((Path(name) / f"index.{kind}").exists() for kind in KINDS if kind != "sqlite"):
            return name
        own = default_out(name, "sqlite")
        if Path(own).exists() or os.access(name, os.W_OK):
            return own
    # By its plan too: another run may come to the same place, and the file may be of another version of ramfleet.
    about = (run.root, run.document["plan_hash"], str(FORMAT_VERSION))
    known = hashlib.sha256("\0".join(about).encode()).hexdigest()
    with writing(folder):
        return str(folder / f"index-{known[:16]}.sqlite")


def _renewal(store: "RunStore", place: str) -> Callable[[], None]:
    """What brings an index up to date: an SQLite file that is absent, or holds this run and may be written."""
    from rich.console import Console

    from jobs.index import Bar
    from pipeline.errors import StoppedError
    from pipeline.index.feed import feed
    from pipeline.index.kinds import open_writer
    from pipeline.index.source import open_source

    console = Console(stderr=True, soft_wrap=True)

    def renew() -> None:
        source = open_source(store)
        if not _is_fed_here(place, source.plan_hash):
            return
        try:
            with open_writer("sqlite", place) as writer, Bar(console) as bar:
                feed(source, writer, "sqlite", None, None, False, bar.show)
        except KeyboardInterrupt:
            raise StoppedError("interrupted; run the same command again to go on") from None

    return renew


def _is_fed_here(place: str, plan_hash: str) -> bool:
    """Whether this command may write to an index; others are used as they are, `ramfleet index` feeds them."""
    from pipeline.index.kinds import about_of

    path = Path(place)
    if "://" in place or path.is_dir():
        return False
    if not path.exists():
        return True
    held = about_of(path)
    return (held is None or held["plan_hash"] == plan_hash) and all(os.access(p, os.W_OK) for p in (path, path.parent))
