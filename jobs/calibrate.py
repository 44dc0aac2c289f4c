"""`ramfleet calibrate`: measure this machine's card or CPU, or one node for each card of the cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ramcore.calibrate import Measurement, Sweep


def calibrate(
    model: Annotated[Path | None, typer.Option(help="Folder of the bundle.  [default: the demo bundle]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: Annotated[
        Path, typer.Option(help="YAML file of profiles, for fleet.profiles; others in it stay.", dir_okay=False)
    ] = Path("profiles.yaml"),
    seconds: Annotated[float, typer.Option(min=0.1, help="Of measuring at each point.")] = 3.0,
    dtype: Annotated[list[str], typer.Option(help="fp32, bf16 or fp16; repeatable.  [default: by device]")] = [],  # noqa: B006
    replicas: Annotated[
        list[int], typer.Option(min=1, help="Processes on the device; repeatable.  [default: several]")
    ] = [],  # noqa: B006
    microbatch: Annotated[list[int], typer.Option(min=1, help="Repeatable.  [default: several]")] = [],  # noqa: B006
    compiled: Annotated[bool, typer.Option("--compiled", help="Also try torch.compile, which takes minutes.")] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="One node for each kind of card of the cluster at RAY_ADDRESS.")
    ] = False,
) -> None:
    """Measure images/s and memory over micro-batch, replicas and dtype, and write the best as card profiles."""
    from ramcore.bundle import demo_bundle, read_config

    bundle = model.absolute() if model is not None else demo_bundle()
    read_config(bundle)
    arguments = ["--model", str(bundle), "--device", device, "--seconds", str(seconds)]
    for name, values in (("--dtype", dtype), ("--replicas", replicas), ("--microbatch", microbatch)):
        arguments += [part for value in values for part in (name, str(value))]
    try:
        if cluster:
            _on_cluster([*arguments, "--compiled"] if compiled else arguments, out)
        else:
            _here(bundle, device, out, seconds, dtype, replicas, microbatch, compiled)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error


def _here(
    bundle: Path,
    device: str,
    out: Path,
    seconds: float,
    dtype: Sequence[str],
    replicas: Sequence[int],
    microbatch: Sequence[int],
    compiled: bool,
) -> None:
    from rich.console import Console

    from ramcore.calibrate import default_sweep, profiles, read_profiles, write_profiles

    read_profiles(out)
    sweep = default_sweep(bundle, device, seconds, dtype, replicas, microbatch, compiled)
    console = Console()
    measurements = _measured(sweep, console)
    found = profiles(sweep, measurements)
    if not found:
        console.print("Nothing was measured; no profile is written.", style="red")
        raise typer.Exit(1)
    write_profiles(out, found)
    console.print(_profile_table(found), f"Profiles: {out}   use them with --set fleet.profiles={out}", sep="\n")


def _measured(sweep: "Sweep", console: "Console") -> "list[Measurement]":
    """Measure, with a table that grows on a terminal and a line for each point elsewhere."""
    from rich.live import Live

    from ramcore.calibrate import describe, measure

    if not console.is_terminal:
        return measure(sweep, lambda found: console.print(describe(found), soft_wrap=True, highlight=False))
    shown: list[Measurement] = []
    with Live(_points_table(shown), console=console, vertical_overflow="visible") as live:

        def report(found: "Measurement") -> None:
            shown.append(found)
            live.update(_points_table(shown))

        return measure(sweep, report)


def _on_cluster(arguments: list[str], out: Path) -> None:
    import tempfile

    import ray

    from jobs.screen import screen
    from pipeline.cards.calibrate_cluster import calibrate_cluster, kinds_of_nodes
    from pipeline.fleet.cluster import joined
    from ramcore.calibrate import read_profiles, write_profiles

    read_profiles(out)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ramfleet-") as folder, screen(Path(folder, "driver.log")) as console:
        with joined(console):
            kinds = kinds_of_nodes(ray.nodes())  # type: ignore[no-untyped-call]
            console.print(f"Measuring one node of each kind: {', '.join(kinds)}", highlight=False)
            measuring = calibrate_cluster(kinds, arguments)
            try:
                for name, result in measuring:
                    if isinstance(result, str):
                        console.print(f"{name}: not measured: {result}", style="red", markup=False)
                        continue
                    found += result
                    write_profiles(out, result)  # at once: an interrupt keeps what there is
            except KeyboardInterrupt:
                console.print("Interrupted.")
            finally:
                measuring.close()
        if not found:
            raise typer.Exit(1)
        console.print(_profile_table(found), f"Profiles: {out}   use them with --set fleet.profiles={out}", sep="\n")


def _points_table(measurements: "Sequence[Measurement]") -> "Table":
    from rich.table import Table

    from ramcore.calibrate import knee

    best = knee(measurements)
    table = Table("dtype", "compiled", "replicas", "threads", "micro-batch", "images/s", "MiB each")
    for column in table.columns[2:]:
        column.justify = "right"
    for found in measurements:
        point = found.point
        figures = (f"{found.images_per_s:.1f}", f"{found.peak_bytes / 2**20:.0f}") if not found.failed else ("–", "–")
        way = (point.dtype, "yes" if point.compiled else "no", *map(str, (point.replicas, point.threads)))
        table.add_row(*way, str(point.microbatch), *figures, style="bold green" if found is best else None)
    return table


def _profile_table(found: Sequence[dict[str, Any]]) -> "Table":
    from rich.table import Table

    table = Table(title="Smallest within 3 % of the best", title_justify="left")
    for name in ("device", "dtype", "replicas", "micro-batch", "images/s", "GiB each"):
        table.add_column(name, justify="left" if name in ("device", "dtype") else "right", overflow="fold")
    for profile in found:
        dtype = f"{profile['dtype']} compiled" if profile["compiled"] else profile["dtype"]
        replicas = f"{profile['replicas']} × {profile['threads']} thread(s)"
        figures = (str(profile["microbatch"]), f"{profile['images_per_s']:.1f}", f"{profile['peak_bytes'] / 2**30:.2f}")
        table.add_row(profile["name"], dtype, replicas, *figures)
    return table
