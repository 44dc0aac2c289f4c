"""What is known of cards: the makers' figures, which come with the package, and what `ramfleet calibrate` measured."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError
from pipeline.text_files import read_text
from pipeline.yaml_text import read_yaml

GIB = 2**30

_MEMORY_TOLERANCE = 0.08
"""Drivers, error correction and nominal sizes differ by less; memory sizes of one name of card by more."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]


def _capability(value: Any) -> Any:
    """ "8.6" to (8, 6), which compares as capabilities do."""
    return tuple(value.split(".")) if isinstance(value, str) else value


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CardProfile(_Entry):
    """A card as its maker describes it.

    card: Ray's name; names: the driver's, without "NVIDIA " in front; capability: CUDA's, (major, minor);
    vram_gib: nominal, GiB; bandwidth_gb_s: GB/s; fp16, bf16, fp32: dense TFLOP/s of matrix products that add up in
    fp32, None where the card has no such arithmetic; tdp_w: watts; source: where the figures are from.
    """

    card: Text
    names: tuple[Text, ...] = ()
    capability: Annotated[tuple[int, int], BeforeValidator(_capability)]
    vram_gib: Positive
    bandwidth_gb_s: Positive
    fp16: Positive | None
    bf16: Positive | None
    fp32: Positive
    tdp_w: Positive
    source: Text

    @model_validator(mode="after")
    def _no_bf16_before_ampere(self) -> "CardProfile":
        if self.bf16 is not None and self.capability < (8, 0):
            raise ValueError("bf16 is given for a card of a capability under 8.0, which has none: write bf16: null")
        return self

    def tflops(self, dtype: str) -> float:
        """TFLOP/s in this dtype; where the card has no such arithmetic, PyTorch computes in fp32."""
        rate: float | None = getattr(self, dtype)
        return self.fp32 if rate is None else rate


class MeasuredProfile(_Entry):
    """The best point that `ramfleet calibrate` found for one device, model and dtype.

    name: of the card or CPU as its driver says it; vram_gib: of the card, None for a CPU; driver: None for a CPU;
    model: hash of the bundle; threads: CPU threads of a replica; images_per_s: of all replicas together;
    peak_bytes: memory of one replica, on a card what PyTorch allocated there.
    """

    name: Text
    vram_gib: Positive | None = None
    driver: str | None = None
    torch: Text
    model: Text
    tags: Count
    dtype: Annotated[str, Field(pattern="^(fp32|bf16|fp16)$")]
    compiled: bool = False
    microbatch: Count
    replicas: Count
    threads: Count = 1
    images_per_s: Positive
    peak_bytes: Count
    date: date


class ProfileFile(_Entry):
    """What a file of profiles holds: cards, and measurements."""

    cards: tuple[CardProfile, ...] = ()
    measured: tuple[MeasuredProfile, ...] = ()


@dataclass(frozen=True)
class CardTable:
    """All profiles of a run, the first match wins."""

    cards: tuple[CardProfile, ...] = ()
    measured: tuple[MeasuredProfile, ...] = ()

    def find(self, card: str, name: str | None = None, vram_bytes: int | None = None) -> CardProfile | None:
        """The profile of a card; None where it is not known.

        card: Ray's name; name: the driver's, which decides where both are known; vram_bytes: as read, which tells
        profiles of one name apart. Without it the one with the least memory is taken.
        """
        plain = None if name is None else _plain(name)
        named = [profile for profile in self.cards if plain in map(_plain, profile.names)] if plain else []
        candidates = named or [profile for profile in self.cards if profile.card == card]
        if not candidates:
            return None
        if vram_bytes is None:
            return min(candidates, key=lambda profile: profile.vram_gib)
        return min(candidates, key=lambda profile: abs(profile.vram_gib * GIB - vram_bytes))

    def find_measured(
        self, names: Iterable[str], model: str, dtype: str, vram_bytes: int | None = None, compiled: bool = False
    ) -> MeasuredProfile | None:
        """What was measured on a device of any of these names with this model.

        vram_bytes: of the card, None for a CPU; cards of one name may have more or less of it. compiled: whether
        replicas compile theirs.
        """
        plain = {_plain(name) for name in names}
        for profile in self.measured:
            same_work = (profile.model, profile.dtype, profile.compiled) == (model, dtype, compiled)
            if same_work and _plain(profile.name) in plain and _same_memory(profile, vram_bytes):
                return profile
        return None


def load_profiles(path: str | Path | None = None) -> CardTable:
    """The table that comes with the package, with the profiles of a file before it.

    Raises ConfigError that names every wrong field with its value, all at once.
    """
    shipped = _shipped()
    if path is None:
        return shipped
    text = read_text(path, "fleet.profiles")
    own = parse_profiles(text, f"fleet.profiles={path}")
    replaced = {(profile.card, profile.vram_gib) for profile in own.cards}
    kept = tuple(profile for profile in shipped.cards if (profile.card, profile.vram_gib) not in replaced)
    return CardTable(own.cards + kept, own.measured)


def parse_profiles(text: str, source: str) -> CardTable:
    """The profiles of a YAML document; source: how errors name it."""
    try:
        tree = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return CardTable()
    try:
        file = ProfileFile.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, source))) from error
    return CardTable(file.cards, file.measured)


@cache
def _shipped() -> CardTable:
    file = resources.files("pipeline.cards") / "profiles.yaml"
    return parse_profiles(file.read_text(encoding="utf-8"), "profiles.yaml")


def _same_memory(profile: MeasuredProfile, vram_bytes: int | None) -> bool:
    if profile.vram_gib is None or vram_bytes is None:
        return profile.vram_gib is None and vram_bytes is None
    return abs(profile.vram_gib * GIB - vram_bytes) <= _MEMORY_TOLERANCE * vram_bytes


def _plain(name: str) -> str:
    """A name as it is compared: drivers write "NVIDIA " in front or do not."""
    return " ".join(name.removeprefix("NVIDIA ").split()).lower()


def _explain(error: ValidationError, source: str) -> list[str]:
    """One line for each wrong field."""
    lines: dict[str, str] = {}
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"][:3])
        given = f"={fault['input']!r}" if fault["type"] not in ("missing", "value_error") else ""
        lines.setdefault(place, f"{source}: {place}{given}: {fault['msg'][:1].lower()}{fault['msg'][1:]}")
    return list(lines.values())
