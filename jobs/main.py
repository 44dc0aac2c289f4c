"""`ramfleet`: the command line. Errors become one line each and an exit code: 1 failed, 2 bad input, 3 resumable."""

import os
import sys

import typer

import jobs.finalize
import jobs.fleet
import jobs.look
import jobs.model
import jobs.tag
import jobs.threshold
import jobs.train
from pipeline.errors import RunError
from ramcore.errors import RamcoreError

app = typer.Typer(
    help="Tag millions of images with RAM++ on whatever cards a Ray cluster has, and know what each cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("tag")(jobs.tag.tag)
app.command("look")(jobs.look.look)
app.command("finalize")(jobs.finalize.finalize)
app.command("fleet")(jobs.fleet.fleet)
app.command("threshold")(jobs.threshold.threshold)
app.command("train")(jobs.train.train)
app.add_typer(jobs.model.app, name="model")


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Print the version if asked."""
    if version:
        import importlib.metadata

        typer.echo(f"ramfleet {importlib.metadata.version('ramfleet')}")
        raise typer.Exit


def main() -> None:
    """Run a command; ends the process with its exit code."""
    try:
        app()
    except RunError as error:
        _fail(error, error.exit_code)
    except RamcoreError as error:
        _fail(error, 2)


def _fail(error: Exception, code: int) -> None:
    for line in str(error).splitlines():
        print(f"ramfleet: {line}", file=sys.stderr)  # noqa: T201 - the command line's own voice
    sys.stderr.flush()
    # At once: after an early stop, threads of Ray that still run would abort a slower end.
    os._exit(code)


if __name__ == "__main__":
    main()
