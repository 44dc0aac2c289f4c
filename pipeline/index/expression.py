"""A query as back ends see it: tag ids, and, or, not. What a name means has been settled before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

THOUSAND = 1000
"""Scores are whole thousandths in an index, rounded down, so that a comparison means the same everywhere."""


@dataclass(frozen=True)
class Everything:
    """Every document."""


@dataclass(frozen=True)
class Has:
    """Documents with any of these tags, with this score at least. at_least: thousandths; 0: whatever the score."""

    ids: tuple[int, ...]
    at_least: int = 0


@dataclass(frozen=True)
class And:
    """Documents of all parts."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True)
class Or:
    """Documents of any part."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True)
class Not:
    """All other documents."""

    part: "Expression"


Expression: TypeAlias = Everything | Has | And | Or | Not


def as_sql(expression: Expression, has: Callable[[Has], str], everything: str) -> str:
    """The condition in SQL. has: that of tags, in which databases differ; everything: what always holds."""
    if isinstance(expression, Has):
        return has(expression)
    if isinstance(expression, Not):
        return f"(NOT ({as_sql(expression.part, has, everything)}))"
    if isinstance(expression, And | Or):
        word = " AND " if isinstance(expression, And) else " OR "
        return f"({word.join(as_sql(part, has, everything) for part in expression.parts)})"
    return everything


def wanted(expression: Expression) -> dict[int, int]:
    """What a document is ranked by: the tags that are asked for, not excluded, with the score that each must reach.

    A document's rank is the sum of its scores of these tags. A tag that is asked for twice counts once, from the
    lower of the two scores on.
    """
    found: dict[int, int] = {}

    def visit(part: Expression, asked: bool) -> None:
        if isinstance(part, Has) and asked:
            for tag in part.ids:
                found[tag] = min(part.at_least, found.get(tag, part.at_least))
        elif isinstance(part, Not):
            visit(part.part, not asked)
        elif isinstance(part, And | Or):
            for each in part.parts:
                visit(each, asked)

    visit(expression, True)
    return found


def tags_of(expression: Expression) -> set[int]:
    """All tags that are named anywhere."""
    if isinstance(expression, Has):
        return set(expression.ids)
    if isinstance(expression, Not):
        return tags_of(expression.part)
    return set().union(*map(tags_of, expression.parts)) if isinstance(expression, And | Or) else set()


def holds_for_none(expression: Expression) -> bool:
    """Whether it holds for a document that has none of its tags."""
    if isinstance(expression, Has):
        return False
    if isinstance(expression, Not):
        return not holds_for_none(expression.part)
    if isinstance(expression, And | Or):
        each = map(holds_for_none, expression.parts)
        return all(each) if isinstance(expression, And) else any(each)
    return True


def simplified(expression: Expression) -> Expression:
    """The same without needless levels: flat And and Or, no double Not, what always holds or never only as a whole."""
    if isinstance(expression, Not):
        part = simplified(expression.part)
        return part.part if isinstance(part, Not) else Not(part)
    if isinstance(expression, And | Or):
        return _flat(expression)
    return Not(Everything()) if isinstance(expression, Has) and not expression.ids else expression


def _flat(expression: And | Or) -> Expression:
    """`simplified` of a list of parts."""
    kind = type(expression)
    neutral, deciding = (EVERYTHING, NOTHING) if kind is And else (NOTHING, EVERYTHING)
    parts: list[Expression] = []
    for part in map(simplified, expression.parts):
        parts += part.parts if isinstance(part, And | Or) and isinstance(part, kind) else [part]
    parts = [part for part in dict.fromkeys(parts) if part != neutral]
    if deciding in parts:
        return deciding
    if not parts:
        return neutral
    return parts[0] if len(parts) == 1 else kind(tuple(parts))


EVERYTHING: Expression = Everything()
NOTHING: Expression = Not(Everything())
