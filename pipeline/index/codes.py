"""Scores for search engines that know terms only: a few terms for each tag of a document, exact to the thousandth.

A score of thousandths p is written as two digits to the base of 32, p = 32 h + l. A document has, for each of its tags,
the terms HAS, HIGH + h and LOW + l. "At least P" is a bounded number of terms then, whatever the scores are, and the
sum of 32 h and l over the terms that a document has is its score.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.index.expression import THOUSAND

_BITS = 5
_BASE = 1 << _BITS
_TERMS = 128
_HIGH, _LOW = 1, 64
_HIGHEST = THOUSAND // _BASE


def codes(tags: NDArray[np.int32], scores: NDArray[np.int32]) -> NDArray[np.int64]:
    """The terms of each tag, int64 [n, 3]."""
    first = tags.astype(np.int64) * _TERMS
    return np.stack([first, first + _HIGH + scores // _BASE, first + _LOW + scores % _BASE], axis=1)


def has(tag: int) -> int:
    """The term of a tag, whatever its score."""
    return tag * _TERMS


def above(tag: int, at_least: int) -> list[int]:
    """Terms of scores that are greater by their high digit already."""
    return [tag * _TERMS + _HIGH + high for high in range(at_least // _BASE + 1, _HIGHEST + 1)]


def level(tag: int, at_least: int) -> tuple[int, list[int]]:
    """The term of the same high digit, and those of a low digit that is no less."""
    first = tag * _TERMS
    return first + _HIGH + at_least // _BASE, [first + _LOW + low for low in range(at_least % _BASE, _BASE)]


def values(tag: int) -> Iterator[tuple[int, int]]:
    """(term, what it adds to the score) of a tag."""
    for high in range(1, _HIGHEST + 1):
        yield tag * _TERMS + _HIGH + high, _BASE * high
    for low in range(1, _BASE):
        yield tag * _TERMS + _LOW + low, low


def bits(tag: int) -> Iterator[tuple[list[int], int]]:
    """(terms, what having any of them adds to the score) of a tag: fewer than `values`, each of several terms."""
    first = tag * _TERMS
    for bit in range(_BITS):
        yield [first + _HIGH + digit for digit in range(_HIGHEST + 1) if digit >> bit & 1], _BASE << bit
        yield [first + _LOW + digit for digit in range(_BASE) if digit >> bit & 1], 1 << bit
