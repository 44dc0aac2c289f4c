"""The query language: what is said of queries that cannot be read, and what names mean."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from indexes import VOCABULARY

from pipeline.errors import InputError
from pipeline.index.expression import (
    EVERYTHING,
    And,
    Everything,
    Expression,
    Has,
    Not,
    Or,
    holds_for_none,
    simplified,
    tags_of,
)
from pipeline.index.names import Names
from pipeline.index.query import QueryError, parse
from ramcore.vocabulary import Vocabulary

NAMES = Names.of(VOCABULARY)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog", Has((0,))),
        ("dog beach", And((Has((0,)), Has((3,))))),
        ("dog OR beach sea", Or((Has((0,)), And((Has((3,)), Has((4,))))))),
        ("-dog beach", And((Not(Has((0,))), Has((3,))))),
        ("NOT -dog", Has((0,))),
        ("close-up", Has((5,))),
        ("狗 AND （海滩 OR “hot dog”）", And((Has((0,)), Or((Has((3,)), Has((1,))))))),
        ("dog score:0.8", Has((0,), 800)),
        ("ＳＣＯＲＥ：０.８ dog", Has((0,), 800)),
        ("(dog score:.9) OR beach score:1", Or((Has((0,), 900), Has((3,), 1000)))),
        ("dog *", Has((0,))),
        ("*", EVERYTHING),
    ],
)
def test_what_a_query_means(text: str, expected: Expression) -> None:
    """AND binds closer than OR and may be left out; a score holds for its brackets; full-width forms are read too."""
    assert parse(text, NAMES).expression == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the query is empty: name a tag, or give * for every image"),
        ("()", "column 2: a tag is missing here: name one, or remove what asks for it"),
        ("(dog", "column 1: ( is not closed: add a )"),
        ("dog)", "column 4: ) without (: remove it, or add the other one"),
        ('dog "hot', 'column 5: the quote is not closed: add a "'),
        ("AND dog", "column 1: AND stands between two tags: name one before it"),
        ("dog AND AND beach", "column 9: AND stands between two tags: name one before it"),
        ("dog AND", "at the end: a tag is missing after AND: name one, or remove what asks for it"),
        ("dog OR OR sea", "column 8: a tag is missing beside OR: name one, or remove what asks for it"),
        ("dog NOT", "column 5: NOT is to exclude a tag: name it, with nothing between"),
        ("score:0.8", "score: says from where on tags count: name a tag beside it"),
        ("dog score:0.8 score:0.9", "column 15: a second score: give one for each pair of brackets"),
        ("dog score:80", "column 5: score:80 is no score: give a number over 0, up to 1, of 3 decimals at most"),
        (
            "dog score:0.8125",
            "column 5: score:0.8125 is no score: give a number over 0, up to 1, of 3 decimals at most",
        ),
        ("dog score:nan", "column 5: score:nan is no score: give a number over 0, up to 1, of 3 decimals at most"),
        ("beech", "column 1: no tag 'beech': did you mean beach?"),
        ("glasses", "column 1: no tag 'glasses': did you mean \"3D glasses\"?"),
        ("dog and sea", "column 5: 'and' is no tag: write AND in capitals"),
        ("zzz*", "column 1: no tag begins with 'zzz': the tags are in vocabulary.parquet of the run"),
        (
            "beech -persn",
            "column 1: no tag 'beech': did you mean beach?; column 8: no tag 'persn': did you mean person?",
        ),
        ("(" * 65 + "dog" + ")" * 65, "column 65: more than 64 levels of brackets and NOT: write it flatter"),
        ("dog " * 257, "the query names 257 tags: name at most 256, or give them a name together"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, message: str) -> None:
    """One line with the column, what is wrong, and what to write instead; unknown tags all at once."""
    with pytest.raises(QueryError) as caught:
        parse(text, NAMES)
    assert str(caught.value) == message


@given(st.text(alphabet='dog beach()"-*:.AND ORscore089狗（　', max_size=30))
def test_any_text_is_a_query_or_an_error(text: str) -> None:
    """A query names tags that there are, and is ranked by none but these; an error is one line."""
    try:
        query, said = parse(text, NAMES), ""
    except QueryError as error:
        query, said = parse("*", NAMES), str(error)
    assert len(said.splitlines()) <= 1
    assert query.wanted.keys() | tags_of(query.expression) <= set(range(len(NAMES.tags)))


def expressions() -> st.SearchStrategy[Expression]:
    has = st.builds(
        Has, st.lists(st.integers(0, 3), max_size=2, unique=True).map(tuple), st.sampled_from((0, 500, 900))
    )
    return st.recursive(
        st.one_of(has, st.just(Everything())),
        lambda parts: st.one_of(
            st.builds(Not, parts),
            st.builds(And, st.lists(parts, max_size=3).map(tuple)),
            st.builds(Or, st.lists(parts, max_size=3).map(tuple)),
        ),
        max_leaves=8,
    )


def holds(expression: Expression, tags: list[tuple[int, int]]) -> bool:
    """Whether a document of these (tag, thousandths) is meant."""
    if isinstance(expression, Has):
        return any(tag in expression.ids and score >= expression.at_least for tag, score in tags)
    if isinstance(expression, Not):
        return not holds(expression.part, tags)
    if isinstance(expression, And):
        return all(holds(part, tags) for part in expression.parts)
    return isinstance(expression, Everything) or any(holds(part, tags) for part in expression.parts)


@given(expressions(), st.dictionaries(st.integers(0, 3), st.sampled_from((499, 500, 900))))
def test_other_forms_of_an_expression(expression: Expression, tags: dict[int, int]) -> None:
    """Simplified, it means the same; of an image with none of its tags, it is known whether it holds."""
    document = list(tags.items())
    assert holds(simplified(expression), document) == holds(expression, document)
    strangers = [(tag, score) for tag, score in document if tag not in tags_of(expression)]
    assert holds(expression, strangers) == holds_for_none(expression)


def test_all_names_of_a_tag() -> None:
    """English, Chinese, each of several Chinese names, one without a remark; hyphens and underscores are blanks."""
    names = Names.of(Vocabulary(("stack", "t-shirt"), ("（码放整齐的）一叠/堆", "T恤"), np.ones(2, np.float32)))
    for name in ("Stack", "（码放整齐的）一叠/堆", "（码放整齐的）一叠", "一叠", "堆"):
        assert names.ids(name) == (0,), name
    for name in ("t-shirt", "T shirt", "t_shirt", "Ｔ恤"):
        assert names.ids(name) == (1,), name


def test_synonyms_and_hierarchy(tmp_path: Path) -> None:
    """Who asks for a parent finds what is below, at any depth; a parent may be a tag or a group of its own."""
    synonyms, hierarchy = tmp_path / "names.csv", tmp_path / "tree.csv"
    synonyms.write_text("name,tag\nhound,dog\n猎犬,dog\n", encoding="utf-8")
    hierarchy.write_text("tag,parent\nhound,animal\ncrane,animal\nanimal,thing\nsea,beach\n", encoding="utf-8")
    names = Names.of(VOCABULARY, synonyms, hierarchy)
    for name, ids in {"猎犬": (0,), "animal": (0, 7, 8), "thing": (0, 7, 8), "beach": (3, 4), "海滩": (3, 4)}.items():
        assert names.ids(name) == ids, name
    assert names.ids_with_prefix("an") == (0, 7, 8)
    assert Names.from_dict(names.as_dict()) == names
    assert Names.of(VOCABULARY, kept=names) == names


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("synonyms", "tag,name\n", "the header is 'tag,name', it must be 'name,tag'"),
        ("synonyms", "name,tag\nhound,dgo\n", "'hound' is to mean 'dgo', which is no tag: did you mean dog?"),
        ("synonyms", "name,tag\nhound\n", "line 2 is 'hound': give two names"),
        ("hierarchy", "tag,parent\ndgo,animal\n", "'dgo' is below another tag, which is no tag: did you mean dog?"),
        ("hierarchy", "tag,parent\ndog,a\na,b\nb,dog\n", "'a' is below 'dog' and above it; remove one of the lines"),
    ],
)
def test_files_of_names_that_are_wrong(tmp_path: Path, option: str, text: str, message: str) -> None:
    """One line with the option, the file and what is wrong."""
    file = tmp_path / "names.csv"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        Names.of(VOCABULARY, **{option: file})
    assert str(caught.value).startswith(f"--{option} {file}")
    assert str(caught.value).endswith(message)
