"""`ramfleet train`: train the demo bundle from nothing on scenes that the project draws itself."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ramcore.fit import Progress


class Recipe(StrEnum):
    """What can be trained."""

    DEMO = "demo"


def train(
    out: Annotated[Path, typer.Option(help="New folder for the bundle.")],
    recipe: Annotated[Recipe, typer.Option(help="What is trained.")] = Recipe.DEMO,
    seed: Annotated[int, typer.Option(help="Seed of weights and scenes.", min=0, max=65535)] = 1,
    steps: Annotated[int | None, typer.Option(help="Updates [default: the recipe's].", min=1)] = None,
    minutes: Annotated[float | None, typer.Option(help="Be done by then [default: the recipe's].", min=0.1)] = None,
    threads: Annotated[int | None, typer.Option(help="Training threads [default: the recipe's].", min=1)] = None,
    workers: Annotated[int | None, typer.Option(help="Drawing processes [default: the recipe's].", min=0)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a bundle that is there.")] = False,
) -> None:
    """Train a small RAM++ on drawn scenes, measure it on unseen ones, and write its bundle.

    The demo recipe takes about 50 minutes on two cores. Every ten minutes the state so far is saved.
    """
    from ramcore.fit import TrainConfig
    from ramcore.train import train as run

    chosen = {"steps": steps, "minutes": minutes, "threads": threads, "workers": workers}
    config = TrainConfig(seed=seed, **{key: value for key, value in chosen.items() if value is not None})  # type: ignore[arg-type]
    report = run(config, out, _print_progress, overwrite=overwrite)
    typer.echo(
        f"{out}: mAP {report.test.mean:.4f} on {config.test_scenes} unseen scenes, "
        f"{report.large_map:.4f} on large ones; the card is {out / 'README.md'}"
    )


def _print_progress(progress: "Progress") -> None:
    typer.echo(
        f"step {progress.step:6d}  {progress.minutes:5.1f} min  loss {progress.loss:7.3f}  "
        f"validation mAP {progress.validation_map:.4f}"
    )
