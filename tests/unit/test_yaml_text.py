"""YAML of people's files."""

import pytest
import yaml

from pipeline.yaml_text import read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_aliases_and_merged_keys_are_read() -> None:
    """As YAML has them."""
    text = "base: &base {card: T4, gpus: 1}\nnodes: [{<<: *base, gpus: 4}, *base]"
    assert read_yaml(text)["nodes"] == [{"card": "T4", "gpus": 4}, {"card": "T4", "gpus": 1}]
    assert read_yaml("") is None


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes: [a]\nnodes: [b]", "line 2: nodes is given twice, first in line 1"),
        ("- {card: T4, card: L4}", "line 1: card is given twice, first in line 1"),
        (BOMB, "over 1,000,000 values"),
        ("a: &a [*a]", "an alias of what it is itself in"),
        ("[" * 5000, "nested too deeply"),
        ("a: 2020-13-45", "month must be in 1..12"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, said: str) -> None:
    """In one line, at once, and in little memory."""
    with pytest.raises(yaml.YAMLError, match=said):
        read_yaml(text)
