"""`ramfleet quote`: the cheapest mix of nodes that meets a deadline, its time and cost, before spending."""

import json
import math
import re
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.cards.sizing import ModelLoad
    from pipeline.quoting.answer import Quote, Wish
    from pipeline.quoting.fleet_file import FleetFile
    from pipeline.quoting.groups import Plan
    from pipeline.quoting.kuberay import PodChoices
    from pipeline.quoting.rentals import Market
    from pipeline.quoting.simulate import Job


class Emitted(StrEnum):
    """Files that can be written for the chosen nodes."""

    FLEET = "fleet"
    KUBERAY = "kuberay"
    KUBERAY_JOB = "kuberay-job"
    RAY_UP = "ray-up"
    RAY_UP_LOCAL = "ray-up-local"


class Dtype(StrEnum):
    """Number type of the cards; auto: fp16 where a card has it."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


_LONGEST_DEADLINE = 1e12
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


def quote(
    source: Annotated[str | None, typer.Argument(metavar="INPUT", help="What would be tagged; its rows count.")] = None,
    fleet: Annotated[Path, typer.Option(help="YAML file of what may be rented (docs/quote.md).")] = Path("fleet.yaml"),
    images: Annotated[int | None, typer.Option(min=1, help="How many, instead of INPUT.")] = None,
    prices: Annotated[
        list[str], typer.Option(help="SkyPilot CSV or YAML of prices; repeatable, the last wins.  [default: a table]")
    ] = [],  # noqa: B006
    deadline: Annotated[str | None, typer.Option(help="Of the whole run: 90m, 6h, 2d.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="At most so much, in the currency of the prices.")] = None,
    model: Annotated[str, typer.Option(help="Folder of the bundle, or ram_plus for the released one.")] = "ram_plus",
    tags: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Tags that the model is cut down to.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of all cards.")] = Dtype.AUTO,
    profiles: Annotated[Path | None, typer.Option(help="Card profiles of `ramfleet calibrate`.")] = None,
    measured: Annotated[str | None, typer.Option(help="A finished run, whose images/s win over the model's.")] = None,
    confidence: Annotated[float, typer.Option(min=0.05, max=1, help="Share of runs to be in time.")] = 0.9,
    runs: Annotated[int, typer.Option(min=1, max=200, help="Simulated runs.")] = 20,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    emit: Annotated[
        Emitted | None,
        typer.Option(help="Write the chosen nodes to --to; without INPUT and --images all that the fleet file has."),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="File for --emit.  [default: standard output, alone]")] = None,
    image: Annotated[str | None, typer.Option(help="Container image with RamFleet, for --emit kuberay.")] = None,
    weights_claim: Annotated[
        str | None, typer.Option(help="PersistentVolumeClaim with the model, for --emit kuberay.  [default: fetched]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Say which nodes to rent, what the run will cost and how long it takes, how sure that is, and why."""
    from jobs.screen import screen
    from pipeline.quoting.answer import Wish
    from pipeline.quoting.fleet_file import load_fleet

    pods = _pods(emit, image, weights_claim)
    if source is None and images is None and emit not in (None, Emitted.FLEET):
        _deliver_fleet(load_fleet(fleet), emit, to, pods)
        return
    if (source is None) == (images is None):
        raise typer.BadParameter("give INPUT or --images, one of them")
    _check_output(emit, to, as_json)
    _check_budget(budget)
    deadline_s = None if deadline is None else _seconds(deadline)
    offered = load_fleet(fleet)
    with tempfile.TemporaryDirectory(prefix="ramfleet-") as folder, screen(Path(folder, "quote.log")) as console:
        load, image_size = _model(model, tags)
        job = _job(_count(source) if images is None else images, image_size, offered.assumptions.image_kb)
        market = _market(offered, prices, profiles, load, dtype, measured)
        made = _made(market, job, Wish(job.images, deadline_s, budget, confidence, runs, seed), console)
        _deliver(made, None if emit is None else _emitted(emit, made, pods), to, as_json, console)


def _pods(emit: Emitted | None, image: str | None, weights_claim: str | None) -> "PodChoices":
    from pipeline.quoting.kuberay import DEFAULT_IMAGE, PodChoices

    if (image or weights_claim) and emit not in (Emitted.KUBERAY, Emitted.KUBERAY_JOB):
        raise typer.BadParameter("--image and --weights-claim are for pods: add --emit kuberay or kuberay-job")
    return PodChoices(image or DEFAULT_IMAGE, weights_claim)


def _check_output(emit: Emitted | None, to: Path | None, as_json: bool) -> None:
    if to is not None and emit is None:
        raise typer.BadParameter("--to says where --emit writes to: add --emit fleet, kuberay or ray-up")
    if emit is not None and to is None and as_json:
        raise typer.BadParameter("--json and --emit both write to standard output: add --to FILE")


def _check_budget(budget: float | None) -> None:
    if budget is not None and not math.isfinite(budget):
        raise typer.BadParameter(f"--budget {budget}: write an amount, or leave it out")


def _deliver_fleet(offered: "FleetFile", emit: Emitted | None, to: Path | None, pods: "PodChoices") -> None:
    """What the fleet file has, for a cluster: nothing is quoted."""
    from pipeline.quoting.groups import plan_of_fleet

    text = _cluster_file(emit, plan_of_fleet(offered), pods)
    if to is None:
        typer.echo(text, nl=False)
        return
    _write(to, text)
    typer.echo(f"Written: {to}")


def _deliver(made: "Quote", text: str | None, to: Path | None, as_json: bool, console: "Console") -> None:
    from pipeline.quoting.words import quote_document

    if text is not None and to is None:
        console.out(text, end="", highlight=False)
        return
    if text is not None and to is not None:
        _write(to, text)
    if as_json:
        console.out(json.dumps(quote_document(made), indent=2, ensure_ascii=False), highlight=False)
        return
    _print(console, made)
    if text is not None:
        console.print(f"Written: {to}", markup=False, highlight=False)


def _write(to: Path, text: str) -> None:
    from pipeline.errors import ConfigError

    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"to={to}: cannot be written: {error.strerror}") from error


def _made(market: "Market", job: "Job", wish: "Wish", console: "Console") -> "Quote":
    from pipeline.quoting.quote import make_quote

    if not console.is_terminal:
        return make_quote(wish, market, job)
    with console.status("…") as status:
        return make_quote(wish, market, job, status.update)


def _market(
    offered: "FleetFile", prices: list[str], profiles: Path | None, load: "ModelLoad", dtype: str, measured: str | None
) -> "Market":
    from pipeline.cards.profiles import load_profiles
    from pipeline.costs.price_files import load_prices
    from pipeline.errors import ConfigError
    from pipeline.quoting.measured_run import measured_cards
    from pipeline.quoting.rentals import open_market
    from pipeline.stores.opening import open_store

    known = measured_cards(open_store(measured)) if measured is not None else None
    market = open_market(offered, load_prices(prices), load_profiles(profiles), load, dtype, known)
    if not market.rentals:
        raise ConfigError("\n".join(f"{name}: {why}" for name, why in market.left_out.items()))
    return market


def _model(model: str, tags: int | None) -> "tuple[ModelLoad, int]":
    """The load of a bundle or of the released RAM++, and the side of its images in pixels."""
    from dataclasses import replace

    from pipeline.cards.sizing import load_of
    from ramcore.bundle import bundle_hash, read_config
    from ramcore.config import ram_plus_preset

    is_released = model == "ram_plus" and not Path(model).exists()
    config = ram_plus_preset() if is_released else read_config(model)
    hash = "" if is_released or tags is not None else bundle_hash(model)
    config = config if tags is None else replace(config, num_tags=tags)
    return load_of(config, hash), config.swin.image_size


def _job(images: int, image_size: int, image_kb: float) -> "Job":
    from pipeline.quoting.simulate import Job

    return Job(images, image_bytes=image_kb * 1000, pixel_bytes=3 * image_size**2)


def _count(source: str | None) -> int:
    from pipeline.manifests.manifest import open_input

    return sum(batch.num_rows for batch in open_input(source or "").batches())


def _seconds(text: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h|d)\s*", text)
    if found is None or not 0 < float(found[1]) < _LONGEST_DEADLINE:
        raise typer.BadParameter(f"--deadline {text!r}: write a number and a unit, such as 90m, 6h or 2d")
    return float(found[1]) * _UNITS[found[2]]


def _emitted(emit: Emitted, made: "Quote", pods: "PodChoices") -> str:
    from pipeline.quoting.emit import fleet_yaml
    from pipeline.quoting.groups import plan_of_quote

    return fleet_yaml(made) if emit == Emitted.FLEET else _cluster_file(emit, plan_of_quote(made), pods)


def _cluster_file(emit: Emitted | None, plan: "Plan", pods: "PodChoices") -> str:
    from pipeline.quoting.kuberay import raycluster_yaml, rayjob_yaml
    from pipeline.quoting.ray_up import ray_up_local_yaml, ray_up_yaml

    if emit in (Emitted.KUBERAY, Emitted.KUBERAY_JOB):
        return (raycluster_yaml if emit == Emitted.KUBERAY else rayjob_yaml)(plan, pods)
    return (ray_up_yaml if emit == Emitted.RAY_UP else ray_up_local_yaml)(plan)


def _print(console: "Console", made: "Quote") -> None:
    from pipeline.quoting.table import quote_tables

    console.print(*quote_tables(made, console.width), sep="\n")
