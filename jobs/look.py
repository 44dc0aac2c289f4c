"""`ramfleet look PICTURE…`: tag a few pictures in this process and print what was seen."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from ramcore.tagger import Tagger

_DEMO_WARNING = (
    "Demo model: it knows drawn scenes only. Tags of real photographs mean nothing; "
    "use --model with a bundle of released weights for those."
)

_NOT_FINITE = "the model's scores are not finite: its weights are damaged, or too large for this dtype"


def look(
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.")],
    model: Annotated[Path | None, typer.Option(help="Folder of the model bundle.  [default: the demo bundle]")] = None,
    descriptions: Annotated[
        Path | None, typer.Option(help="Open tags as well: JSON with texts per tag, or .txt with names.")
    ] = None,
    text_model: Annotated[Path | None, typer.Option(help="Folder of CLIP ViT-B/16, for --descriptions.")] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Prompts for names without texts, one per line, with {name} for the name.")
    ] = None,
    given_tags: Annotated[
        str | None, typer.Option(help='Tags to write the caption about, like "cloud,sky" (tag2text).')
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Print tags with scores, Chinese names, and captions where the model writes them.

    A file that is no picture gets a line on standard error; the others are still shown, and the exit code is 2.
    """
    from rich.console import Console

    import ramcore
    from pipeline.tables.stored_size import heavy_warning

    try:
        tagger = ramcore.load(model, device=device)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if given_tags is not None and not tagger.can_caption:
        raise typer.BadParameter(f"--given-tags needs a tag2text bundle, this is {tagger.config.kind}")
    open_tagger = _open_tagger(tagger, descriptions, text_model, templates)
    if tagger.config.demo:
        Console(stderr=True).print(f"[bold yellow]{_DEMO_WARNING}[/]")
    console = Console()
    seen = []
    for picture in pictures:
        seen.append(_see(picture, tagger, open_tagger, given_tags))
        if not as_json:
            _print(seen[-1], console)
    # Once, for all pictures: it is the run that the remedy belongs to.
    heavy = heavy_warning(max((one["stored_bytes"] for one in seen if "stored_bytes" in one), default=None))
    if heavy is not None:
        Console(stderr=True).print(f"[yellow]{heavy}[/]")
    if as_json:
        typer.echo(json.dumps(seen, indent=2, ensure_ascii=False))
    if any("error" in one for one in seen):
        raise typer.Exit(2)


def _open_tagger(
    tagger: "Tagger", descriptions: Path | None, text_model: Path | None, templates: Path | None
) -> "Tagger | None":
    if (descriptions is None) != (text_model is None):
        raise typer.BadParameter("--descriptions and --text-model go together: give both or none")
    if templates is not None and (descriptions is None or descriptions.suffix == ".json"):
        raise typer.BadParameter("--templates makes texts for the names in a .txt: give one as --descriptions")
    if descriptions is None or text_model is None:
        return None
    from ramcore.descriptions import PROMPTS, read_descriptions, read_templates
    from ramcore.open_set import open_set_tagger
    from ramcore.text_tower import TextTower

    prompts = PROMPTS if templates is None else read_templates(templates)
    return open_set_tagger(tagger, read_descriptions(descriptions, prompts), TextTower(text_model))


def _see(picture: Path, tagger: "Tagger", open_tagger: "Tagger | None", given_tags: str | None) -> dict[str, Any]:
    """What is printed of one picture, or its error."""
    from ramcore.errors import ImageError

    seen: dict[str, Any] = {"picture": str(picture)}
    try:
        images = tagger.encode(tagger.pixels(picture)[None])
    except (ImageError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        print(f"ramfleet: {picture}: {reason}", file=sys.stderr)  # noqa: T201 - the command line's own voice
        return seen | {"error": reason}
    if tagger.can_caption:
        given = None if given_tags is None else [given_tags]
        scores, captions = tagger.scores_and_captions(images, given)
        seen |= {"tags": _tags(tagger, scores[0]), "caption": captions[0]}
    else:
        scores = tagger.scores(images)
        seen["tags"] = _tags(tagger, scores[0])
    if not bool(scores.isfinite().all()):
        print(f"ramfleet: {picture}: {_NOT_FINITE}", file=sys.stderr)  # noqa: T201 - the command line's own voice
        return {"picture": str(picture), "error": _NOT_FINITE}
    seen["stored_bytes"] = _stored_bytes(tagger, scores[0])
    if open_tagger is not None:
        seen["open_tags"] = _tags(open_tagger, open_tagger.scores(images)[0])
    return seen


def _stored_bytes(tagger: "Tagger", scores: Any) -> int:
    """What a run with default output options would store of these scores, before compression."""
    from pipeline.config import OutputConfig
    from pipeline.tables.stored_size import bytes_of_scores

    return bytes_of_scores(scores.numpy(), tagger.vocabulary.thresholds, OutputConfig())


def _tags(tagger: "Tagger", scores: Any) -> list[dict[str, Any]]:
    """The tags that fire, surest first."""
    result = tagger.result(scores)
    rows = zip(result.tags, result.tags_zh, result.scores, strict=True)
    tags = [{"tag": tag, "tag_zh": tag_zh, "score": round(score, 4)} for tag, tag_zh, score in rows]
    return sorted(tags, key=lambda tag: -float(tag["score"]))


def _print(seen: dict[str, Any], console: "Console") -> None:
    from rich.markup import escape
    from rich.table import Table

    if "error" in seen:
        return
    console.print(f"[bold]{escape(seen['picture'])}[/]")
    table = Table("tag", "中文", "score", box=None, padding=(0, 2))
    for group, style in (("tags", ""), ("open_tags", "cyan")):
        for tag in seen.get(group, []):
            table.add_row(escape(tag["tag"]), escape(tag["tag_zh"]), f"{tag['score']:.3f}", style=style)
    if table.row_count:
        console.print(table)
    else:
        console.print("  no tag is over its threshold")
    if seen.get("open_tags"):
        console.print("  (blue: open tags)")
    if "caption" in seen:
        console.print(f"  “{escape(seen['caption'])}”")
    console.print(f"  a run would store {seen['stored_bytes']:,} bytes of scores", style="dim")
