"""What an event must look like to be read: fields of the right kind, so that no damaged line reaches an account."""

import math
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from pipeline.events.kinds import ALWAYS

Check = Callable[[Any], bool]

_LATEST_S = 253_402_300_800.0
"""The year 10,000: no moment of an event lies beyond it."""


def is_event(value: Any) -> bool:
    """Whether a line of a log holds an event; of a name that is not known, only the fields of every event count.

    Fields that are not known are passed over. Missing are only those without which an event says nothing.
    """
    if not isinstance(value, dict) or not value.keys() >= ALWAYS.keys():
        return False
    name = value["event"]
    if not (_is_moment(value["at"]) and isinstance(value["session"], str) and isinstance(name, str)):
        return False
    if name not in _NEEDED:
        return True
    checks = _OF_EVENT.get(name, _FIELDS)
    return all(field in value for field in _NEEDED[name]) and all(
        checks[field](told) for field, told in value.items() if field in checks
    )


def is_number(value: Any) -> bool:
    """A finite number; JSON as Python reads it also has NaN and Infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_moment(value: Any) -> bool:
    return is_number(value) and 0 <= value < _LATEST_S


def _is_amount(value: Any) -> bool:
    return is_number(value) and 0 <= value < _LATEST_S


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_work(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 3 and all(_is_count(number) for number in value[:3])


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_price(value: Any) -> bool:
    """{per_hour: amount as text, currency, source}."""
    if not isinstance(value, dict) or not all(_is_text(value.get(f)) for f in ("per_hour", "currency", "source")):
        return False
    try:
        amount = Decimal(value["per_hour"])
    except InvalidOperation:
        return False
    return amount.is_finite() and amount >= 0


def _is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_count(count) for count in value.values())


def _is_readings(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(card, dict) and all(is_number(reading) for reading in card.values()) for card in value.values()
    )


_FIELDS: Mapping[str, Check] = {
    **dict.fromkeys(("node", "replica", "lease", "command", "host", "bundle"), _is_text),
    **dict.fromkeys(("since", "ended_at", "died_at"), _is_moment),
    **dict.fromkeys(("load_s", "model_s", "ran_s", "commit_s", "after_s", "num_gpus"), _is_amount),
    **dict.fromkeys(("lane", "chunk", "generation", "images", "pid"), _is_count),
    **dict.fromkeys(("first", "begun", "node_gone"), _is_flag),
    **dict.fromkeys(("cause", "instance_type", "market", "zone", "region"), _or_null(_is_text)),
    **dict.fromkeys(("node_type", "card"), _is_text),
    **dict.fromkeys(("vram_gib", "limit_images_per_s"), _or_null(_is_amount)),
    "gpus": _is_count,
    "price": _or_null(_is_price),
    "work": _is_work,
    "rejects": _is_counts,
    "cpu": is_number,
    "cards": _is_readings,
}
_OF_EVENT: Mapping[str, Mapping[str, Check]] = {
    "replica_ready": {**_FIELDS, "gpus": _is_list_of_text},
}
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "driver_started": (),
    "commit": ("chunk", "first"),
    "node_joined": ("node",),
    "node_gone": ("node",),
    "replica_started": ("replica", "node"),
    "replica_ready": ("replica",),
    "replica_gone": ("replica",),
    "lease": ("replica", "lease", "work"),
    "lease_done": ("replica", "lease", "model_s", "ended_at"),
    "lease_failed": ("replica", "lease", "ran_s"),
    "lease_lost": ("replica", "work"),
    "sample": ("node",),
}
