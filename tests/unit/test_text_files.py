"""Text files that a user names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cards.profiles import load_profiles
from pipeline.costs.price_files import load_prices
from pipeline.errors import ConfigError
from pipeline.quoting.fleet_file import load_fleet
from pipeline.text_files import read_text

OWN_CARD = (
    "cards:\n  - {card: T4, names: [Own T4], capability: '7.5', vram_gib: 16, bandwidth_gb_s: 300, fp16: 40, "
    "bf16: null, fp32: 8, tdp_w: 70, source: own}\n"
)


@pytest.mark.parametrize(
    ("name", "text", "load"),
    [
        ("prices.yaml", "T4: 0.35 $/h\n", lambda path: load_prices([path])),
        ("fleet.yaml", "nodes: [{card: T4, most_nodes: 2}]\n", load_fleet),
        ("cards.yaml", OWN_CARD, load_profiles),
    ],
)
def test_a_byte_order_mark_does_not_matter(tmp_path: Path, name: str, text: str, load: Callable[[str], object]) -> None:
    """Editors on Windows write one: the file says the same with it and without."""
    plain, marked = tmp_path / name, tmp_path / "marked" / name
    marked.parent.mkdir()
    plain.write_text(text, encoding="utf-8")
    marked.write_text(text, encoding="utf-8-sig")
    assert read_text(marked, "field") == text
    load(str(plain))
    load(str(marked))


@pytest.mark.parametrize(("content", "said"), [(b"\xff\xfe", "not UTF-8"), (None, "No such file")])
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    """Field, path and reason."""
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        read_text(path, "prices")
    assert str(caught.value).startswith(f"prices={path}: ")
