"""`ramfleet model vocabulary BUNDLE --out NEW …`: the same model with another vocabulary."""

from pathlib import Path
from typing import Annotated

import typer


def vocabulary(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    out: Annotated[Path, typer.Option(help="New folder for the changed bundle.")],
    keep: Annotated[Path | None, typer.Option(help="Tags to keep, one per line, in this order.")] = None,
    descriptions: Annotated[
        Path | None, typer.Option(help="Tags to add: JSON with texts per tag, or .txt with names.")
    ] = None,
    text_model: Annotated[Path | None, typer.Option(help="Folder of CLIP ViT-B/16, for added tags.")] = None,
    templates: Annotated[Path | None, typer.Option(help="Prompts for names without texts, one per line.")] = None,
    rename: Annotated[list[str], typer.Option(metavar="OLD=NEW", help="Rename a tag; repeatable.")] = [],  # noqa: B006
    merge: Annotated[list[str], typer.Option(metavar="A,B=C", help="Make one tag C of tags A and B; repeatable.")] = [],  # noqa: B006
    thresholds: Annotated[Path | None, typer.Option(help="CSV: tag,threshold.")] = None,
    zh: Annotated[Path | None, typer.Option(help="CSV: tag,tag_zh.")] = None,
) -> None:
    """Keep, add, rename or merge tags and set thresholds or Chinese names; prints what changed."""
    from ramcore.compile_vocabulary import compile_vocabulary
    from ramcore.descriptions import PROMPTS, read_descriptions, read_templates
    from ramcore.text_tower import TextTower
    from ramcore.vocabulary_edits import (
        VocabularyEdits,
        parse_merges,
        parse_renames,
        read_column,
        read_names,
        read_thresholds,
    )

    prompts = PROMPTS if templates is None else read_templates(templates)
    edits = VocabularyEdits(
        keep=None if keep is None else read_names(keep),
        merge=parse_merges(merge),
        rename=parse_renames(rename),
        add={} if descriptions is None else read_descriptions(descriptions, prompts),
        thresholds={} if thresholds is None else read_thresholds(thresholds),
        tags_zh={} if zh is None else read_column(zh, "tag_zh"),
    )
    changes = compile_vocabulary(bundle, out, edits, None if text_model is None else TextTower(text_model))
    typer.echo(f"{out}: bundle {changes.bundle_hash}")
    for line in changes.lines():
        typer.echo(f"  {line}")
