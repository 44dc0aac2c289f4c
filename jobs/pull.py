"""`ramfleet model pull NAME`: released weights to a bundle."""

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
    pulled = hub.pull(hub.RELEASES[name], target, lists)
    typer.echo(f"{pulled.bundle}: {hub.RELEASES[name].repo} at {pulled.revision}")
    for file, checksum in pulled.sha256.items():
        typer.echo(f"  {checksum}  {file}")
