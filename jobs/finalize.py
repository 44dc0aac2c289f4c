"""`ramfleet finalize RUN`: publish the tables of a run again from its committed chunks."""

from typing import Annotated

import typer


def finalize(
    run: Annotated[str, typer.Argument(help="The run folder, or s3://bucket/prefix.")],
) -> None:
    """Publish tags/, rejects/, duplicates/ and telemetry/ of a run from what is committed so far."""
    from pipeline import finalize as pipeline_finalize
    from pipeline.stores.opening import open_store

    counts = pipeline_finalize.finalize(open_store(run)).counts
    state = f"{counts.missing} not yet done" if counts.missing else "complete"
    carried = f"{counts.carried} carried over, " if counts.carried else ""
    typer.echo(
        f"{run}: {counts.tagged} tagged, {counts.rejected} rejected, {carried}{counts.duplicates} duplicates, {state}"
    )
