"""run.json: written last, it says what the run is, what it was made with, and which parts are its own."""

import importlib.metadata
import json
import platform
from datetime import UTC, datetime
from typing import Any

from pipeline.model_record import recorded_model
from pipeline.parity_gate import recorded_parity
from pipeline.plan import Plan
from pipeline.stores.run_store import RunStore
from pipeline.tables.accounting import Published
from pipeline.tables.schemas import FORMAT_VERSION

_PACKAGES = ("ramfleet", "ray", "torch", "timm", "pyarrow", "Pillow", "simplejpeg", "numpy")


def run_document(store: RunStore, plan: Plan, published: Published) -> dict[str, Any]:
    """What run.json says."""
    model = recorded_model(store, plan)
    return {
        "format_version": FORMAT_VERSION,
        "status": "incomplete" if published.counts.missing else "complete",
        "finalized_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "demo": model.demo,
        "plan_hash": plan.hash,
        "pinned": plan.pinned,
        "model": {"kind": model.kind, "image_size": model.swin.image_size, "tags": model.num_tags},
        "parity": recorded_parity(store),
        "counts": published.counts.as_dict(),
        **_base(plan),
        "rejects_by_kind": published.rejects_by_kind,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "cost": published.cost,
        "parts": published.parts,
    }


def write_run(store: RunStore, document: dict[str, Any]) -> None:
    """Put run.json in place, in one step, after all that it lists."""
    store.replace("run.json", (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def _base(plan: Plan) -> dict[str, Any]:
    """The run that rows were carried over from, and how its images compare with the input; nothing without one."""
    if plan.pinned.get("--base") is None:
        return {}
    compared = {name: plan.counts[name] for name in ("new", "changed", "removed")}
    return {"base": {"run": plan.pinned["--base"], "plan_hash": plan.pinned["base.plan_hash"], **compared}}


def _version(package: str) -> str:
    return importlib.metadata.version(package)
