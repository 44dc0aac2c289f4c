"""Every event of a run's log: who writes it, what it tells, and its fields with their units."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Writer = Literal["driver", "worker", "fleet"]
"""The command's own process; a process that decodes and hands over; the Fleet's."""


@dataclass(frozen=True)
class EventKind:
    """One value of the field `event`. fields: what each tells, without those that every event has."""

    name: str
    writer: Writer
    meaning: str
    fields: Mapping[str, str] = field(default_factory=dict)


ALWAYS = {
    "at": "when it was written, seconds since 1970 by the writer's clock, to the millisecond",
    "session": "the driver process that it belongs to: its start in UTC and six random digits",
    "event": "which of the events below",
}
"""Fields of every event."""

_LEASE = "the lease's id"
_REPLICA = "the replica's id"
_NODE = "Ray's id of the node"
_NODE_TYPE = "the node's group or instance type"
_CARD = "the card as Ray names it, or cpu"
_WORK = "[chunk, first image, last image + 1, cut out of a struck chunk or not, to run alone or not]"

_TABLE = (
    EventKind("driver_started", "driver", "a command begins to work on the run", {
        "command": "tag or retry", "host": "its machine", "pid": "its process", "bundle": "the model's folder"}),
    EventKind("driver_alive", "driver", "it is still at work; every 30 s"),
    EventKind("driver_ended", "driver", "it has ended, well or not"),
    EventKind("spilled", "driver", "all chunks of the command are done", {
        "bytes": "pixels that Ray wrote to disk meanwhile as its object store was full"}),
    EventKind("commit", "worker", "a chunk was brought to its commit; what waited for the end of a doubtful outage is "
              "committed by the driver", {
        "chunk": "its number in the plan", "generation": "0, or which retry's it is",
        "first": "false if another had committed it before: then nothing came of this",
        "commit_s": "seconds that it took", "images": "rows that were worked on", "rejects": "how many of them were "
        "rejected, by error kind"}),
    EventKind("fleet_started", "fleet", "the Fleet's process begins; again after its death: the replicas and leases "
              "that it had are gone"),
    EventKind("node_joined", "fleet", "a node can be used", {
        "node": _NODE, "since": "when it was first seen, seconds since 1970", "host": "its name",
        "node_type": _NODE_TYPE, "card": _CARD, "card_names": "its cards as their driver names them",
        "gpus": "number of cards", "vram_gib": "memory of a card, GiB",
        "instance_type": "the machine as the cloud names it", "market": "spot or on-demand, if known",
        "zone": "if known",
        "region": "if known",
        "cpus": "CPUs that Ray has there", "object_store_bytes": "Ray's object store there, bytes",
        "limit_images_per_s": "the most that a card can do by its profile",
        "price": "null, or {per_hour: amount as text, currency, source} of the whole node",
        "unpriced": "why there is no price; only where it is null"}),
    EventKind("node_gone", "fleet", "a node is there no more", {
        "node": _NODE, "cause": "drained (after a notice), left (on purpose) or died (without a word)"}),
    EventKind("replica_started", "fleet", "a process for the model is being started", {
        "replica": _REPLICA, "node": _NODE, "node_type": _NODE_TYPE, "card": _CARD,
        "lane": "which of the node's cards is expected", "num_gpus": "share of a card; 0 on CPUs"}),
    EventKind("replica_ready", "fleet", "the model is loaded", {
        "replica": _REPLICA, "node": _NODE, "node_type": _NODE_TYPE, "card": _CARD, "num_gpus": "share of a card",
        "dtype": "fp32, bf16 or fp16", "microbatch": "images at once", "pid": "its process",
        "gpus": "the cards that it has, as Ray numbers them", "load_s": "seconds since it was started"}),
    EventKind("first_tag", "fleet", "a replica has done its first lease", {
        "replica": _REPLICA, "after_s": "seconds since it was started"}),
    EventKind("replica_draining", "fleet", "a replica gets no more work as its node is about to go", {
        "replica": _REPLICA}),
    EventKind("replica_gone", "fleet", "a replica is gone", {"replica": _REPLICA, "cause": "why, in words"}),
    EventKind("lease", "fleet", "a replica is lent for some images", {
        "lease": _LEASE, "replica": _REPLICA, "work": _WORK}),
    EventKind("lease_done", "fleet", "a replica has tagged them", {
        "lease": _LEASE, "replica": _REPLICA, "model_s": "seconds that the model worked",
        "ended_at": "until when, seconds since 1970 by the replica's clock"}),
    EventKind("lease_failed", "fleet", "the model raised an error", {
        "lease": _LEASE, "replica": _REPLICA, "ran_s": "seconds that it had run"}),
    EventKind("lease_lost", "fleet", "the replica died before it was done", {
        "lease": _LEASE, "replica": _REPLICA, "work": _WORK, "begun": "whether the replica had begun it",
        "ran_s": "seconds that it had run", "died_at": "when the death was noticed, seconds since 1970",
        "node_gone": "whether the node was gone too"}),
    EventKind("lease_orphaned", "fleet", "the process that held it died; the replica may still finish it", {
        "lease": _LEASE, "holder": "the process"}),
    EventKind("strike", "fleet", "work counts as suspect as a process died of it or the model raised an error", {
        "work": _WORK, "replica": _REPLICA, "strikes": "against this very work, this one included",
        "cause": "why, in words"}),
    EventKind("taken_over", "fleet", "a process gets chunks of one that died", {
        "holder": "the process that gets them", "chunks": "their numbers"}),
    EventKind("out_of_memory", "fleet", "memory ran out on a card, whose micro-batch is smaller now", {
        "replica": _REPLICA, "card": _CARD, "microbatch": "images at once from now on"}),
    EventKind("card_fault", "fleet", "a card is not used any more: another one contradicted its scores", {
        "card": _CARD, "node": _NODE, "slot": "which of the node's places for replicas"}),
    EventKind("sample", "fleet", "how hard a node works, every fleet.sample_every_s; what cannot be read is left out", {
        "node": _NODE, "cpu": "% of all CPUs since the last sample", "received": "bytes since then, loopback left out",
        "sent": "bytes since then", "cards": "by Ray's number of a card: {gpu: % of the time that a kernel "
        "ran, vram_mib: MiB in use, power_w: W}"}),
)  # fmt: skip

EVENTS: dict[str, EventKind] = {kind.name: kind for kind in _TABLE}
"""Every event by its name."""


def as_markdown() -> str:
    """All events as the tables of docs/events.md."""
    lines: list[str] = ["Every event has", "", *(_fields(ALWAYS)), ""]
    for kind in _TABLE:
        lines += [f"### `{kind.name}`", "", f"Written by the {kind.writer}: {kind.meaning}.", ""]
        lines += [*_fields(kind.fields), ""] if kind.fields else []
    return "\n".join(lines)


def _fields(fields: Mapping[str, str]) -> list[str]:
    return ["| field | |", "|---|---|", *(f"| `{name}` | {meaning} |" for name, meaning in fields.items())]
