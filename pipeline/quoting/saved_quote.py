"""A quote as `ramfleet quote --json` wrote it, kept in a run folder to be held against what became of it."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError
from pipeline.quoting.fleet_file import explain_faults
from pipeline.stores.run_store import RunStore

_NAME = "quote.json"

_Count = Annotated[int, Field(ge=0)]
_Value = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Drawn(_Part):
    """Of simulated runs: the middle one, and those between which four of five lie."""

    p10: _Value
    p50: _Value
    p90: _Value

    @model_validator(mode="after")
    def _in_order(self) -> "Drawn":
        if not self.p10 <= self.p50 <= self.p90:
            raise ValueError(f"p10 {self.p10:g}, p50 {self.p50:g}, p90 {self.p90:g} are not in order: quote again")
        return self


class Simulated(_Part):
    """Whole runs: seconds from asking for nodes to the last table, and what they cost."""

    seconds: Drawn
    dollars: Drawn


class QuotedKind(_Part):
    """One kind of node. images_per_s: of one of its cards; images, dollars, preemptions: of all its nodes, means."""

    name: str
    card: str | None = None
    gpus: _Count = 1
    nodes: _Count
    images_per_s: _Value
    images: _Value
    dollars: _Value
    preemptions: _Value


class SavedQuote(_Part):
    """What of a quote can be held against a run. dollars: in `currency`."""

    images: Annotated[int, Field(gt=0)]
    currency: str
    nodes: _Count
    simulated: Simulated
    kinds: tuple[QuotedKind, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> "SavedQuote":
        names = [kind.name for kind in self.kinds]
        twice = sorted(name for name, times in Counter(names).items() if times > 1)
        if twice:
            raise ValueError(f"several kinds are called {', '.join(twice)}: quote again")
        return self


def parse_quote(data: bytes, source: str) -> SavedQuote:
    """A quote from its JSON; source: how errors name it. Raises ConfigError that names every wrong field."""
    try:
        return SavedQuote.model_validate(json.loads(data))
    except ValidationError as error:
        raise ConfigError("\n".join(explain_faults(error, source))) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not JSON, as `ramfleet quote --json` writes it: {error}") from error


def read_quote_file(path: Path) -> tuple[SavedQuote, bytes]:
    """A quote from a local file, and the file as it is. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"quote={path}: {error.strerror}") from error
    return parse_quote(data, f"quote={path}"), data


def keep_quote(store: RunStore, data: bytes) -> None:
    """Put a quote into a run folder; a later one takes its place."""
    store.replace(_NAME, data)


def kept_quote(store: RunStore) -> SavedQuote | None:
    """The quote in a run folder, if there is one. Raises ConfigError if it is damaged."""
    try:
        data = store.read(_NAME)
    except FileNotFoundError:
        return None
    return parse_quote(data, f"{store.root}/{_NAME}")
