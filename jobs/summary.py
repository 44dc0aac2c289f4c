"""What `ramfleet tag` prints in the end: counts, rejects by kind, frequent tags, a few images with their tags."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.error_kinds import ERROR_KINDS
from pipeline.finished_run import REPORT
from pipeline.tables.samples import sample_rows
from pipeline.tables.stored_size import bytes_on_disk, heavy_warning
from pipeline.tag import Result

_SAMPLES = 6


def demo_warning() -> Text:
    """Said whenever the model is the one that comes with the package."""
    return Text(
        "Demo model: it knows drawn scenes only. Tags of real photographs mean nothing; "
        "use --model with a bundle of released weights for those.",
        style="bold yellow",
    )


def print_result(console: Console, result: Result) -> None:
    """Print the summary of a run."""
    weight = bytes_on_disk(result.store, result.published.parts["tags"])
    console.print(_counts(result, weight))
    warning = heavy_warning(weight)
    if warning is not None:
        console.print(Text(warning, style="yellow"))
    if result.published.frequent_tags:
        console.print(_frequent(result))
    for row in sample_rows(result.store, result.published.parts["tags"], _SAMPLES):
        console.print(_sample(row))
    console.print(
        f'\nTag table: {result.store.root}/tags   pandas.read_parquet("{result.store.root}/tags")',
        markup=False,
        soft_wrap=True,
    )
    if result.has_report:
        console.print(f"Report:    {result.store.root}/{REPORT}", markup=False, soft_wrap=True)


def _counts(result: Result, bytes_per_image: float | None) -> Table:
    counts = result.published.counts
    table = Table(title="Run", title_justify="left", show_header=False)
    table.add_row("images in the input", str(counts.input))
    table.add_row("tagged", str(counts.tagged))
    table.add_row("rejected", str(counts.rejected))
    for kind, number in result.published.rejects_by_kind.items():
        table.add_row(f"  {kind}", f"{number}  ({ERROR_KINDS[kind].cause})")
    if counts.carried:
        table.add_row("carried over", str(counts.carried))
    if counts.missing:
        table.add_row("not yet done", str(counts.missing))
    if counts.duplicates:
        table.add_row("duplicates", str(counts.duplicates))
    if bytes_per_image is not None:
        table.add_row("score lists", f"{bytes_per_image:,.0f} bytes per image on disk")
    if result.images:
        speed = f"{result.images / result.seconds:.1f}"
        table.add_row("images/s", f"{speed}  ({result.images} in {result.seconds:.1f} s, start of replicas included)")
    else:
        table.add_row("images/s", "nothing was left to do")
    cost = cost_line(result.published.cost)
    if cost is not None:
        table.add_row("cost", cost)
    return table


def cost_line(cost: dict[str, Any]) -> str | None:
    """What the run cost so far, all its sessions together; None where no node has a price.

    cost: as `pipeline.costs.run_costs.cost_summary` makes it.
    """
    if cost["total"] is None:
        return None
    each = cost["per_1000_images"]
    per_image = "" if each is None else f", {each:.3g} per 1,000 images"
    without = f"  (without {', '.join(line.split(':')[0] for line in cost['unpriced'])})" if cost["unpriced"] else ""
    return f"{cost['total']:.3g} {cost['currency']}{per_image}{without}"


def _frequent(result: Result) -> Text:
    tags = ", ".join(f"{tag} {number}" for tag, number in result.published.frequent_tags)
    return Text.assemble(("Most frequent tags  ", "bold"), tags)


def _sample(row: dict[str, Any]) -> Text:
    tags = ", ".join(f"{tag} ({score:.2f})" for tag, score in row["tags"]) or "no tag over its threshold"
    return Text.assemble((row["image_id"], "cyan"), " → ", tags)
