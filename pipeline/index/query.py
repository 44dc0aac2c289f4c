"""The query language, docs/how-to/search.md: one parser for every back end.

    query  = and {"OR" and}
    and    = not {["AND"] not}
    not    = ("NOT" | "-") not | "(" query ")" | tag | prefix"*" | "quoted tag" | "*"

`score:0.8` may stand anywhere in a query or between brackets: there, and in brackets within, tags count from that
score on.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from pipeline.errors import RunError
from pipeline.index.expression import (
    EVERYTHING,
    THOUSAND,
    And,
    Expression,
    Has,
    Not,
    Or,
    simplified,
    wanted,
)
from pipeline.index.names import Names

_DEEPEST = 64
_MOST_TAGS = 256
_TOKEN = re.compile(
    r'\s+|(?P<bracket>[()])|(?P<minus>-(?=[^\s)]))|"(?P<quoted>[^"]*)"(?P<star>\*?)|(?P<bare>[^\s()"]+)'
)
_BRACKETS = str.maketrans("（）“”　", '()"" ')
_OPERATORS = ("AND", "OR", "NOT")


class QueryError(RunError):
    """A query cannot be read, or names a tag that the index does not have."""

    exit_code = 2


@dataclass(frozen=True)
class Query:
    """A query whose names are settled. wanted: tags that rank the result, see `expression.wanted`."""

    text: str
    expression: Expression
    wanted: dict[int, int]


@dataclass(frozen=True)
class _Token:
    """kind: "(", ")", "-", "AND", "OR", "NOT", "name", "prefix" or "score"; at: column, from 1."""

    kind: str
    value: str
    at: int


def parse(text: str, names: Names) -> Query:
    """A query in terms of tag ids. Raises QueryError for what cannot be read, with its column, and for unknown tags."""
    tokens = list(_tokens(text))
    if (tags := sum(token.kind in ("name", "prefix") for token in tokens)) > _MOST_TAGS:
        raise QueryError(f"the query names {tags:,} tags: name at most {_MOST_TAGS}, or give them a name together")
    parser = _Parser(tokens, names)
    expression = parser.whole()
    if parser.unknown:
        raise QueryError("; ".join(dict.fromkeys(parser.unknown)))
    # What ranks is asked of the whole: "dog OR *" is every image, those with a dog first.
    return Query(text, simplified(expression), wanted(expression))


def _tokens(text: str) -> Iterator[_Token]:
    plain = text.translate(_BRACKETS)
    place = 0
    while place < len(plain):
        match = _TOKEN.match(plain, place)
        if match is None:
            raise QueryError(f'column {place + 1}: the quote is not closed: add a "')
        token = _token(match, place + 1)
        if token is not None:
            yield token
        place = match.end()


def _token(match: re.Match[str], at: int) -> _Token | None:
    if match["bracket"] or match["minus"]:
        return _Token(match[0], match[0], at)
    if match["quoted"] is not None:
        return _Token("prefix" if match["star"] else "name", match["quoted"], at)
    if (bare := match["bare"]) is None:
        return None
    if bare in _OPERATORS:
        return _Token(bare, bare, at)
    # Full-width letters and colons are typed by who types Chinese.
    folded = unicodedata.normalize("NFKC", bare)
    if folded.lower().startswith("score:"):
        return _Token("score", folded[len("score:") :], at)
    if bare.endswith("*"):
        return _Token("prefix", bare[:-1], at)
    return _Token("name", bare, at)


class _Parser:
    """Recursive descent; unknown: what is to be said of names that no tag has, all at once."""

    def __init__(self, tokens: list[_Token], names: Names) -> None:
        self._tokens, self._names = tokens, names
        self._next = self._depth = 0
        self.unknown: list[str] = []

    def whole(self) -> Expression:
        if not self._tokens:
            raise QueryError("the query is empty: name a tag, or give * for every image")
        expression = self._group()
        if (token := self._peek()) is not None:
            raise QueryError(f"column {token.at}: ) without (: remove it, or add the other one")
        return expression

    def _group(self) -> Expression:
        """What stands between two brackets, or the whole query; the score in it holds for all names in it."""
        scores: list[_Token] = []
        expression = self._or(scores)
        if len(scores) > 1:
            raise QueryError(f"column {scores[1].at}: a second score: give one for each pair of brackets")
        return _scored(expression, _thousandths(scores[0])) if scores else expression

    def _or(self, scores: list[_Token]) -> Expression:
        parts = [self._and(scores)]
        while self._accept("OR"):
            parts.append(self._and(scores))
        return Or(tuple(parts)) if len(parts) > 1 else parts[0]

    def _and(self, scores: list[_Token]) -> Expression:
        parts: list[Expression] = []
        operator: _Token | None = None
        while (token := self._peek()) is not None and token.kind not in (")", "OR"):
            if token.kind == "score":
                scores.append(self._take())
            elif token.kind == "AND":
                if not parts or operator is not None:
                    raise QueryError(f"column {token.at}: AND stands between two tags: name one before it")
                operator = self._take()
            else:
                parts.append(self._not())
                operator = None
        if not parts or operator is not None:
            raise QueryError(self._missing(token, operator, scores))
        return And(tuple(parts)) if len(parts) > 1 else parts[0]

    def _missing(self, token: _Token | None, operator: _Token | None, scores: list[_Token]) -> str:
        where = "at the end" if token is None else f"column {token.at}"
        if operator is None and scores and token is None:
            return "score: says from where on tags count: name a tag beside it"
        what = "after AND" if operator is not None else "beside OR" if token and token.kind == "OR" else "here"
        return f"{where}: a tag is missing {what}: name one, or remove what asks for it"

    def _not(self) -> Expression:
        token = self._take()
        if token.kind in ("NOT", "-"):
            follows = self._peek()
            if follows is None or follows.kind in (")", "AND", "OR", "score"):
                raise QueryError(f"column {token.at}: {token.value} is to exclude a tag: name it, with nothing between")
            with_depth = self._deeper(token)
            part = self._not()
            self._depth = with_depth
            return Not(part)
        if token.kind == "(":
            return self._bracket(token)
        return self._tag(token)

    def _bracket(self, token: _Token) -> Expression:
        before = self._deeper(token)
        expression = self._group()
        if not self._accept(")"):
            raise QueryError(f"column {token.at}: ( is not closed: add a )")
        self._depth = before
        return expression

    def _deeper(self, token: _Token) -> int:
        """The depth until here; raises QueryError where brackets are nested beyond reason."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise QueryError(f"column {token.at}: more than {_DEEPEST} levels of brackets and NOT: write it flatter")
        return self._depth - 1

    def _tag(self, token: _Token) -> Expression:
        if token.kind == "prefix" and not token.value:
            return EVERYTHING
        ids = self._names.ids_with_prefix(token.value) if token.kind == "prefix" else self._names.ids(token.value)
        if not ids:
            self.unknown.append(self._explained(token))
        return Has(ids)

    def _explained(self, token: _Token) -> str:
        if token.value.upper() in _OPERATORS:
            return f"column {token.at}: {token.value!r} is no tag: write {token.value.upper()} in capitals"
        what = f"no tag begins with {token.value!r}" if token.kind == "prefix" else f"no tag {token.value!r}"
        closest = [f'"{name}"' if " " in name else name for name in self._names.closest(token.value)]
        hint = f"did you mean {' or '.join(closest)}?" if closest else "the tags are in vocabulary.parquet of the run"
        return f"column {token.at}: {what}: {hint}"

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self) -> _Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _accept(self, kind: str) -> bool:
        token = self._peek()
        if token is None or token.kind != kind:
            return False
        self._next += 1
        return True


def _scored(expression: Expression, at_least: int) -> Expression:
    """With this score wherever brackets within have none of their own."""
    if isinstance(expression, Has):
        return expression if expression.at_least else Has(expression.ids, at_least)
    if isinstance(expression, Not):
        return Not(_scored(expression.part, at_least))
    if isinstance(expression, And | Or):
        return type(expression)(tuple(_scored(part, at_least) for part in expression.parts))
    return expression


def _thousandths(token: _Token) -> int:
    try:
        value = Decimal(token.value) * THOUSAND
    except InvalidOperation:
        value = Decimal("NaN")
    if not (value.is_finite() and 0 < value <= THOUSAND and value == value.to_integral_value()):
        raise QueryError(
            f"column {token.at}: score:{token.value} is no score: give a number over 0, up to 1, of 3 decimals at most"
        )
    return int(value)
