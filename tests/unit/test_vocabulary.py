"""Vocabularies from lists and CSV."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramcore.errors import VocabularyError
from ramcore.vocabulary import CSV_HEADER, DEFAULT_THRESHOLD, Vocabulary

names = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])).map(str.strip)
thresholds = st.floats(0, 1, exclude_min=True, allow_subnormal=False, width=32)
rows = st.lists(st.tuples(names.filter(bool), names, thresholds), min_size=1)


def _write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@given(rows)
def test_csv_round_trip_is_exact(tmp_path_factory, rows):
    """Any vocabulary reads back equal, whatever commas and quotes its names hold."""
    tags, tags_zh, values = zip(*rows, strict=True)
    vocabulary = Vocabulary(tags, tags_zh, np.array(values, dtype=np.float32))
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.csv"
    vocabulary.to_csv(path)
    assert Vocabulary.from_csv(path) == vocabulary


@given(rows)
def test_lists_give_the_vocabulary_they_were_written_from(tmp_path_factory, rows):
    """Lists align line by line; blanks that end a line are no part of a name."""
    tags, tags_zh, values = zip(*rows, strict=True)
    folder = tmp_path_factory.mktemp("lists")
    lists = [
        _write(folder, "tags.txt", "\n".join(tags)),
        _write(folder, "zh.txt", "".join(f"{name} \n" for name in tags_zh)),
        _write(folder, "thresholds.txt", "".join(f"{value}\n" for value in values)),
    ]
    expected = Vocabulary(tags, tags_zh, np.array(values, dtype=np.float32))
    assert Vocabulary.from_lists(*lists) == expected


def test_tags_alone_get_no_chinese_and_the_default_threshold(tmp_path):
    """Without the other lists, names are empty and thresholds 0.68."""
    vocabulary = Vocabulary.from_lists(_write(tmp_path, "tags.txt", "dog\ncat"))
    assert vocabulary.tags_zh == ("", "")
    assert vocabulary.thresholds.tolist() == [np.float32(DEFAULT_THRESHOLD)] * 2


def test_windows_text_files_read_alike(tmp_path):
    """A byte-order mark and carriage returns do not become part of a tag."""
    path = tmp_path / "tags.txt"
    path.write_bytes("\ufeffdog\r\ncat\r\n".encode())
    assert Vocabulary.from_lists(path).tags == ("dog", "cat")


def test_thresholds_are_float32_and_read_only(tmp_path):
    """Nobody changes a loaded vocabulary's thresholds by accident."""
    vocabulary = Vocabulary.from_lists(_write(tmp_path, "tags.txt", "dog"))
    assert vocabulary.thresholds.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        vocabulary.thresholds[0] = 0.5


def test_subset_keeps_the_order_asked_for():
    """A subset's ids follow the given list."""
    vocabulary = Vocabulary(("a", "b", "c"), ("x", "y", "z"), np.array([0.1, 0.2, 0.3], np.float32))
    few = vocabulary.subset([2, 0])
    assert (few.tags, few.tags_zh, few.thresholds.tolist()) == (
        ("c", "a"),
        ("z", "x"),
        [np.float32(0.3), np.float32(0.1)],
    )


@pytest.mark.parametrize("other", ["zh.txt", "thresholds.txt"])
def test_lists_of_different_lengths_name_both_files(tmp_path, other):
    """Which list is short is said with both counts."""
    tags = _write(tmp_path, "tags.txt", "dog\ncat\n")
    short = _write(tmp_path, other, "0.5\n")
    arguments = {"zh_file": short} if other == "zh.txt" else {"thresholds_file": short}
    with pytest.raises(VocabularyError, match=rf"tags\.txt has 2 lines and .*{other} has 1:"):
        Vocabulary.from_lists(tags, **arguments)


@pytest.mark.parametrize("value", ["high", "", "0", "-0.1", "1.01", "nan", "inf", "1e-60", "1e400"])
def test_bad_threshold_names_its_line(tmp_path, value):
    """What is no number in (0, 1] is found with file and line."""
    tags = _write(tmp_path, "tags.txt", "dog\ncat\n")
    thresholds = _write(tmp_path, "thresholds.txt", f"0.5\n{value}\n")
    with pytest.raises(VocabularyError, match=rf"thresholds\.txt line 2: '{value}' is no threshold: give"):
        Vocabulary.from_lists(tags, thresholds_file=thresholds)


def test_blank_line_among_tags_names_its_line(tmp_path):
    """A tag without a name is refused."""
    with pytest.raises(VocabularyError, match=r"tags\.txt line 2 is blank"):
        Vocabulary.from_lists(_write(tmp_path, "tags.txt", "dog\n \ncat\n"))


def test_empty_list_is_refused(tmp_path):
    """A vocabulary has at least one tag."""
    with pytest.raises(VocabularyError, match="empty"):
        Vocabulary.from_lists(_write(tmp_path, "tags.txt", ""))


def test_missing_and_foreign_files_are_named(tmp_path):
    """A list that is not there, or not UTF-8, is an error of ours with its path."""
    with pytest.raises(VocabularyError, match=r"cannot read .*nowhere\.txt: No such file"):
        Vocabulary.from_lists(tmp_path / "nowhere.txt")
    (tmp_path / "gbk.txt").write_bytes("狗".encode("gbk"))
    with pytest.raises(VocabularyError, match=r"gbk\.txt is not UTF-8"):
        Vocabulary.from_lists(tmp_path / "gbk.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tag,threshold\n", "the header is"),
        ("0,dog,狗\n", "line 2 has 3 columns"),
        ("0,dog,狗,0.5\n2,cat,,0.5\n", "line 3: tag_id is '2', it must be 1"),
        ("0,dog,狗,often\n", "line 2: 'often' is no threshold"),
        ('0,"dog,狗,0.5\n', "is not CSV"),
        ("0,dog ,狗,0.5\n", "tag 0 is 'dog '"),
    ],
)
def test_broken_csv_says_what_is_wrong(tmp_path, text, message):
    """Header, columns, ids, thresholds and names are checked when a CSV is read."""
    header = "" if text.startswith("tag,") else ",".join(CSV_HEADER) + "\n"
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_csv(_write(tmp_path, "vocabulary.csv", header + text))


@pytest.mark.parametrize("tag", ["", " dog", "a\nb", "a\u2028b"])
def test_names_that_would_break_a_list_are_refused(tag):
    """Names are one line, not empty, without blanks around them."""
    with pytest.raises(VocabularyError, match="tag 0 is"):
        Vocabulary((tag,), ("",), np.array([0.5], np.float32))


def test_lengths_are_checked_on_construction():
    """As many thresholds and Chinese names as tags."""
    with pytest.raises(VocabularyError, match="2 tags, 1 Chinese names"):
        Vocabulary(("a", "b"), ("",), np.array([0.5, 0.5], np.float32))
