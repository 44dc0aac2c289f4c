"""`ramfleet threshold RUN --out NEW …`: other thresholds for a finished run, from its stored scores."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Language(StrEnum):
    """Which lists of names are filled."""

    en = "en"
    zh = "zh"
    both = "both"


def threshold(
    run: Annotated[str, typer.Argument(help="A finished run.")],
    out: Annotated[str, typer.Option(help="New folder or s3://bucket/prefix; tags, rejects, vocabulary as in a run.")],
    value: Annotated[
        float | None,
        typer.Option("--threshold", help="One threshold for all tags but those that never fire (threshold 1)."),
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option(help="CSV tag,threshold, or .txt with one threshold per tag in order.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="At most N tags per image, the surest; 0 = all.")] = 0,
    language: Annotated[
        Language | None, typer.Option(help="Lists of names that are filled.  [default: as in the run]")
    ] = None,
    allow_capped: Annotated[
        bool, typer.Option("--allow-capped", help="Go on where output.top_k may have cut scores that would be tags.")
    ] = False,
) -> None:
    """Decide the tags of a finished run anew from its stored scores, without the model.

    A tag fires where its score is strictly greater than its threshold. Captions stay as they were written.
    """
    from pipeline.rethreshold import Rules, rethreshold
    from pipeline.thresholds import parse_thresholds

    rules = Rules(
        thresholds=parse_thresholds(value, thresholds),
        top_k=top_k,
        language=None if language is None else language.value,
        allow_capped=allow_capped,
    )
    result = rethreshold(run, out, rules)
    capped = f", {result.capped} of them may lack tags (--allow-capped)" if result.capped else ""
    typer.echo(
        f"{out}: {result.images} images{capped}; {result.after} tags, {result.before} before; "
        f"{result.changed} thresholds changed"
    )
