"""`ramfleet verify RUN`: a run against its plan; exit 1, and what to do, where it does not fit."""

from typing import Annotated

import typer


def verify(
    run: Annotated[str, typer.Argument(help="The run folder, or s3://bucket/prefix.")],
) -> None:
    """Check that every planned chunk, row and published part of a run is there and whole. Changes nothing."""
    from pipeline.errors import IncompleteError
    from pipeline.stores.opening import open_store
    from pipeline.verify import verify

    found = verify(open_store(run))
    if found.faults:
        raise IncompleteError("\n".join([f"{run}: {len(found.faults)} fault(s)", *found.faults]))
    typer.echo(f"{run}: no fault; {found.rows} rows, {found.objects} objects read")
