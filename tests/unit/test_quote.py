"""Quotes: the cheapest mix in time, what is said of it, and the files for it."""

import json
import os
import random
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from loads import RAM_PLUS
from typer.testing import CliRunner

from pipeline.cards.profiles import load_profiles
from pipeline.costs.price_files import load_prices
from pipeline.errors import ConfigError
from pipeline.quoting.answer import Wish
from pipeline.quoting.emit import fleet_yaml
from pipeline.quoting.fleet_file import FleetFile, NodeOffer, parse_fleet
from pipeline.quoting.groups import plan_of_quote
from pipeline.quoting.kuberay import PodChoices, raycluster_yaml
from pipeline.quoting.measured_run import MeasuredCard
from pipeline.quoting.mix import evaluate
from pipeline.quoting.quote import InfeasibleError, make_quote, predict
from pipeline.quoting.ray_up import ray_up_yaml
from pipeline.quoting.rentals import Market, drawn_factors, kind_of, open_market, plans_of
from pipeline.quoting.simulate import Job, simulate
from pipeline.quoting.words import quote_document

HOUR = 3600.0
JOB = Job(400_000, image_bytes=150_000, pixel_bytes=442_368)
AWS = {"region": "us-east-1", "cpus": 4}
SKY = """InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Region,SpotPrice,Price,AvailabilityZone,GpuInfo
g5.xlarge,A10G,1,4,16,us-east-1,0.4,1.006,us-east-1a,
g4dn.xlarge,T4,1,4,16,us-east-1,0.2,0.526,us-east-1a,
"""


def market(*offers: NodeOffer, prices: list[str] | None = None, **known: object) -> Market:
    return open_market(FleetFile(nodes=offers), load_prices(prices), load_profiles(), RAM_PLUS, **known)


def home(card: str, most: int, **other: object) -> NodeOffer:
    return NodeOffer.model_validate({"card": card, "most_nodes": most, **other})


@pytest.fixture(scope="module")
def consumer() -> Market:
    return market(
        home("GeForce-RTX-3060", 10, vram_gib=12, preemptions_per_hour=0.2),
        home("GeForce-RTX-3090", 6),
        home("GeForce-RTX-4090", 4, cpus=8),
    )


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Market:
    file = tmp_path_factory.mktemp("prices") / "sky.csv"
    file.write_text(SKY)
    spot = NodeOffer(instance_type="g5.xlarge", card="A10G", most_nodes=9, market="spot", **AWS)
    return market(spot, NodeOffer(instance_type="g4dn.xlarge", card="T4", most_nodes=9, **AWS), prices=[str(file)])


@pytest.mark.lengthy
def test_a_deadline_is_met_in_enough_runs(consumer: Market) -> None:
    """Nine of ten simulated ones, though cards may turn out to do half of what is modelled."""
    quote = make_quote(Wish(JOB.images, 0.6 * HOUR, runs=10), consumer, JOB)
    assert quote.met is not None
    assert quote.met >= 0.9
    assert quote.seconds.middle < 0.6 * HOUR
    assert (
        quote.mix.dollars
        < evaluate(plans_of(consumer.rentals, JOB, consumer.assumptions), [10, 6, 4], JOB.images).dollars
    )
    assert sum(line.images for line in quote.lines) == pytest.approx(JOB.images)


@pytest.mark.lengthy
def test_more_time_never_costs_more(consumer: Market) -> None:
    """The curve falls, the chosen mix is on it, and nothing on it is beaten in both by another."""
    quote = make_quote(Wish(JOB.images, 0.6 * HOUR, runs=2), consumer, JOB)
    others = [point.mix for point in quote.curve if point.mix.counts != quote.mix.counts]
    assert [mix.seconds for mix in others] == sorted(mix.seconds for mix in others)
    assert [mix.dollars for mix in others] == sorted((mix.dollars for mix in others), reverse=True)
    assert sum(point.mix.counts == quote.mix.counts for point in quote.curve) == 1


@pytest.mark.lengthy
def test_a_near_miss_is_mended_by_a_node_more() -> None:
    """Where simulated runs of a few nodes pass a deadline now and then, the whole fleet is not the answer."""
    spot = market(home("GeForce-RTX-3090", 20, preemptions_per_hour=0.05, cpus=8, startup_minutes=10))
    job = Job(1_000_000, image_bytes=200_000, pixel_bytes=442_368)
    nodes = [make_quote(Wish(job.images, hours * HOUR, runs=20), spot, job).mix.nodes for hours in (2.0, 2.2)]
    assert nodes == sorted(nodes, reverse=True)
    assert max(nodes) <= 3


@pytest.mark.lengthy
def test_the_same_wish_gets_the_same_quote(consumer: Market) -> None:
    """To the last digit."""
    one, two = (make_quote(Wish(JOB.images, budget=2.0, runs=3), consumer, JOB) for _ in range(2))
    assert quote_document(one) == quote_document(two)


@pytest.mark.lengthy
def test_a_budget_is_kept(consumer: Market) -> None:
    """In nine of ten simulated runs; less money takes longer."""
    rich, poor = (make_quote(Wish(JOB.images, budget=money, runs=10), consumer, JOB) for money in (0.6, 0.4))
    assert rich.afforded is not None
    assert poor.afforded is not None
    assert min(rich.afforded, poor.afforded) >= 0.9
    assert rich.mix.seconds < poor.mix.seconds


def test_an_impossible_deadline_says_by_how_much(consumer: Market) -> None:
    """How long everything takes, how much that is over, and how much more would do."""
    best = evaluate(plans_of(consumer.rentals, JOB, consumer.assumptions), [10, 6, 4], JOB.images).seconds
    with pytest.raises(InfeasibleError) as caught:
        make_quote(Wish(JOB.images, best - 60), consumer, JOB)
    assert "all 20 nodes of the fleet together take" in str(caught.value)
    assert "60 s too long" in str(caught.value)
    assert "times as many of each would do" in str(caught.value)


def test_a_deadline_shorter_than_a_start_says_so(consumer: Market) -> None:
    """No number of nodes would help."""
    with pytest.raises(
        InfeasibleError, match=r"starting a node, loading the model and ending a run alone take 6\.8 min"
    ):
        make_quote(Wish(JOB.images, 60), consumer, JOB)


def test_an_impossible_budget_says_by_how_much(consumer: Market) -> None:
    """What the cheapest mix costs, and what is missing."""
    with pytest.raises(
        InfeasibleError, match=r"budget \$0\.01 cannot be met: the cheapest mix costs \$0\.\d+, \$0\.\d+ too"
    ):
        make_quote(Wish(JOB.images, budget=0.01), consumer, JOB)


def test_deadline_and_budget_that_do_not_go_together_say_by_how_much(consumer: Market) -> None:
    """What it costs in time, and how long it takes for the money."""
    with pytest.raises(InfeasibleError) as caught:
        make_quote(Wish(JOB.images, 0.25 * HOUR, budget=0.3), consumer, JOB)
    assert "deadline 15 min and budget $0.30 together: the cheapest mix in time costs $" in str(caught.value)
    assert "for the budget alone it takes" in str(caught.value)


def test_what_has_no_price_or_no_profile_is_said_and_left_out() -> None:
    """It is not guessed; the rest is quoted."""
    found = market(home("L4", 3, market="spot"), home("Voodoo 2", 3), home("T4", 3))
    assert [rental.name for rental in found.rentals] == ["T4"]
    assert "no price for 1 × L4, spot" in found.left_out["L4-spot"]
    assert found.left_out["Voodoo 2"].startswith(("no price", "nothing is known"))
    explained = make_quote(Wish(50_000, 5 * HOUR, runs=1), found, Job(50_000)).explanation
    assert any(line.startswith("Left out: L4-spot: no price") for line in explained)


def test_a_measured_run_wins_over_the_model() -> None:
    """And its spread is drawn from."""
    known = {"T4": MeasuredCard(80.0, (0.5, 1.5), 7.0), "GeForce-RTX-3090": MeasuredCard(60.0)}
    found = market(home("T4", 3), home("GeForce-RTX-3090", 2), home("A10G", 2), measured=known)
    assert [rental.speed.basis for rental in found.rentals] == ["measured", "measured", "modelled"]
    assert found.rentals[0].speed.expected == 80
    assert found.rentals[0].speed.relative_times == (0.5, 1.5)
    assert kind_of(found.rentals[0], found.assumptions).load_s == 7


def test_doubt_about_the_model_is_doubt_about_all_cards(consumer: Market) -> None:
    """Many kinds of cards do not make it certain: the spread of their sum is most of the spread of one."""
    draw = random.Random(0)
    drawn = [drawn_factors(consumer.rentals * 6, consumer.assumptions, draw) for _ in range(300)]
    one, mean = statistics.stdev(f[0] for f in drawn), statistics.stdev(statistics.mean(f) for f in drawn)
    assert mean > 0.8 * one
    assert statistics.mean(f[0] for f in drawn) == pytest.approx(1, rel=0.02)
    assert all(0.5 / 0.65 <= factor <= 0.8 / 0.65 + 1e-9 for factors in drawn for factor in factors)


def test_what_is_modelled_is_called_so(consumer: Market) -> None:
    """With the share of the ceiling that it is taken to reach."""
    quote = make_quote(Wish(JOB.images, HOUR, runs=1), consumer, JOB)
    assert any("50% to 80% of a model of the card, which is a ceiling" in line for line in quote.explanation)


def test_the_emitted_fleet_is_quoted_as_this_mix(cloud: Market) -> None:
    """Read back, it gives the same nodes and the same planned time and cost."""
    quote = make_quote(Wish(JOB.images, HOUR, runs=1), cloud, JOB)
    again = parse_fleet(fleet_yaml(quote), "again")
    assert {offer.label: offer.most_nodes for offer in again.nodes} == {
        line.rental.name: line.nodes for line in quote.lines if line.nodes
    }
    assert again.assumptions == cloud.assumptions
    rented = Market(
        tuple(replace(r, offer=o) for o in again.nodes for r in cloud.rentals if r.name == o.label), {}, "USD"
    )
    second = make_quote(Wish(JOB.images, HOUR, runs=1), rented, JOB)
    assert [n for n in second.mix.counts if n] == [n for n in quote.mix.counts if n]
    assert second.mix.dollars == pytest.approx(quote.mix.dollars, rel=1e-3)


@pytest.mark.lengthy
def test_a_prediction_for_given_nodes_is_that_of_the_quote_for_them(consumer: Market) -> None:
    """Nothing is chosen, the same is simulated."""
    quote = make_quote(Wish(JOB.images, HOUR, runs=4), consumer, JOB)
    found = predict(consumer, quote.mix.counts, replace(JOB, chunk_rows=quote.rows), runs=4)
    assert (found.seconds.high, found.dollars.high) == pytest.approx((quote.seconds.high, quote.dollars.high), rel=0.1)


def test_what_is_free_is_taken_first(tmp_path: Path) -> None:
    """A machine of one's own, at no price: it is used, and numbers stay numbers."""
    (tmp_path / "own.yaml").write_text("currency: USD\nprices: [{card: T4, per_hour: 0, source: mine}]\n")
    found = market(home("T4", 2), home("A10G", 5), prices=[str(tmp_path / "own.yaml")])
    quote = make_quote(Wish(JOB.images, 1.2 * HOUR, runs=2), found, JOB)
    assert quote.mix.counts[0] == 2
    assert "T4 (free)" in " ".join(quote.explanation)
    json.dumps(quote_document(quote), allow_nan=False)


def test_the_cluster_file_is_one_that_ray_up_takes(cloud: Market) -> None:
    """By Ray's own schema, with a node type for each kind, spot where it is spot, and labels for the ledger."""
    quote = make_quote(Wish(JOB.images, 0.5 * HOUR, runs=1), cloud, JOB)
    tree = yaml.safe_load(ray_up_yaml(plan_of_quote(quote)))
    schema = Path(os.path.dirname(ray.__file__), "autoscaler", "ray-schema.json")
    jsonschema.validate(tree, json.loads(schema.read_text()))
    assert tree["provider"] == {"type": "aws", "region": "us-east-1"}
    spot = tree["available_node_types"]["g5-xlarge-spot"]
    assert spot["node_config"]["InstanceType"] == "g5.xlarge"
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert spot["labels"].items() >= {"ray.io/market-type": "spot", "ramfleet/instance-type": "g5.xlarge"}.items()
    assert sum(kind.get("min_workers", 0) for kind in tree["available_node_types"].values()) == quote.mix.nodes


def test_a_card_without_an_instance_type_cannot_be_rented_by_ray_up(consumer: Market) -> None:
    """It says which, and what to do."""
    quote = make_quote(Wish(JOB.images, HOUR, runs=1), consumer, JOB)
    with pytest.raises(ConfigError, match=r"emit=ray-up: GeForce-RTX-.*: no instance_type.*use --emit kuberay"):
        ray_up_yaml(plan_of_quote(quote))


def test_worker_groups_of_kuberay_are_one_for_each_kind(cloud: Market) -> None:
    """With cards, labels, where to run, and tolerations of spot nodes for spot nodes only."""
    quote = make_quote(Wish(1_000_000, 0.45 * HOUR, runs=1), cloud, Job(1_000_000))
    tree = yaml.safe_load(raycluster_yaml(plan_of_quote(quote), PodChoices()))
    groups = {group["groupName"]: group for group in tree["spec"]["workerGroupSpecs"]}
    assert {name: group["replicas"] for name, group in groups.items()} == {
        line.rental.name.replace(".", "-"): line.nodes for line in quote.lines if line.nodes
    }
    for name, group in groups.items():
        spec = group["template"]["spec"]
        keys = {toleration["key"] for toleration in spec["tolerations"]}
        assert ("cloud.google.com/gke-spot" in keys) == name.endswith("-spot")
        assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert spec["nodeSelector"]["node.kubernetes.io/instance-type"] in ("g5.xlarge", "g4dn.xlarge")
        assert group["labels"]["ray.io/market-type"] in ("spot", "on-demand")


@pytest.mark.lengthy
def test_a_run_is_simulated_as_it_was_predicted(consumer: Market) -> None:
    """A run with seeds and speeds that the quote has not seen ends near its middle."""
    quote = make_quote(Wish(JOB.images, HOUR, runs=10), consumer, JOB)
    kinds = [kind_of(rental, consumer.assumptions) for rental in consumer.rentals]
    run = simulate(
        kinds, quote.mix.counts, Job(JOB.images, quote.real_rows, 150_000, 442_368), consumer.assumptions, 99
    )
    assert quote.seconds.low * 0.9 <= run.seconds <= quote.seconds.high * 1.1


# ---- the command ----


def run(*arguments: str) -> tuple[int, str]:
    from jobs.main import app

    result = CliRunner().invoke(app, ["quote", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.lengthy
@pytest.mark.parametrize("text", ["6", "h", "-3h", "0h", "6 hours"])
def test_a_deadline_has_a_number_and_a_unit(text: str, tmp_path: Path) -> None:
    """Or is refused with an example."""
    code, output = run("--images", "5", "--fleet", str(tmp_path), f"--deadline={text}")
    assert code == 2
    assert "90m, 6h or 2d" in " ".join(output.replace("│", " ").split())


def test_input_or_a_number_not_both(tmp_path: Path) -> None:
    """Nor neither."""
    assert run("--fleet", str(tmp_path))[0] == 2
    assert run("pictures", "--images", "4", "--fleet", str(tmp_path))[0] == 2


def test_a_budget_of_nothing_does_for_what_is_free(tmp_path: Path) -> None:
    """And for nothing else."""
    offers = "nodes: [{card: own, images_per_s: 10, most_nodes: 2}, {card: T4, most_nodes: 3}]"
    (tmp_path / "own.yaml").write_text("own: 0")
    market = open_market(parse_fleet(offers, "f"), load_prices([str(tmp_path / "own.yaml")]), load_profiles(), RAM_PLUS)
    made = make_quote(Wish(10_000, budget=0.0, runs=3), market, Job(10_000))
    assert (made.dollars.high, made.afforded) == (0.0, 1.0)
    assert {line.rental.name: line.nodes for line in made.lines}["T4"] == 0


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("images_per_s: 1e300", "images_per_s='1e300': input should be less than or equal to 1000000"),
        ("cpus: 1e300", "cpus='1e300': input should be less"),
        ("vram_gib: 1e300", "vram_gib='1e300': input should be less"),
    ],
)
def test_figures_that_no_node_has_are_refused(node: str, said: str) -> None:
    """Beyond them the integer program has no answer."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_fleet(f"nodes: [{{card: T4, most_nodes: 1, {node}}}]", "f")


def test_ages_are_said_shortly() -> None:
    """A fleet that would take longer than the world is old does not fill the screen with digits."""
    slow = parse_fleet("nodes: [{card: T4, most_nodes: 1, images_per_s: 1.0e-300}]", "f")
    market = open_market(slow, load_prices(None), load_profiles(), RAM_PLUS)
    with pytest.raises(InfeasibleError, match=r"the whole fleet takes 2\.\de\+\d+ h, over"):
        make_quote(Wish(1000), market, Job(1000))


def test_every_kind_has_a_name_of_its_own_in_a_cluster_file(tmp_path: Path) -> None:
    """A DNS label (RFC 1123), also where kinds differ in other signs only, or in what is cut off, or have no letter."""
    prices = tmp_path / "own.yaml"
    names = ("T4 a", "T4-A", "🐕", "…", "head", f"{'n' * 54}-{'m' * 20}1", f"{'n' * 54}-{'m' * 20}2")
    prices.write_text("".join(f"x.{n}: 1\n" for n in range(len(names))))
    nodes = [
        {"name": name, "card": "T4", "instance_type": f"x.{n}", "most_nodes": 1, "least_nodes": 1, "images_per_s": 10}
        for n, name in enumerate(names)
    ]
    market = open_market(
        parse_fleet(json.dumps({"nodes": nodes}, ensure_ascii=False), "f"),
        load_prices([str(prices)]),
        load_profiles(),
        RAM_PLUS,
    )
    made = make_quote(Wish(10_000, runs=2), market, Job(10_000))
    groups = [
        group["groupName"]
        for group in yaml.safe_load(raycluster_yaml(plan_of_quote(made), PodChoices()))["spec"]["workerGroupSpecs"]
    ]
    assert len(set(groups)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", group) for group in groups)
    types = yaml.safe_load(ray_up_yaml(plan_of_quote(made)))["available_node_types"]
    assert [*types] == ["head", *groups]


def products_asked(group: dict[str, Any]) -> list[str]:
    """Names of cards that a group's pods want of their node."""
    affinity = group["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    rules = [rule for term in affinity["nodeSelectorTerms"] for rule in term["matchExpressions"]]
    return [name for rule in rules if rule["key"] == "nvidia.com/gpu.product" for name in rule["values"]]


def test_a_node_without_a_card_is_selected_by_none(tmp_path: Path) -> None:
    """No node has a product called NVIDIA-cpu."""
    prices = tmp_path / "own.yaml"
    prices.write_text("cpu: 0.1\nNVIDIA L4: 0.5")
    nodes = (
        "{card: cpu, most_nodes: 1, least_nodes: 1, images_per_s: 5}, {card: NVIDIA L4, most_nodes: 1, least_nodes: 1}"
    )
    market = open_market(parse_fleet(f"nodes: [{nodes}]", "f"), load_prices([str(prices)]), load_profiles(), RAM_PLUS)
    groups = yaml.safe_load(
        raycluster_yaml(plan_of_quote(make_quote(Wish(10_000, runs=2), market, Job(10_000))), PodChoices())
    )
    assert [products_asked(group) for group in groups["spec"]["workerGroupSpecs"]] == [[], ["L4", "NVIDIA-L4"]]


@pytest.mark.parametrize("option", [("--budget", "inf"), ("--deadline", "9" * 400 + "d"), ("--tags", "1000000000000")])
def test_amounts_without_an_end_are_refused(tmp_path: Path, option: tuple[str, str]) -> None:
    """JSON has no infinity, and no memory holds so many tags."""
    from jobs.main import app

    (tmp_path / "f.yaml").write_text("nodes: [{card: T4, most_nodes: 1}]")
    result = CliRunner().invoke(app, ["quote", "--images", "10", "--fleet", str(tmp_path / "f.yaml"), *option])
    assert (result.exit_code, option[0] in result.output) == (2, True)
