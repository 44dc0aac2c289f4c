"""`ramfleet tag INPUT --out RUN`: the main job. Also `python -m jobs.tag`."""

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import Config
    from pipeline.tag import Result


def tag(
    input: Annotated[
        str, typer.Argument(help="A picture, a folder, a glob, or a manifest (parquet csv tsv jsonl txt).")
    ],
    out: Annotated[str, typer.Option(help="The run folder. Run the same command again to resume.")],
    model: Annotated[str | None, typer.Option(help="Folder of the model bundle.  [default: the demo bundle]")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with configuration.")] = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="One configuration key; repeatable.")
    ] = [],  # noqa: B006
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows of the input.")] = None,
) -> None:
    """Tag all images of INPUT into a run folder, or go on with the run that is there."""
    from jobs.screen import screen
    from pipeline.config import load_config
    from pipeline.errors import StoppedError
    from pipeline.store import RunStore

    settings = load_config(config, set_, bundle=model)
    store = RunStore(out)
    signal.signal(signal.SIGTERM, _interrupt)
    log = store.path("logs/driver.log")
    try:
        with screen(log) as console:
            _tag(input, out, settings, limit, console)
            console.print(f"Log of the libraries: {log}", style="dim", markup=False)
    except KeyboardInterrupt:
        raise StoppedError("interrupted; run the same command again to go on") from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tag(input: str, out: str, config: "Config", limit: int | None, console: "Console") -> None:
    from jobs.summary import demo_warning, print_result
    from pipeline.tag import Request, tag
    from ramcore.bundle import read_config

    request = Request(input, out, config, limit)
    if read_config(request.bundle).demo:
        console.print(demo_warning())
    result: Result = tag(request, console)
    print_result(console, result)


if __name__ == "__main__":
    typer.run(tag)
