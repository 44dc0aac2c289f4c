"""`ramfleet clean RUN`: remove the chunks of a finished run, which is read-only afterwards."""

from typing import Annotated

import typer


def clean(
    run: Annotated[str, typer.Argument(help="The run folder, or s3://bucket/prefix.")],
) -> None:
    """Remove the chunks of a finished run, once its tables have proved to be complete and readable.

    Afterwards the run is read-only: its rejects cannot be retried, nor its tables written again.
    """
    from pipeline.clean import clean
    from pipeline.stores.opening import open_store

    removed = clean(open_store(run))
    typer.echo(f"{run}: {removed.objects} objects removed, {removed.bytes / 1e6:.1f} MB; the run is read-only now")
