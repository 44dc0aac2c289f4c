"""Files of prices: SkyPilot's catalogue CSV by its header, and YAML of one's own prices."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib import resources
from typing import Literal

import yaml

from pipeline.costs.prices import Market, Offer, Price, PriceList, PriceTable, market_of, split_memory
from pipeline.errors import ConfigError
from pipeline.text_files import read_text
from pipeline.yaml_text import compose_yaml

CSV_COLUMNS = (
    "InstanceType",
    "AcceleratorName",
    "AcceleratorCount",
    "vCPUs",
    "MemoryGiB",
    "Region",
    "SpotPrice",
    "Price",
    "AvailabilityZone",
    "GpuInfo",
)
"""SkyPilot's header. Only `_NEEDED` of them must be there; columns beside them are passed over."""
_NEEDED = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Price")
_CSV_CURRENCY = "USD"
_GPU_MIB = re.compile(r"SizeInMiB\D{1,4}(\d+)")
_AMOUNT = re.compile(r"(?P<before>[$€£])?\s*(?P<number>[^\s$€£/]+)\s*(?P<after>[$€£]|[A-Za-z]{3})?\s*(/\s*h(r|our)?)?")
_LEAST_PRICE, _MOST_PRICE = Decimal("1e-9"), Decimal("1e9")
_RANGE = "of 0 or more, below a thousand million"
_MOST = 1_000_000
_SIGNS = {"$": "USD", "€": "EUR", "£": "GBP"}
_FIELDS = (
    "card",
    "instance_type",
    "per_hour",
    "market",
    "per",
    "gpus",
    "vram_gib",
    "region",
    "zone",
    "currency",
    "source",
)


def load_prices(paths: Sequence[str] | None) -> PriceTable:
    """The prices of these files, the later ones first, then the table that comes with the package.

    Files whose names end in .csv have SkyPilot's columns, all others are YAML; see docs/costs.md. The table is left out
    where own prices are in another currency. Raises ConfigError that names file, line, field, value and remedy.
    """
    own = [read_price_file(path) for path in reversed(paths or ())]
    same_currency(own)
    shipped = shipped_prices()
    if own and own[0].currency != shipped.currency:
        return PriceTable(tuple(own), (f"the prices that come with the package are in {shipped.currency}",))
    return PriceTable((*own, shipped))


@cache
def shipped_prices() -> PriceList:
    """The dated table that comes with the package."""
    file = resources.files("pipeline.costs") / "prices.yaml"
    return replace(parse_yaml(file.read_text(encoding="utf-8"), "prices.yaml"), is_typical=True)


def read_price_file(path: str) -> PriceList:
    """The prices of a file. Raises ConfigError that names file, line, field, value and remedy."""
    text = read_text(path, "prices")
    return parse_csv(text, path) if path.lower().endswith(".csv") else parse_yaml(text, path)


def same_currency(lists: Sequence[PriceList]) -> None:
    """Raises ConfigError if files are in different currencies: amounts in them cannot be added."""
    currencies = {prices.currency: prices.name for prices in lists}
    if len(currencies) > 1:
        named = ", ".join(f"{name} in {currency}" for currency, name in sorted(currencies.items()))
        raise ConfigError(f"prices: {named}: give all prices in one currency")


# ---- CSV ----


def parse_csv(text: str, name: str) -> PriceList:
    """Prices in SkyPilot's columns: of machines, in US dollars, an on-demand and a spot price in each row."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return PriceList(name, _CSV_CURRENCY, tuple(_offers_of_csv(rows, name)))
    except csv.Error as error:
        raise ConfigError(f"prices={name}, line {rows.line_num + 1}: not CSV: {error}") from error


def _offers_of_csv(rows: "csv.DictReader[str]", name: str) -> list[Offer]:
    header = [column.strip() for column in rows.fieldnames or ()]
    missing = [column for column in _NEEDED if column not in header]
    if missing:
        raise ConfigError(
            f"prices={name}, line 1: column {', '.join(missing)} is missing; the header is {','.join(CSV_COLUMNS)}"
        )
    twice = sorted({column for column in header if column and header.count(column) > 1})
    if twice:
        raise ConfigError(f"prices={name}, line 1: column {', '.join(twice)} is there several times: leave one")
    rows.fieldnames = header
    offers: list[Offer] = []
    for row in rows:
        if None in row:
            raise ConfigError(f"prices={name}, line {rows.line_num}: more fields than the header has; quote commas")
        if None in row.values():
            raise ConfigError(f"prices={name}, line {rows.line_num}: fewer fields than the header has; was it cut off?")
        offers += _offers_of_row(_Row({key: (value or "").strip() for key, value in row.items()}, name, rows.line_num))
    if not offers:
        raise ConfigError(f"prices={name}: there is no row with a Price or a SpotPrice in it")
    return offers


@dataclass(frozen=True)
class _Row:
    """A row of a CSV file, or an entry of a YAML file. lines: by field, where not `line`."""

    values: Mapping[str, str]
    file: str
    line: int
    lines: Mapping[str, int] | None = None

    def get(self, field: str) -> str | None:
        return self.values.get(field) or None

    def wrong(self, field: str, remedy: str) -> ConfigError:
        line = (self.lines or {}).get(field, self.line)
        return ConfigError(f"prices={self.file}, line {line}: {field}={self.values.get(field)!r}: {remedy}")

    def amount(self, field: str) -> Decimal:
        """A price. Raises ConfigError."""
        found = _price(self.values[field])
        if found is None:
            raise self.wrong(field, f"write an amount per hour {_RANGE}, like 0.20")
        return found

    def number(self, field: str) -> float | None:
        """None where the field is empty. Raises ConfigError."""
        if self.get(field) is None:
            return None
        found = _decimal(self.values[field])
        if found is None or not 0 <= found <= _MOST:
            raise self.wrong(field, f"write a number of 0 to {_MOST:,}")
        return float(found)

    def whole(self, field: str) -> int | None:
        """As `number`, of things that are counted. Raises ConfigError."""
        found = self.number(field)
        if found is None or found.is_integer():
            return None if found is None else int(found)
        raise self.wrong(field, "write a whole number")


def _offers_of_row(row: _Row) -> Iterator[Offer]:
    accelerator = row.get("AcceleratorName")
    card, vram = split_memory(accelerator) if accelerator else ("cpu", None)
    count = row.number("AcceleratorCount") or 0.0
    if accelerator and not count:
        raise row.wrong("AcceleratorCount", "write how many of AcceleratorName the machine has")
    told = _GPU_MIB.search(row.get("GpuInfo") or "")
    if row.get("InstanceType") is None and accelerator is None:
        raise row.wrong("InstanceType", "name the machine, or its AcceleratorName")
    columns: tuple[tuple[str, Market], ...] = (("Price", "on_demand"), ("SpotPrice", "spot"))
    for column, market in columns:
        if row.get(column) is None or row.values[column].lower() == "nan":  # not offered in this market
            continue
        price = Price(row.amount(column), _CSV_CURRENCY, "instance", market, f"{row.file}, line {row.line}")
        yield Offer(
            price,
            # A part of a card is no price for a card.
            card=card if count == int(count) else None,
            instance_type=row.get("InstanceType"),
            gpus=int(count),
            vram_gib=float(vram) if vram else int(told[1]) / 1024 if told else None,
            region=row.get("Region"),
            zone=row.get("AvailabilityZone"),
        )


# ---- YAML ----


def parse_yaml(text: str, name: str) -> PriceList:
    """Own prices: `RTX 3090: 0.20 $/h`, or entries with the fields of `_FIELDS` in a list under `prices`."""
    try:
        tree = compose_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"prices={name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, yaml.MappingNode):
        raise ConfigError(f"prices={name}: write `prices:` and entries below it, or lines like `RTX 3090: 0.20 $/h`")
    top = {_text(key, name): value for key, value in tree.value}
    currency = None
    if "currency" in top:
        where = _Row({"currency": _text(top["currency"], name)}, name, _line(top["currency"]))
        currency = _currency(where, "currency")
    offers: list[Offer] = []
    for row in _rows(tree, top, name):
        offers += _offers_of_entry(row, currency)
    currencies = sorted({offer.price.currency for offer in offers})
    if len(currencies) > 1:
        raise ConfigError(f"prices={name}: prices in {' and '.join(currencies)}: give all in one currency")
    if not offers:
        raise ConfigError(f"prices={name}: there is no price in it; write lines like `RTX 3090: 0.20 $/h`")
    return PriceList(name, currencies[0], tuple(offers))


def _rows(tree: yaml.MappingNode, top: Mapping[str, yaml.Node], name: str) -> Iterator[_Row]:
    body = top.get("prices")
    if isinstance(body, yaml.SequenceNode):
        _refuse_others(tree, name, ("currency", "prices"))
        for entry in body.value:
            if not isinstance(entry, yaml.MappingNode):
                raise ConfigError(
                    f"prices={name}, line {_line(entry)}: write an entry like {{card: L4, per_hour: 0.7}}"
                )
            pairs = [(_text(key, name), value) for key, value in entry.value]
            lines = {key: _line(value) for key, value in pairs}
            yield _Row({key: _text(value, name) for key, value in pairs}, name, _line(entry), lines)
        return
    if body is not None and not isinstance(body, yaml.MappingNode):
        raise ConfigError(f"prices={name}, line {_line(body)}: prices: write a list of entries, or lines below it")
    if body is not None:
        _refuse_others(tree, name, ("currency", "prices"))
    for key, value in (body or tree).value:
        text = _text(key, name)
        if text != "currency" or body is not None:
            yield _Row({"name": text, "per_hour": _text(value, name)}, name, _line(key))


def _refuse_others(tree: yaml.MappingNode, name: str, known: Sequence[str]) -> None:
    for key, _ in tree.value:
        if key.value not in known:
            raise ConfigError(f"prices={name}, line {_line(key)}: {key.value!r}: unknown key; beside prices: currency")


def _offers_of_entry(row: _Row, currency: str | None) -> Iterator[Offer]:
    """The offer of an entry, one for each market where it names none.

    A short entry's name is that of a card, which has the price each, or of an instance type, which has it as a whole.
    """
    for field in row.values:
        if field not in (*_FIELDS, "name"):
            raise row.wrong(field, f"unknown field; known: {', '.join(_FIELDS)}")
    name, card, instance = row.get("name"), row.get("card"), row.get("instance_type")
    if name is None and card is None and instance is None:
        raise row.wrong("card", "name a card or an instance_type")
    per_hour, in_text = _amount(row)
    own = _currency(row, "currency") if row.get("currency") else currency
    if own and in_text and own != in_text:
        raise row.wrong("per_hour", f"it is in {in_text} here, and currency says {own}: write one of them")
    own = own or in_text or "USD"
    markets = _markets(row)
    count = row.whole("gpus")
    for card_name, instance_name in [(name, None), (None, name)] if name else [(card, instance)]:
        bare, suffix = split_memory(card_name) if card_name else (None, None)
        vram = row.number("vram_gib")
        for market in markets:
            yield Offer(
                Price(per_hour, own, _per(row, instance_name), market, _source(row)),
                card=bare,
                instance_type=instance_name,
                gpus=count,
                vram_gib=float(suffix) if vram is None and suffix else vram,
                region=row.get("region"),
                zone=row.get("zone"),
            )


def _source(row: _Row) -> str:
    return row.get("source") or f"{row.file}, line {row.line}"


def _per(row: _Row, instance_type: str | None) -> Literal["gpu", "instance"]:
    match row.get("per"):
        case None:
            return "gpu" if instance_type is None else "instance"
        case "gpu":
            return "gpu"
        case "instance":
            return "instance"
    raise row.wrong("per", "write gpu or instance")


def _markets(row: _Row) -> Sequence[Market]:
    text = row.get("market")
    if text is None:
        return ("on_demand", "spot")
    market = market_of(text)
    if market is None:
        raise row.wrong("market", "write on_demand or spot, or leave it out where both cost the same")
    return (market,)


def _amount(row: _Row) -> tuple[Decimal, str | None]:
    """The amount of `0.20`, `0.20 $/h` or `€0.20/h`, and the currency, if it is said."""
    remedy = f"write an amount per hour {_RANGE}, like 0.20 or 0.20 $/h"
    match = _AMOUNT.fullmatch(row.values.get("per_hour", "").strip())
    number = None if match is None else _price(match["number"])
    if match is None or number is None or (match["before"] and match["after"]):
        raise row.wrong("per_hour", remedy)
    sign = match["before"] or match["after"]
    return number, None if sign is None else _SIGNS.get(sign, sign.upper())


def _currency(row: _Row, field: str) -> str:
    text = row.values[field].strip()
    if text in _SIGNS:
        return _SIGNS[text]
    if not re.fullmatch("[A-Za-z]{3}", text):
        raise row.wrong(field, "write three letters (ISO 4217), like USD")
    return text.upper()


def _price(text: str) -> Decimal | None:
    found = _decimal(text)
    return found if found is not None and (not found or _LEAST_PRICE <= found <= _MOST_PRICE) else None


def _decimal(text: str) -> Decimal | None:
    try:
        found = Decimal(text.strip())
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def _text(node: yaml.Node, name: str) -> str:
    """A scalar as it is written: amounts must not become floats."""
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"prices={name}, line {_line(node)}: a single value is wanted here")
    return "" if node.tag == "tag:yaml.org,2002:null" else str(node.value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
