"""`ramfleet fleet`: the cluster as the job would use it, without running it."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import ConfigFile, Settings

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import Config
    from pipeline.fleet.cluster import ClusterShape


def fleet(
    model: Annotated[str | None, typer.Option(help="Folder of the model bundle.  [default: the demo bundle]")] = None,
    config: ConfigFile = None,
    overrides: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show every node with its cards, replicas, expected images/s and share of the work, and what cannot be used."""
    from jobs.screen import screen
    from pipeline.config import load_config
    from pipeline.fleet.table import fleet_document, fleet_table

    settings = load_config(config, overrides or (), bundle=model)
    with tempfile.TemporaryDirectory(prefix="ramfleet-") as folder, screen(Path(folder, "driver.log")) as console:
        shape = _surveyed(settings, console)
        if as_json:
            console.print_json(data=fleet_document(shape))
        else:
            console.print(*fleet_table(shape, console.width), sep="\n")


def _surveyed(config: "Config", console: "Console") -> "ClusterShape":
    from pipeline.cards.node_facts import proof_of
    from pipeline.cards.sizing import model_load
    from pipeline.fleet.cluster import joined, survey
    from pipeline.model_choice import check_before_cluster, writes_captions
    from ramcore.bundle import bundle_hash, demo_bundle, read_config

    bundle = Path(config.model.bundle).absolute() if config.model.bundle else demo_bundle()
    description = read_config(bundle)
    check_before_cluster(config, description)
    captions = writes_captions(config.output.captions, description)
    load = model_load(bundle, bundle_hash(bundle), captions)
    # Looking must not make a cluster grow: fleet.request is for runs.
    config = config.model_copy(update={"fleet": config.fleet.model_copy(update={"request": {}})})
    with joined(console), proof_of(None, None, bundle, config) as proof:
        return survey(config, load, None, proof, console)
