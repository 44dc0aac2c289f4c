"""`ramfleet search INDEX QUERY`: images by their tags."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.index import Hit, Result

_TAGS = 10


def search(
    index: Annotated[str, typer.Argument(help="An index: its file, folder or address, or the run that it lies in.")],
    query: Annotated[
        list[str],
        typer.Argument(help="`dog AND (beach OR 海滩) -person score:0.8`, see docs/how-to/search.md; quote it."),
    ],
    limit: Annotated[int, typer.Option(help="Images of a page.")] = 20,
    offset: Annotated[int, typer.Option(help="Images before the page.")] = 0,
    facets: Annotated[int, typer.Option(help="Count the N most frequent tags of the whole result.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Find images by their tags, the highest scores first."""
    import pipeline.index

    with pipeline.index.open(index) as opened:
        found = opened.search(" ".join(query), limit, offset, facets)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        _print(found)


def _print(found: "Result") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    page = f", {found.offset + 1:,} to {found.offset + len(found.hits):,}" if found.hits else ""
    console.print(f"{found.total:,} images{page}", markup=False, highlight=False)
    for hit in found.hits:
        console.print(f"{hit.score:.3f}  {hit.uri}  {_tags(hit)}", markup=False, highlight=False)
    if found.facets:
        table = Table("tag", "标签", "images", title="Tags of the result", title_justify="left")
        table.columns[-1].justify = "right"
        for facet in found.facets:
            table.add_row(facet.tag, facet.tag_zh, f"{facet.images:,}")
        console.print(table)


def _tags(hit: "Hit") -> str:
    shown = [f"{tag.tag} ({tag.score:.2f})" for tag in hit.tags[:_TAGS]]
    return ", ".join(shown) + (f" and {len(hit.tags) - _TAGS} more" if len(hit.tags) > _TAGS else "")
