"""`ramfleet retry RUN`: tag the rejects of a run again whose reason may have gone."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import ConfigFile
from jobs.screen import on_screen

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import Config


def retry(
    run: Annotated[str, typer.Argument(help="The run folder, or s3://bucket/prefix.")],
    only: Annotated[
        str | None, typer.Option(help="Error kinds, like timeout,http_5xx.  [default: all that are retriable]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder of the model bundle.  [default: where the run had it]")
    ] = None,
    config: ConfigFile = None,
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="One operation key; repeatable.")] = [],  # noqa: B006
) -> None:
    """Tag the rejects of some kinds again; each affected chunk gets a next generation, and nothing is overwritten.

    What is tagged already stays as it is. Run it again to go on, or to try once more.
    """
    from pipeline.config import load_config
    from pipeline.model_record import recorded_bundle
    from pipeline.pins import check_pins, pinned_tree
    from pipeline.retry import planned_run, retriable_kinds
    from pipeline.stores.opening import open_store

    kinds = retriable_kinds(only)
    store = open_store(run)
    plan = planned_run(store)
    bundle = model or str(recorded_bundle(store, plan.pinned["bundle"]))
    settings = load_config(config, set_, bundle=bundle, under=pinned_tree(plan))
    check_pins(plan, settings.pinned(), run)
    with on_screen(run) as console:
        _retry(run, kinds, settings, console)


def _retry(run: str, kinds: frozenset[str], config: "Config", console: "Console") -> None:
    from jobs.summary import print_result
    from pipeline.retry import retry

    retried = retry(run, kinds, config, console)
    if not retried.asked:
        console.print(f"No reject of the kinds {', '.join(sorted(kinds))}.", markup=False)
        return
    asked = ", ".join(f"{number} {kind}" for kind, number in retried.by_kind.items())
    console.print(f"Rejects that were tagged again: {asked}", markup=False)
    print_result(console, retried.result)
