"""`ramfleet`: the command line. Errors become one line each and an exit code: 1 failed, 2 bad input, 3 resumable."""

import atexit
import errno
import os
import sys

import typer

import jobs.calibrate
import jobs.clean
import jobs.compare
import jobs.explore
import jobs.finalize
import jobs.fleet
import jobs.index
import jobs.look
import jobs.model
import jobs.quote
import jobs.report
import jobs.retry
import jobs.search
import jobs.status
import jobs.submit
import jobs.tag
import jobs.threshold
import jobs.train
import jobs.verify
from pipeline.errors import RunError, StoreAwayError
from ramcore.errors import RamcoreError

app = typer.Typer(
    help="Tag millions of images with RAM++ on whatever cards a Ray cluster has, and know what each cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("tag")(jobs.tag.tag)
app.command("look")(jobs.look.look)
app.command("retry")(jobs.retry.retry)
app.command("status")(jobs.status.status)
app.command("verify")(jobs.verify.verify)
app.command("finalize")(jobs.finalize.finalize)
app.command("clean")(jobs.clean.clean)
app.command("fleet")(jobs.fleet.fleet)
app.command("calibrate")(jobs.calibrate.calibrate)
app.command("report")(jobs.report.report)
app.command("compare")(jobs.compare.compare)
app.command("quote")(jobs.quote.quote)
app.command("submit")(jobs.submit.submit)
app.command("index")(jobs.index.index)
# A query may begin with what it excludes: -person.
app.command("search", context_settings={"ignore_unknown_options": True})(jobs.search.search)
app.command("explore")(jobs.explore.explore)
app.command("threshold")(jobs.threshold.threshold)
app.command("train")(jobs.train.train)
app.add_typer(jobs.model.app, name="model")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Print the version if asked."""
    if version:
        import importlib.metadata

        typer.echo(f"ramfleet {importlib.metadata.version('ramfleet')}")
        raise typer.Exit


class _End:
    """Ends the process when all else that is done at its end is done.

    Arrow's threads may still hold Python objects after the last Parquet file has been read; a thread of C++ that asks
    for the interpreter while that is taken down aborts the process: apache/arrow#34314.
    """

    code = 1

    def __call__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.code)


def main() -> None:
    """Run a command; ends the process with its exit code."""
    end = _End()
    # Before any other, as the last that is registered runs first.
    atexit.register(end)
    try:
        app()
    except SystemExit as left:
        end.code = left.code if isinstance(left.code, int) else int(left.code is not None)
        raise
    except StoreAwayError as error:
        _fail(f"{error}. Run the same command again when that is mended", error.exit_code)
    except RunError as error:
        _fail(error, error.exit_code)
    except RamcoreError as error:
        _fail(error, 2)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        _fail(f"{error.filename or 'standard output'}: {error.strerror}: make room, then run the same command again", 1)


def _fail(error: Exception | str, code: int) -> None:
    for line in str(error).splitlines():
        print(f"ramfleet: {line}", file=sys.stderr)  # noqa: T201 - the command line's own voice
    sys.stderr.flush()
    # At once: after an early stop, threads of Ray that still run would abort a slower end.
    os._exit(code)


if __name__ == "__main__":
    main()
