"""`ramfleet tag INPUT --out RUN`: the main job. Also `python -m jobs.tag`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import ConfigFile, Settings
from jobs.screen import on_screen

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.tag import Request


def tag(
    input: Annotated[
        str, typer.Argument(help="A picture, a folder, a glob, or a manifest (parquet csv tsv jsonl txt).")
    ],
    out: Annotated[
        str, typer.Option(help="The run folder, or s3://bucket/prefix. Run the same command again to resume.")
    ],
    model: Annotated[str | None, typer.Option(help="Folder of the model bundle.  [default: the demo bundle]")] = None,
    config: ConfigFile = None,
    overrides: Settings = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows of the input.")] = None,
    base: Annotated[
        str | None, typer.Option(help="A finished run: only images that are new or changed since are tagged.")
    ] = None,
    quote: Annotated[
        Path | None, typer.Option(help="What `ramfleet quote --json` wrote: the report holds it against the run.")
    ] = None,
) -> None:
    """Tag all images of INPUT into a run folder, or go on with the run that is there."""
    from pipeline.config import load_config
    from pipeline.quoting.saved_quote import read_quote_file
    from pipeline.tag import Request

    quoted = None if quote is None else read_quote_file(quote)[1]
    request = Request(input, out, load_config(config, overrides or (), bundle=model), limit, base, quoted)
    with on_screen(out) as console:
        _tag(request, console)


def _tag(request: "Request", console: "Console") -> None:
    from jobs.summary import demo_warning, print_result
    from pipeline.tag import tag
    from ramcore.bundle import read_config

    if read_config(request.bundle).demo:
        console.print(demo_warning())
    print_result(console, tag(request, console))


if __name__ == "__main__":
    typer.run(tag)
