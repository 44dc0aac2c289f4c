"""`ramfleet threshold`: a finished run with other thresholds, without Ray and without the model."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from jobs.main import app
from pipeline.chunks import commit_chunk
from pipeline.config import load_config
from pipeline.errors import ConfigError, InputError, PinnedError
from pipeline.finalize import finalize
from pipeline.model_record import model_name, vocabulary_name, vocabulary_table
from pipeline.pins import pins
from pipeline.plan import make_plan
from pipeline.rethreshold import Rules, rethreshold
from pipeline.stores.local_store import LocalStore
from pipeline.tables.names import Naming
from pipeline.tables.samples import sample_rows
from pipeline.tables.schemas import IMAGE_FIELDS, to_parquet, with_attempt
from pipeline.tables.selection import floors, select
from pipeline.tagging import tag_table, tagged_part
from pipeline.thresholds import Thresholds, parse_thresholds
from ramcore.bundle import read_config
from ramcore.errors import VocabularyError
from ramcore.vocabulary import Vocabulary

IMAGES, CHUNK_ROWS = 60, 16
ATTEMPT = {"fetch_s": 0.5, "decode_s": 0.5, "started_at": 10.0, "ended_at": 12.0, "pieces": []}
# "crane" is two tags, as some names of Tag2Text are.
NAMES = ("dog", "Ice cream", "crane", "crane", "sky")
VOCABULARY = Vocabulary(NAMES, ("狗", "冰淇淋", "鹤", "起重机", "天空"), np.array([0.5, 0.68, 0.7, 0.6, 1], np.float32))
SCORES = np.random.default_rng(0).random((IMAGES, len(NAMES)), dtype=np.float32)

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, tiny_bundle: Path) -> MakeRun:
    def make_run(*options: str) -> Path:
        """A finished run over SCORES; image 3 is a reject."""
        store, config = LocalStore(tmp_path / "run"), load_config(None, options)
        store.create(vocabulary_name("hash"), to_parquet(vocabulary_table(VOCABULARY)))
        store.create(model_name("hash"), read_config(tiny_bundle).to_json().encode())
        ids = [f"i{number:02}" for number in range(IMAGES)]
        rows = pa.RecordBatch.from_pydict({"image_id": [*ids, "i07"], "uri": [*ids, "i07"]})
        pinned = pins(config, "photos", None, "hash") | {"model.dtype": "fp32"}
        plan = make_plan(iter([rows]), store, CHUNK_ROWS, None, pinned)
        for chunk in range(plan.chunks):
            table = plan.read_chunk(store, chunk).drop_columns(["planned_error"])
            kinds = ["truncated" if name == "i03" else None for name in table["image_id"].to_pylist()]
            for field in IMAGE_FIELDS:
                values = {"error_kind": kinds, "attempts": [1] * len(kinds)}.get(field.name, [None] * len(kinds))
                table = table.append_column(field, pa.array(values, field.type))
            numbers = [int(name[1:]) for name in table["image_id"].to_pylist() if name != "i03"]
            floor = floors(VOCABULARY.thresholds, config.output.score_floor)
            part = tagged_part(select(SCORES[numbers], VOCABULARY.thresholds, floor, config.output.top_k))
            tagged = tag_table(table, [part], VOCABULARY, Naming.of(pinned))
            commit_chunk(store, chunk, with_attempt(tagged, {**ATTEMPT, "plan_hash": plan.hash}))
        finalize(store)
        return tmp_path / "run"

    return make_run


def tags_of(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "tags").set_index("image_id").sort_index()


def assert_tags(run: Path, thresholds: np.ndarray) -> None:
    """The tags are those of all scores over these thresholds, in both languages; sky, with threshold 1, is off."""
    for image, row in tags_of(run).iterrows():
        fired = np.flatnonzero(SCORES[int(image[1:])] > thresholds)
        assert list(row["tags"]) == [VOCABULARY.tags[tag] for tag in fired]
        assert list(row["tags_zh"]) == [VOCABULARY.tags_zh[tag] for tag in fired]


def uniform(value: float) -> np.ndarray:
    """One threshold for all tags but the one that is switched off."""
    return np.array([value] * 4 + [1], np.float32)


def one(value: float) -> Rules:
    return Rules(Thresholds(value, "--threshold"))


def test_tags_are_those_of_all_scores(make_run: MakeRun, tmp_path: Path) -> None:
    """With everything stored, any threshold gives what the model's scores give."""
    run = make_run("output.score_floor=0", "output.top_k=0")
    result = rethreshold(run, tmp_path / "new", one(0.3))
    assert_tags(tmp_path / "new", uniform(0.3))
    assert (result.images, result.changed, result.capped) == (IMAGES - 1, 4, 0)
    assert result.after == tags_of(tmp_path / "new")["tags"].str.len().sum()
    assert result.before == tags_of(run)["tags"].str.len().sum()


def test_the_new_folder_is_a_run_like_the_old_one(make_run: MakeRun, tmp_path: Path) -> None:
    """Same schema, rows, scores, rejects and duplicates; other tags and thresholds; its origin is written down."""
    run = make_run()
    rethreshold(run, tmp_path / "new", one(0.97))
    old, new = (pd.read_parquet(folder / "tags") for folder in (run, tmp_path / "new"))
    pd.testing.assert_frame_equal(old.drop(columns=["tags", "tags_zh"]), new.drop(columns=["tags", "tags_zh"]))
    assert old.columns.tolist() == new.columns.tolist()
    for name in ("rejects", "duplicates"):
        pd.testing.assert_frame_equal(pd.read_parquet(run / name), pd.read_parquet(tmp_path / "new" / name))
    assert pd.read_parquet(tmp_path / "new/vocabulary.parquet")["threshold"].tolist() == uniform(0.97).tolist()
    before, after = (json.loads((folder / "run.json").read_text()) for folder in (run, tmp_path / "new"))
    assert after["counts"] == before["counts"]
    assert all((tmp_path / "new" / part).is_file() for parts in after["parts"].values() for part in parts)
    assert after["derived_from"]["run"] == str(run)
    assert after["derived_from"]["thresholds"] == {"from": "--threshold", "value": 0.97}


def test_a_csv_changes_the_tags_that_it_names(make_run: MakeRun, tmp_path: Path) -> None:
    """The others keep their threshold; a name that repeats means all its tags."""
    file = tmp_path / "t.csv"
    file.write_text("tag,threshold\ncrane,0.9\n")
    run = make_run()
    assert rethreshold(run, tmp_path / "new", Rules(parse_thresholds(None, file))).changed == 2
    assert_tags(tmp_path / "new", np.array([0.5, 0.68, 0.9, 0.9, 1], np.float32))


def test_a_list_has_a_threshold_for_each_tag(make_run: MakeRun, tmp_path: Path) -> None:
    """In the order of the vocabulary."""
    file = tmp_path / "t.txt"
    file.write_text("0.6\n0.7\n0.8\n0.9\n1\n")
    rethreshold(make_run(), tmp_path / "new", Rules(parse_thresholds(None, file)))
    assert_tags(tmp_path / "new", np.array([0.6, 0.7, 0.8, 0.9, 1], np.float32))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "tag,threshold\nunicorn,0.9\n", "'unicorn' is no tag of the run"),
        ("t.txt", "0.5\n0.5\n", "has 2 lines, the run has 5 tags"),
        ("t.txt", "0.5\nmany\n", "line 2: 'many' is no threshold"),
        ("t.json", "{}", r"give a \.csv"),
    ],
)
def test_files_that_do_not_fit_say_why(make_run: MakeRun, tmp_path: Path, name: str, text: str, message: str) -> None:
    """File, value and remedy; nothing is written."""
    (tmp_path / name).write_text(text)
    with pytest.raises((ConfigError, VocabularyError), match=message):
        rethreshold(make_run(), tmp_path / "new", Rules(parse_thresholds(None, tmp_path / name)))
    assert not (tmp_path / "new").exists()


def test_thresholds_under_the_auto_floor_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    """Tag, value and floor are named; the floor is each tag's own."""
    with pytest.raises(ConfigError, match=r"threshold 0\.56 of 'Ice cream' is under 0\.63") as caught:
        rethreshold(make_run(), tmp_path / "new", one(0.56))
    assert "dog" not in str(caught.value)
    assert "output.score_floor=0.56 or less" in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_thresholds_down_to_the_auto_floor_are_allowed(make_run: MakeRun, tmp_path: Path) -> None:
    """Each tag may be lowered by 0.05."""
    thresholds = (VOCABULARY.thresholds - np.float32(0.05)).tolist()
    rethreshold(make_run(), tmp_path / "new", Rules(Thresholds(tuple(thresholds), "t.txt")))
    assert_tags(tmp_path / "new", np.array(thresholds, np.float32))


def test_an_absolute_floor_allows_what_is_over_it(make_run: MakeRun, tmp_path: Path) -> None:
    """The number of the run decides."""
    run = make_run("output.score_floor=0.25")
    rethreshold(run, tmp_path / "new", one(0.25))
    assert_tags(tmp_path / "new", uniform(0.25))
    with pytest.raises(ConfigError, match=r"is under 0\.25.*; and 1 more"):
        rethreshold(run, tmp_path / "lower", one(0.24))


def test_a_changed_run_can_be_changed_back(make_run: MakeRun, tmp_path: Path) -> None:
    """What was stored is known from the first run, however high the thresholds were in between."""
    rethreshold(make_run(), tmp_path / "high", one(0.99))
    rethreshold(tmp_path / "high", tmp_path / "back", Rules(Thresholds(tuple(VOCABULARY.thresholds.tolist()), "t")))
    assert_tags(tmp_path / "back", VOCABULARY.thresholds)


def test_images_whose_scores_were_cut_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    """With their number and the way on; with --allow-capped their tags are those of the stored scores."""
    run = make_run("output.score_floor=0", "output.top_k=2")
    with pytest.raises(ConfigError, match=r"\d+ of 59 images .*output\.top_k=2.*--allow-capped"):
        rethreshold(run, tmp_path / "new", one(0.1))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["run"]
    allowed = Rules(Thresholds(0.1, "--threshold"), allow_capped=True)
    assert rethreshold(run, tmp_path / "new", allowed).capped > 0
    assert tags_of(tmp_path / "new")["tags"].str.len().max() <= len(NAMES)


def test_raised_thresholds_need_nothing_that_was_cut(make_run: MakeRun, tmp_path: Path) -> None:
    """A cap is no obstacle then."""
    thresholds = (VOCABULARY.thresholds * np.float32(1.0)).clip(0.75)
    rethreshold(make_run("output.top_k=1"), tmp_path / "new", Rules(Thresholds(tuple(thresholds.tolist()), "t.txt")))
    assert_tags(tmp_path / "new", thresholds)


def test_top_k_keeps_the_surest_tags(make_run: MakeRun, tmp_path: Path) -> None:
    """Of more tags the highest scores stay, in the order of the vocabulary; stored scores stay all."""
    run = make_run()
    rethreshold(run, tmp_path / "new", Rules(top_k=1))
    for image, row in tags_of(tmp_path / "new").iterrows():
        scores = np.where(SCORES[int(image[1:])] > VOCABULARY.thresholds, SCORES[int(image[1:])], 0)
        assert list(row["tags"]) == ([VOCABULARY.tags[scores.argmax()]] if scores.any() else [])
    assert tags_of(tmp_path / "new")["scores"].str.len().tolist() == tags_of(run)["scores"].str.len().tolist()


@pytest.mark.parametrize(("language", "empty"), [("en", ["tags_zh"]), ("zh", ["tags"]), ("both", [])])
def test_language_decides_which_lists_are_filled(
    make_run: MakeRun, tmp_path: Path, language: str, empty: list[str]
) -> None:
    """The other list is empty, not null; ids and scores stay."""
    rethreshold(make_run(), tmp_path / "new", Rules(language=language))
    tags = tags_of(tmp_path / "new")
    filled = {column: tags[column].str.len().sum() > 0 for column in ("tags", "tags_zh")}
    assert filled == {column: column not in empty for column in ("tags", "tags_zh")}
    assert tags[["tags", "tags_zh"]].notna().all(axis=None)


def test_other_forms_of_the_tags_follow(make_run: MakeRun, tmp_path: Path) -> None:
    """Columns made of the tags are made again."""
    run = make_run("output.grounding_prompt=true", "output.joined=true")
    rethreshold(run, tmp_path / "new", one(0.7))
    assert_tags(tmp_path / "new", uniform(0.7))
    for _, row in tags_of(tmp_path / "new").iterrows():
        assert row["grounding_prompt"] == "".join(f"{tag.lower()} . " for tag in row["tags"]).strip()
        assert row["tags_joined"] == " | ".join(row["tags"])
        assert row["tags_zh_joined"] == " | ".join(row["tags_zh"])


def test_a_folder_that_is_no_finished_run(tmp_path: Path) -> None:
    """What is missing is named."""
    with pytest.raises(InputError, match=r"holds no finished run: there is no run\.json"):
        rethreshold(tmp_path, tmp_path / "new", one(0.7))


def test_a_target_that_holds_something_is_left_alone(make_run: MakeRun, tmp_path: Path) -> None:
    """Also where it is the run itself."""
    run = make_run()
    with pytest.raises(InputError, match="is not empty"):
        rethreshold(run, run, one(0.7))


def test_nothing_to_change_is_refused(tmp_path: Path) -> None:
    """A copy is not what the command is for."""
    with pytest.raises(ConfigError, match="nothing to change"):
        rethreshold(tmp_path, tmp_path / "new", Rules())


def test_the_command_says_what_changed(make_run: MakeRun, tmp_path: Path) -> None:
    """One line, with images, tags and thresholds."""
    arguments = ["threshold", str(make_run()), "--out", str(tmp_path / "new"), "--threshold", "0.75"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "59 images; " in result.output
    assert result.output.endswith("4 thresholds changed\n")


def test_tagging_into_a_derived_run_is_refused(make_run: MakeRun, tmp_path: Path, tiny_bundle: Path) -> None:
    """It has no plan to go on with."""
    from rich.console import Console

    from pipeline.tag import Request, tag

    rethreshold(make_run(), tmp_path / "new", one(0.75))
    config = load_config(None, [f"model.bundle={tiny_bundle}"])
    with pytest.raises(PinnedError, match="ramfleet threshold"):
        tag(Request(str(tmp_path), str(tmp_path / "new"), config), Console())


def test_samples_of_a_run_name_tags_by_id(make_run: MakeRun) -> None:
    """Two tags of one name each have their own score."""
    run = make_run()
    parts = json.loads((run / "run.json").read_text())["parts"]["tags"]
    for row in sample_rows(LocalStore(run), parts, IMAGES):
        scores = SCORES[int(row["image_id"][1:])]
        expected = [(NAMES[tag], float(scores[tag])) for tag in np.flatnonzero(scores > VOCABULARY.thresholds)]
        assert sorted(row["tags"]) == sorted(expected)
