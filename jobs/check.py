"""`ramfleet model check BUNDLE`: the parity gate."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from ramcore.parity import Parity
    from ramcore.tagger import Tagger


def check(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    backend: Annotated[
        list[str], typer.Option(help="fp32, bf16, fp16, each also as fp32-compiled; repeatable.  [default: by device]")
    ] = [],  # noqa: B006
    pictures: Annotated[
        list[Path], typer.Option(help="Picture to compare on; repeatable.  [default: four built-in ones]")
    ] = [],  # noqa: B006
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare each backend with float64 on the same weights; exit code 1 where one is beyond its bound."""
    import numpy as np

    import ramcore
    from ramcore.parity import builtin_pixels, check_parity, default_backends

    try:
        tagger = ramcore.load(bundle, device=device, dtype="fp32")
        chosen = [_pixels(tagger, picture) for picture in pictures]
        pixels = np.stack(chosen) if chosen else builtin_pixels(tagger.config.image_size)
        results = check_parity(tagger, backend or default_backends(tagger.device), pixels)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        typer.echo(json.dumps([result.to_dict() for result in results], indent=2))
    else:
        from rich.console import Console

        Console().print(_table(results, len(pixels)))
    if not all(result.within_bound for result in results):
        raise typer.Exit(1)


def _pixels(tagger: "Tagger", picture: Path) -> "NDArray[np.uint8]":
    from ramcore.errors import ImageError

    try:
        return tagger.pixels(picture)
    except ImageError as error:
        raise typer.BadParameter(f"{picture}: {error}") from error


def _table(results: "list[Parity]", pictures: int) -> "Table":
    from rich.table import Table

    table = Table(title=f"Difference from float64 on {pictures} pictures")
    for column in ("backend", "device", "max error", "bound", "mean error", "bound", "flips", "F1", "verdict"):
        table.add_column(column)
    for result in results:
        bound = result.bound
        table.add_row(
            result.backend,
            result.device,
            f"{result.max_error:.2g}",
            f"{bound.max_error:g}",
            f"{result.mean_error:.2g}",
            f"{bound.mean_error:g}",
            f"{result.flips} of {result.decisions}",
            f"{result.f1:.4f}",
            "within" if result.within_bound else "[bold red]beyond[/]",
        )
    return table
