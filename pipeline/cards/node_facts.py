"""What a node is, read on the node itself: its cards, its CPU, and whether it sees the files of the run."""

import hashlib
import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayError

from pipeline.config import Config
from pipeline.errors import ClusterError, InputError, StoreError, last_line
from pipeline.manifests.listing import is_glob, split_glob
from pipeline.manifests.manifest import open_input
from pipeline.stores.run_store import RunStore
from ramcore.bundle import HASHED_FILES
from ramcore.cpu import read_cpu

READ_TIMEOUT_S = 60.0
"""How long a node may take to answer; its first task also starts a Python process there."""
_SAMPLED_IMAGES = 3
_SMALL_FILE_BYTES = 1 << 24


@dataclass(frozen=True)
class Gpu:
    """One card, or one MIG slice of one.

    name: as the driver says it; capability: of CUDA, (major, minor).
    """

    name: str
    vram_bytes: int
    capability: tuple[int, int]
    mig: bool = False


@dataclass(frozen=True)
class NodeFacts:
    """What was read on one node.

    gpus: those that jobs may use, none where there is no driver; driver: its version; cpu: name of the CPU;
    cpu_bf16: whether it has instructions for bf16; least_capability: of cards that the node's PyTorch can use, None
    where that is not known; unseen: what it does not see of the run, a line for each; silent: it never answered.
    """

    host: str
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cpu: str = ""
    cpu_bf16: bool = False
    least_capability: tuple[int, int] | None = None
    unseen: tuple[str, ...] = ()
    silent: str | None = None


@dataclass(frozen=True)
class Witness:
    """A file or folder that every node has to see as the driver does.

    what: INPUT or the bundle; size: of a file in bytes, None for a folder; sha256: of a small file's content.
    """

    what: Literal["INPUT", "the bundle"]
    path: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Proof:
    """What a node has to show before it takes part.

    token: name of an object that the driver wrote into the run folder, with `secret` in it; store: None where no run
    is to be proven.
    """

    store: RunStore | None = None
    token: str = ""
    secret: str = ""
    witnesses: tuple[Witness, ...] = ()


@contextmanager
def proof_of(store: RunStore | None, input: str | None, bundle: Path, config: Config) -> Iterator[Proof]:
    """The proof for a run. Within, its token lies in the run folder, also for nodes that join later."""
    witnesses = (*_bundle_witnesses(bundle), *(_input_witnesses(input, config) if input is not None else ()))
    if store is None:
        yield Proof(witnesses=witnesses)
        return
    token, secret = f".tmp-proof-{uuid.uuid4().hex}", uuid.uuid4().hex
    store.create(token, secret.encode())
    try:
        yield Proof(store, token, secret, witnesses)
    finally:
        store.delete(token)


def read_node(proof: Proof) -> NodeFacts:
    """The facts of the node that this runs on. What cannot be read there is left out; nothing is raised for it."""
    gpus, driver = _read_cards()
    cpu, cpu_bf16 = read_cpu()
    return NodeFacts(
        host=socket.gethostname(),
        gpus=gpus,
        driver=driver,
        cpu=cpu,
        cpu_bf16=cpu_bf16,
        least_capability=_least_capability() if gpus else None,
        unseen=tuple(_unseen(proof)),
    )


def start_reading(node_id: str, proof: Proof) -> Any:
    """An ObjectRef of the facts of a node, to be awaited; it takes no CPU, but a process on the node.

    It never becomes ready where the node dies or hangs: give up after READ_TIMEOUT_S, and put `silent_node` in place.
    """
    task = ray.remote(read_node)
    return task.options(num_cpus=0, max_retries=1, label_selector={"ray.io/node-id": node_id}).remote(proof)


def silent_node(node: Mapping[str, Any], why: str = "") -> NodeFacts:
    """The facts of a node that did not answer, or answered with an error."""
    return NodeFacts(host_of(node), silent=why or f"it did not answer within {READ_TIMEOUT_S:g} s")


def read_nodes(
    nodes: Sequence[Mapping[str, Any]], proof: Proof, timeout_s: float = READ_TIMEOUT_S
) -> dict[str, NodeFacts]:
    """The facts of all nodes that are alive, by node id: of this process's own in place, of the others by tasks."""
    here = ray.get_runtime_context().get_node_id()
    others = {str(node["NodeID"]): node for node in nodes if node["Alive"] and node["NodeID"] != here}
    reading = {node_id: start_reading(node_id, proof) for node_id in others}
    facts = {here: read_node(proof)} if any(node["NodeID"] == here for node in nodes) else {}
    answered, _ = ray.wait(list(reading.values()), num_returns=len(reading), timeout=timeout_s) if reading else ([], [])
    for node_id, reference in reading.items():
        if reference not in answered:
            ray.cancel(reference, force=True)
            facts[node_id] = silent_node(others[node_id], f"it did not answer within {timeout_s:g} s")
            continue
        try:
            facts[node_id] = ray.get(reference)
        except RayError as error:
            facts[node_id] = silent_node(others[node_id], f"it could not be read: {last_line(error)}")
    return facts


def check_proven(facts: Mapping[str, NodeFacts]) -> None:
    """Raise ClusterError that names every node and path which does not see what the driver sees."""
    lines = [
        f"node {fact.host} ({node_id[:8]}) {line}"
        for node_id, fact in sorted(facts.items(), key=lambda item: item[1].host)
        for line in fact.unseen
    ]
    if lines:
        remedy = "put RUN, INPUT and the bundle where every node of the cluster sees them under the same path"
        raise ClusterError("\n".join([*lines, remedy]))


def host_of(node: Mapping[str, Any]) -> str:
    """The name or address of a node as Ray knows it."""
    return str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress") or node["NodeID"][:8])


# ---- cards ----


def _read_cards() -> tuple[tuple[Gpu, ...], str | None]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver: no cards
        return (), None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        cards = [card for index, handle in enumerate(handles) if _visible(index, handle) for card in _cards(handle)]
        return tuple(cards), _text(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def _visible(index: int, handle: Any) -> bool:
    """Whether processes may use the card. An empty list is Ray's way to keep tasks without a GPU from all of them."""
    import pynvml

    allowed = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
    return not allowed or any(part == str(index) or uuid.startswith(part) or part[:4] == "MIG-" for part in allowed)


def _cards(handle: Any) -> list[Gpu]:
    """The card, or its MIG slices where it is cut up."""
    import pynvml

    name = _text(pynvml.nvmlDeviceGetName(handle))
    capability = tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    slices = _mig_slices(handle)
    parts = slices or [handle]
    return [Gpu(name, pynvml.nvmlDeviceGetMemoryInfo(part).total, capability, bool(slices)) for part in parts]


def _mig_slices(handle: Any) -> list[Any]:
    import pynvml

    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
        count = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except pynvml.NVMLError:  # a card that has no MIG
        return []
    slices = []
    for index in range(count if current == pynvml.NVML_DEVICE_MIG_ENABLE else 0):
        with suppress(pynvml.NVMLError):  # numbers of slices have gaps
            slices.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
    return slices


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


@cache
def _least_capability() -> tuple[int, int] | None:
    """Of the cards that this PyTorch was built for."""
    import torch

    built = [name.removeprefix("sm_").rstrip("af") for name in torch.cuda.get_arch_list() if name.startswith("sm_")]
    return min(((int(number[:-1]), int(number[-1])) for number in built), default=None)


# ---- the files of the run ----


def _bundle_witnesses(bundle: Path) -> Iterator[Witness]:
    for name in HASHED_FILES:
        yield _witness("the bundle", bundle / name)


def _input_witnesses(input: str, config: Config) -> Iterator[Witness]:
    """A few local images of INPUT, and its folder; none where it is not on local disk or not there any more."""
    scheme, separator, rest = input.partition("://")
    if separator and scheme != "file":
        return
    path = Path(rest if separator else input).absolute()
    if is_glob(str(path)) and not path.exists():
        path = Path(split_glob(str(path))[0])
    samples: list[str] = []
    with suppress(OSError):  # not there any more, or not to be read: other parts of the run say so if they need it
        if path.is_dir():
            yield Witness("INPUT", str(path))
            with os.scandir(path) as entries:
                samples = list(islice((entry.path for entry in entries if entry.is_file()), _SAMPLED_IMAGES))
        else:
            samples = _local_images(input, config)
    for sample in samples:
        with suppress(OSError):  # such a row will be a reject
            yield _witness("INPUT", Path(sample))


def _local_images(input: str, config: Config) -> list[str]:
    """The first images that a picture or a manifest names, as far as they are local."""
    try:
        uris = next(open_input(input, config=config).batches())["uri"].slice(0, 64).to_pylist()
    except (InputError, StopIteration):  # a run that goes on does without INPUT, if its images are still there
        return []
    return [uri for uri in uris if uri.startswith("/")][:_SAMPLED_IMAGES]


def _witness(what: Literal["INPUT", "the bundle"], path: Path) -> Witness:
    size = path.stat().st_size
    return Witness(what, str(path), size, _sha256(path) if size <= _SMALL_FILE_BYTES else None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unseen(proof: Proof) -> Iterator[str]:
    """A line for everything that this node does not see as the driver does."""
    if proof.store is not None:
        problem = _run_problem(proof.store, proof)
        if problem is not None:
            yield f"does not see RUN {proof.store.root} as the driver does: {problem}"
    for witness in proof.witnesses:
        problem = _witness_problem(witness)
        if problem is not None:
            yield f"does not see {witness.what} as the driver does: {witness.path}: {problem}"


def _run_problem(store: RunStore, proof: Proof) -> str | None:
    """Read what the driver wrote, and write something: a node that only reads could not commit."""
    try:
        if store.read(proof.token).decode() != proof.secret:
            return "another folder is there under this path"
        own = f"{proof.token}-{uuid.uuid4().hex}"
        store.create(own, b"")
        store.delete(own)
    except FileNotFoundError:
        return "what the driver wrote there is missing"
    except (OSError, StoreError) as error:
        return last_line(error)
    return None


def _witness_problem(witness: Witness) -> str | None:
    path = Path(witness.path)
    try:
        if witness.size is None:
            return None if path.is_dir() else "not a folder there" if path.exists() else "not there"
        if path.stat().st_size != witness.size or (witness.sha256 and _sha256(path) != witness.sha256):
            return "another file is there under this path"
    except FileNotFoundError:
        return "not there"
    except OSError as error:
        return error.strerror or str(error)
    return None
