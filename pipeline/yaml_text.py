"""YAML of people's files: every key once, and no more of it than is written."""

from typing import Any

import yaml

_WIDTH = 10_000
_MOST_NODES = 1_000_000
"""Values of a document with all aliases written out; a short file of nested aliases may stand for billions."""


def compose_yaml(text: str) -> yaml.Node | None:
    """The nodes of a document, None for an empty one.

    Raises yaml.YAMLError for what is no YAML, for a key that is given twice, of which one would be lost without a word,
    and for aliases that stand for too much.
    """
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _weigh(root, {})
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    return root


def read_yaml(text: str) -> Any:
    """The document as Python values. Raises yaml.YAMLError as `compose_yaml`."""
    root = compose_yaml(text)
    loader = yaml.SafeLoader("")
    try:
        return None if root is None else loader.construct_document(root)
    except (ValueError, OverflowError) as error:  # a date such as 2020-13-45, a number of too many digits
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def _weigh(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for. known: of those that were weighed; 0 while that goes on."""
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: an alias of what it is itself in")
        return known[id(node)]
    known[id(node)] = 0
    weight = 1
    if isinstance(node, yaml.MappingNode):
        _refuse_twice(node)
        weight += sum(_weigh(key, known) + _weigh(value, known) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        weight += sum(_weigh(value, known) for value in node.value)
    if weight > _MOST_NODES:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: over {_MOST_NODES:,} values, aliases written out")
    known[id(node)] = weight
    return weight


def _refuse_twice(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(f"line {line}: {key.value} is given twice, first in line {lines[key.value]}")
            lines[key.value] = line


def dump_yaml(tree: Any) -> str:
    """A document in the order of its keys, shared values written out, lines as long as they are."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)


class _Dumper(yaml.SafeDumper):
    """Writes shared values out instead of referring to them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
