"""`ramfleet finalize RUN`: publish the tables of a run again from its committed chunks."""

from typing import Annotated

import typer


def finalize(
    run: Annotated[str, typer.Argument(help="The run folder.")],
) -> None:
    """Publish tags/, rejects/, duplicates/ and telemetry/ of a run from what is committed so far."""
    from pipeline import finalize as pipeline_finalize
    from pipeline.store import RunStore

    counts = pipeline_finalize.finalize(RunStore(run)).counts
    state = f"{counts.missing} not yet done" if counts.missing else "complete"
    typer.echo(f"{run}: {counts.tagged} tagged, {counts.rejected} rejected, {counts.duplicates} duplicates, {state}")
