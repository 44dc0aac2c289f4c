"""`ramfleet model …`: make a bundle from a released checkpoint, look at a bundle."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import jobs.check
import jobs.pull
import jobs.vocabulary

if TYPE_CHECKING:
    from rich.table import Table

    from ramcore.config import ModelConfig
    from ramcore.describe import Description

app = typer.Typer(help="Make and look at model bundles.", no_args_is_help=True)
app.command("check")(jobs.check.check)
app.command("pull")(jobs.pull.pull)
app.command("vocabulary")(jobs.vocabulary.vocabulary)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Option(help="Released checkpoint (.pth).", dir_okay=False)],
    tags: Annotated[Path, typer.Option(help="Tag list, one tag per line.", dir_okay=False)],
    out: Annotated[Path, typer.Option(help="New folder for the bundle.")],
    kind: Annotated[str, typer.Option(help="Kind of model: ram_plus, ram or tag2text.")] = "ram_plus",
    tags_zh: Annotated[Path | None, typer.Option(help="Chinese names, line by line.", dir_okay=False)] = None,
    thresholds: Annotated[
        Path | None, typer.Option(help="Thresholds, line by line; without it all are 0.68.", dir_okay=False)
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Input size in pixels; another than the checkpoint's is interpolated.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="For tag2text: vocab.txt of bert-base-uncased.", dir_okay=False)
    ] = None,
) -> None:
    """Make a bundle from a released checkpoint; nothing in the file is executed."""
    from ramcore.convert import convert_checkpoint

    config = convert_checkpoint(
        kind, checkpoint, tags, out, tags_zh, thresholds, image_size=image_size, tokenizer=tokenizer
    )
    typer.echo(f"{out}: {config.kind}, {_tags(config)}, {config.image_size} pixels")


@app.command()
def show(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Print what a bundle is and what it costs: sizes, thresholds, operations per image, memory."""
    from ramcore.describe import describe_bundle

    description = describe_bundle(bundle)
    if as_json:
        typer.echo(json.dumps(description.to_dict(), indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    Console().print(_facts(description), _parts(description), _memory(description))


def _facts(description: "Description") -> "Table":
    from rich.table import Table

    config, swin, head = description.config, description.config.swin, description.config.head
    thresholds = description.thresholds
    table = Table(title=description.path, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # the hash must not be cut
    table.add_row("kind", f"{config.kind} (demo: knows drawn scenes only)" if config.demo else config.kind)
    table.add_row("bundle hash", description.bundle_hash)
    table.add_row("input", f"{config.image_size} × {config.image_size} RGB")
    table.add_row(
        "image encoder",
        f"Swin, {swin.embed_dim} channels, depths {_slashes(swin.depths)}, heads {_slashes(swin.num_heads)}, "
        f"window {swin.window_size}",
    )
    table.add_row("tagging head", f"{head.num_layers} layers, {head.hidden_size} channels, {head.num_heads} heads")
    table.add_row("tags", _tags(config))
    table.add_row("without Chinese name", str(description.without_chinese))
    table.add_row(
        "thresholds",
        f"{thresholds['min']:.3g} to {thresholds['max']:.3g}, median {thresholds['median']:.3g}, "
        f"{thresholds['different']} different",
    )
    table.add_row("never fire", ", ".join(description.never_fire) or "none")
    return table


def _parts(description: "Description") -> "Table":
    from rich.table import Table

    table = Table("part", title="Size and work per image")
    for column in ("parameters", "MiB in fp32", "GFLOP"):
        table.add_column(column, justify="right")
    names = list(dict.fromkeys([*description.parameters, *description.flops]))
    for name in names:
        table.add_row(name, *_amounts(description.parameters.get(name, 0), description.flops.get(name, 0)))
    table.add_section()
    totals = sum(description.parameters.values()), sum(description.flops.values())
    table.add_row("all", *_amounts(*totals))
    if description.caption_flops:
        table.add_row("one caption", "", "", _amounts(0, description.caption_flops)[2])
    return table


def _memory(description: "Description") -> "Table":
    from rich.table import Table

    table = Table("dtype", title="Card memory by micro-batch, estimated, GiB")
    for batch in next(iter(description.vram_bytes.values())):
        table.add_column(str(batch), justify="right")
    for dtype, by_batch in description.vram_bytes.items():
        table.add_row(dtype, *(f"{size / 2**30:.1f}" for size in by_batch.values()))
    return table


def _amounts(parameters: int, flops: int) -> tuple[str, str, str]:
    gflops = flops / 1e9
    digits = 1 if gflops >= 1 else 4
    return f"{parameters:,}", f"{parameters * 4 / 2**20:.1f}", f"{gflops:.{digits}f}"


def _tags(config: "ModelConfig") -> str:
    counts = config.descriptions_per_tag
    if config.kind != "ram_plus":
        return f"{config.num_tags} tags"
    if isinstance(counts, int):
        return f"{config.num_tags} tags × {counts} descriptions"
    return f"{config.num_tags} tags of {min(counts)} to {max(counts)} descriptions, {sum(counts)} in all"


def _slashes(numbers: tuple[int, ...]) -> str:
    return "/".join(map(str, numbers))
