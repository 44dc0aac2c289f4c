"""`ramfleet finalize RUN`: publish the tables of a run again from its committed chunks."""

from typing import Annotated

import typer


def finalize(
    run: Annotated[str, typer.Argument(help="The run folder, or s3://bucket/prefix.")],
    report: Annotated[bool, typer.Option(help="Write report.html too.")] = True,
) -> None:
    """Publish the tables and the report of a run from what is committed so far."""
    from pipeline import finalize as pipeline_finalize
    from pipeline.report.document import Options
    from pipeline.stores.opening import open_store

    counts = pipeline_finalize.finalize(open_store(run), Options() if report else None).counts
    state = f"{counts.missing} not yet done" if counts.missing else "complete"
    carried = f"{counts.carried} carried over, " if counts.carried else ""
    typer.echo(
        f"{run}: {counts.tagged} tagged, {counts.rejected} rejected, {carried}{counts.duplicates} duplicates, {state}"
    )
