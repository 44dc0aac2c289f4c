"""`ramfleet model pull NAME`: released weights to a bundle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer


def pull(
    name: Annotated[str, typer.Argument(help="ram_plus, ram, tag2text, or clip (text model for open tags).")],
    out: Annotated[Path | None, typer.Option(help="New folder.  [default: NAME]")] = None,
    lists: Annotated[
        Path | None, typer.Option(help="Folder with the released tag lists.  [default: they are fetched]")
    ] = None,
) -> None:
    """Fetch released weights and tag lists and make a bundle of them; run it again after an interruption."""
    from pipeline import hub

    target = out or Path(name)
    if name == "clip":
        typer.echo(f"{hub.pull_text_model(target)}: text model, for --text-model")
        return
    if name not in hub.RELEASES:
        raise typer.BadParameter(f"{name!r}: give {', '.join(hub.RELEASES)} or clip")
    with _progress_bar(name) as progress:
        pulled = hub.pull(hub.RELEASES[name], target, lists, progress=progress)
    typer.echo(f"{pulled.bundle}: {hub.RELEASES[name].checkpoint.repo} at {pulled.revision}")
    for file, checksum in pulled.sha256.items():
        typer.echo(f"  {checksum}  {file}")


@contextmanager
def _progress_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, where that is a terminal; it begins where an earlier pull stopped."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, size: bar.update(task, completed=done, total=size)
