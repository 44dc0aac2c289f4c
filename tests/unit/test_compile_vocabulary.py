"""The vocabulary compiler, and models whose tags have different numbers of descriptions."""

import shutil

import goldens
import numpy as np
import pytest
import torch
from goldens import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812
from typer.testing import CliRunner

import ramcore
from jobs.model import app
from ramcore.bundle import bundle_hash, read_config, read_vocabulary
from ramcore.compile_vocabulary import compile_vocabulary
from ramcore.config import ModelConfig
from ramcore.errors import BundleError, VocabularyError
from ramcore.ram_plus import RamPlus
from ramcore.reweight import DescriptionMixer
from ramcore.tagger import Tagger
from ramcore.text_tower import TextTower
from ramcore.vocabulary_edits import (
    VocabularyEdits,
    parse_merges,
    parse_renames,
    read_column,
    read_names,
    read_thresholds,
)

CUSTOM = {"zebra": ["a striped horse"], "igloo": [f"text {n}" for n in range(7)], "yurt": [f"a {n}" for n in range(51)]}


@pytest.fixture
def tower(tiny_clip, tmp_path):
    return TextTower(tiny_clip, cache=tmp_path / "cache")


@pytest.fixture
def compile_(tmp_path, tiny_bundle, tower):
    """Compile a bundle; `.tagger` of the new one, `.changes`."""

    def run(edits, bundle=tiny_bundle, name="new"):
        changes = compile_vocabulary(bundle, tmp_path / name, edits, tower)
        return ramcore.load(tmp_path / name, device="cpu"), changes

    return run


def _scores(tagger):
    golden = goldens.load_golden("tiny_ram_plus")
    return tagger.scores(np.stack([tagger.pixels(goldens.as_picture(golden[f"image{n}"])) for n in range(2)]))


def _same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.lengthy
def test_subset_has_the_full_scores(compile_, tiny_bundle):
    """Kept tags score as in the full bundle, in the order of the list."""
    full = ramcore.load(tiny_bundle, device="cpu")
    tagger, changes = compile_(VocabularyEdits(keep=["snow", "dog", "person"]))
    assert tagger.vocabulary == full.vocabulary.subset([18, 1, 0])
    _same(_scores(tagger), _scores(full)[:, [18, 1, 0]])
    assert (changes.before, changes.after, len(changes.dropped)) == (20, 3, 17)


@pytest.mark.lengthy
def test_mixed_bundle_scores_each_tag_as_if_alone(compile_, tiny_bundle):
    """20 built-in tags of 5 descriptions and custom ones of 1, 7 and 51 do not disturb each other."""
    mixed, changes = compile_(VocabularyEdits(add=CUSTOM))
    assert mixed.config.description_counts == (5,) * 20 + (1, 7, 51)
    assert mixed.vocabulary.thresholds[-3:].tolist() == [0.5] * 3
    assert changes.added == tuple(CUSTOM)
    scores = _scores(mixed)
    _same(scores[:, :20], _scores(ramcore.load(tiny_bundle, device="cpu")))
    for number, name in enumerate(CUSTOM):
        alone = Tagger(mixed.model.subset([20 + number]), mixed.vocabulary.subset([20 + number]))
        assert alone.config.descriptions_per_tag == len(CUSTOM[name])
        _same(scores[:, [20 + number]], _scores(alone))


@pytest.mark.lengthy
def test_ragged_bundle_compiles_again(compile_, tmp_path):
    """A compiled bundle is a bundle like others: subsets of it keep their scores."""
    mixed, _ = compile_(VocabularyEdits(add=CUSTOM))
    few, _ = compile_(VocabularyEdits(keep=["yurt", "cat", "zebra"]), bundle=tmp_path / "new", name="few")
    assert few.config.description_counts == (51, 5, 1)
    _same(_scores(few), _scores(mixed)[:, [22, 2, 20]])
    _same(few.model.subset([2, 0])(torch.zeros(1, 3, 128, 128)), few.model(torch.zeros(1, 3, 128, 128))[:, [2, 0]])


@pytest.mark.lengthy
def test_merged_tag_has_all_descriptions(compile_, tiny_bundle):
    """The merged tag stands where its first member stood, with the lowest threshold and all descriptions."""
    full = ramcore.load(tiny_bundle, device="cpu")
    tagger, changes = compile_(VocabularyEdits(merge={"pet": ["dog", "cat"]}))
    assert tagger.vocabulary.tags[:3] == ("person", "pet", "car")
    assert tagger.vocabulary.tags_zh[1] == "狗"
    assert tagger.vocabulary.thresholds[1] == np.float32(0.65)
    assert tagger.config.description_counts[:3] == (5, 10, 5)
    assert torch.equal(tagger.model.label_embed[5:15], full.model.label_embed[5:15])
    others = [0, *range(3, 20)]
    _same(_scores(tagger)[:, [0, *range(2, 19)]], _scores(full)[:, others])
    assert changes.merged == ((("dog", "cat"), "pet"),)


@pytest.mark.lengthy
def test_merged_ram_tag_has_the_mean_embedding(compile_, tiny_ram_bundle):
    """RAM's merged tag points between its members."""
    full = ramcore.load(tiny_ram_bundle, device="cpu").model.label_embed.detach()
    tagger, _ = compile_(VocabularyEdits(merge={"pet": ["dog", "cat"]}), bundle=tiny_ram_bundle)
    expected = F.normalize(full[1:3].mean(dim=0), dim=0) * full[1:3].norm(dim=1).mean()
    torch.testing.assert_close(tagger.model.label_embed.detach()[1], expected)
    assert tagger.config.descriptions_per_tag == 1


@pytest.mark.lengthy
def test_names_thresholds_and_chinese_change_as_asked(compile_, tiny_bundle):
    """Renaming, thresholds and Chinese names leave the scores alone, and each is listed."""
    edits = VocabularyEdits(rename={"dog": "hound"}, thresholds={"hound": 0.3}, tags_zh={"hound": "犬"})
    tagger, changes = compile_(edits)
    vocabulary = tagger.vocabulary
    assert (vocabulary.tags[1], vocabulary.tags_zh[1], vocabulary.thresholds[1]) == ("hound", "犬", np.float32(0.3))
    _same(_scores(tagger), _scores(ramcore.load(tiny_bundle, device="cpu")))
    assert changes.lines() == [
        "20 tags before, 20 after",
        "renamed dog to hound",
        "threshold of hound: 0.8 to 0.3",
        "Chinese name of hound: 狗 to 犬",
    ]
    assert changes.bundle_hash == tagger.bundle_hash != bundle_hash(tiny_bundle)


@pytest.mark.lengthy
def test_equal_edits_give_equal_bundles(compile_):
    """The hash is of the content, so compiling twice gives the same identity."""
    edits = VocabularyEdits(keep=["dog"], add={"zebra": ["striped"]})
    assert compile_(edits)[1].bundle_hash == compile_(edits, name="again")[1].bundle_hash


@pytest.mark.lengthy
def test_tag2text_drops_and_renames_only(compile_, tiny_tag2text_bundle):
    """Learned tags keep their scores and captions; new and merged ones are refused."""
    full = ramcore.load(tiny_tag2text_bundle, device="cpu")
    tagger, _ = compile_(VocabularyEdits(keep=["boat", "dog"], rename={"dog": "hound"}), bundle=tiny_tag2text_bundle)
    assert tagger.vocabulary.tags == ("boat", "hound")
    assert tagger.can_caption
    _same(_scores(tagger), _scores(full)[:, [9, 1]])
    for edits in (VocabularyEdits(add=CUSTOM), VocabularyEdits(merge={"pet": ["dog", "cat"]})):
        with pytest.raises(VocabularyError, match="it can drop and rename them, not add or merge"):
            compile_(edits, bundle=tiny_tag2text_bundle, name="refused")


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (VocabularyEdits(keep=["dog", "unicorn"]), "tags to keep: there is no unicorn"),
        (VocabularyEdits(rename={"unicorn": "horse"}), "tags to rename: there is no unicorn"),
        (VocabularyEdits(rename={"dog": "cat"}), "tag 'cat' would be there twice"),
        (VocabularyEdits(add={"dog": ["x"]}), "tag 'dog' would be there twice"),
        (VocabularyEdits(merge={"pet": ["dog", "unicorn"]}), "tags to merge: there is no unicorn"),
        (VocabularyEdits(merge={"pet": ["dog", "cat"], "x": ["dog", "car"]}), "in one merger only"),
        (VocabularyEdits(merge={"tree": ["dog", "cat"]}), "tag 'tree' would be there twice"),
        (VocabularyEdits(merge={"pet": ["dog", "cat"]}, rename={"dog": "x"}), "tags to rename: there is no dog"),
        (VocabularyEdits(keep=["dog"], thresholds={"cat": 0.5}), "thresholds: there is no cat"),
        (VocabularyEdits(tags_zh={"unicorn": "x"}), "Chinese names: there is no unicorn"),
        (VocabularyEdits(thresholds={"dog": 2.0}), "threshold of tag 1"),
    ],
)
def test_edits_that_do_not_fit_are_refused(compile_, tmp_path, edits, message):
    """What is not there or would be there twice is named, and nothing is written."""
    with pytest.raises(VocabularyError, match=message):
        compile_(edits)
    assert not (tmp_path / "new").exists()


def test_adding_takes_a_text_model(tiny_bundle, tmp_path):
    """Without one, texts cannot become embeddings."""
    with pytest.raises(VocabularyError, match="3 tags to add and no text model"):
        compile_vocabulary(tiny_bundle, tmp_path / "new", VocabularyEdits(add=CUSTOM))


def _config(counts):
    return ModelConfig(**(vars(goldens.tiny_config()) | {"num_tags": len(counts), "descriptions_per_tag": counts}))


@pytest.mark.lengthy
@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 3))
def test_reweighting_is_a_softmax_over_each_tags_own_descriptions(counts, batch):
    """For any counts in any order, each tag is what it would be alone."""
    torch.manual_seed(0)
    rows, pooled, scale = torch.randn(sum(counts), 8), torch.randn(batch, 8), torch.tensor(1.5)
    mixed = DescriptionMixer(_config(tuple(counts)))(pooled, rows, scale)
    for tag, own in enumerate(rows.split(counts)):
        weights = (F.normalize(pooled, dim=-1) @ own.T * scale.exp()).softmax(dim=-1)
        torch.testing.assert_close(mixed[:, tag], weights @ own, rtol=1e-5, atol=1e-5)


def test_scattered_counts_survive_loading():
    """Index buffers are right after a model was built without memory, as by ramcore.load."""
    counts = (1, 3, 1, 2, 3)
    torch.manual_seed(0)
    fresh = RamPlus(_config(counts)).eval()
    loaded = RamPlus.from_state(fresh.config, fresh.state_dict())
    pooled = torch.randn(2, 512)
    assert torch.equal(fresh.reweight(pooled), loaded.reweight(pooled))
    fresh.reweight(pooled).sum().backward()
    assert (fresh.label_embed.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("counts", "message"), [((1, 2), "give one number per tag"), ((1,) * 19 + (0,), "whole number of at least 1")]
)
def test_impossible_counts_are_refused(counts, message):
    """A count per tag, and each at least 1."""
    with pytest.raises(BundleError, match=message):
        ModelConfig(**(vars(goldens.tiny_config()) | {"descriptions_per_tag": counts}))


def test_counts_survive_json():
    """A ragged config reads back equal, and equal counts are stored as one number."""
    config = _config((1, 2, 3))
    assert ModelConfig.from_json(config.to_json()) == config
    assert _config((5, 5)).descriptions_per_tag == 5


name = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="=,"), min_size=1)
name = name.map(str.strip).filter(bool)


@given(st.lists(name, min_size=1, unique=True))
def test_any_names_read_back(tmp_path_factory, names):
    """Lists of tags are lines, whatever characters the names have."""
    path = tmp_path_factory.mktemp("lists") / "keep.txt"
    path.write_text("\n".join(names), encoding="utf-8")
    assert read_names(path) == names


@pytest.mark.lengthy
@given(st.dictionaries(name, st.tuples(name, name)))
def test_any_options_parse(merges):
    """Old and new names may hold blanks and quotes."""
    assert parse_renames([f"{old}={new}" for old, (new, _) in merges.items()]) == {
        old: new for old, (new, _) in merges.items()
    }
    assert parse_merges([f"{a},{b}={new}" for new, (a, b) in merges.items()]) == merges


@pytest.mark.parametrize("option", ["dog", "=dog", "dog=", ""])
def test_options_without_both_sides_are_refused(option):
    """The form is said."""
    with pytest.raises(VocabularyError, match="give it in the form old=new"):
        parse_renames([option])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,threshold\n", "the header is 'name,threshold', it must be 'tag,threshold'"),
        ("tag,threshold\ndog\n", "line 2 is 'dog'"),
        ("tag,threshold\ndog,0.5\ndog,0.6\n", "line 3"),
        ("tag,threshold\ndog,nan\n", "dog: 'nan' is no threshold"),
        ('tag,threshold\n"dog,0.5\n', "is not CSV"),
    ],
)
def test_broken_lists_name_their_line(tmp_path, text, message):
    """File, line and value are named."""
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(VocabularyError, match=message):
        read_thresholds(path)


@pytest.mark.lengthy
def test_command_makes_the_bundle_and_lists_the_changes(tiny_bundle, tiny_clip, tmp_path, monkeypatch):
    """`model vocabulary` with all its options."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = {
        "keep.txt": "dog\ncat\ncar\nboat\n",
        "D.json": '[{"zebra": ["a striped horse"]}]',
        "T.csv": "tag,threshold\nzebra,0.25\n",
        "Z.csv": "tag,tag_zh\nzebra,斑马\n",
    }
    for file, text in files.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    options = ["--keep", "keep.txt", "--descriptions", "D.json", "--thresholds", "T.csv", "--zh", "Z.csv"]
    paths = [str(tmp_path / option) if "." in option else option for option in options]
    more = ["--text-model", str(tiny_clip), "--rename", "boat=ship", "--merge", "dog,cat=pet"]
    out = tmp_path / "new"
    result = CliRunner().invoke(app, ["vocabulary", str(tiny_bundle), "--out", str(out), *paths, *more])
    assert result.exit_code == 0, result.output
    vocabulary = read_vocabulary(out)
    assert vocabulary.tags == ("pet", "car", "ship", "zebra")
    assert vocabulary.tags_zh == ("狗", "汽车", "船", "斑马")
    assert read_config(out).description_counts == (10, 5, 5, 1)
    assert "added zebra" in result.output
    assert bundle_hash(out) in result.output
    assert "merged dog + cat into pet" in (out / "README.md").read_text()


def test_names_twice_or_none_are_refused(tmp_path):
    """A list to keep is a set with an order."""
    for text, message in (("dog\ndog\n", "has 'dog' twice"), ("\n", "is empty")):
        (tmp_path / "keep.txt").write_text(text)
        with pytest.raises(VocabularyError, match=message):
            read_names(tmp_path / "keep.txt")
    with pytest.raises(VocabularyError, match="cannot read"):
        read_column(GOLDEN / "nowhere.csv", "tag_zh")


@pytest.mark.parametrize("parse", [parse_renames, parse_merges])
def test_option_that_takes_back_another_is_refused(parse):
    """Of two that speak of one tag neither is dropped in silence."""
    options = ["dog=a", "dog=b"] if parse is parse_renames else ["dog,cat=a", "boat,car=a"]
    with pytest.raises(VocabularyError, match=f"{options[1]}.* already: "):
        parse(options)


def test_blank_lines_of_a_csv_are_none(tmp_path):
    """Editors leave them at the end."""
    (tmp_path / "t.csv").write_text("tag,threshold\ndog,0.5\n\n")
    assert read_thresholds(tmp_path / "t.csv") == {"dog": 0.5}


def test_weights_that_cannot_be_read_are_a_bundle_error(tiny_bundle, tmp_path):
    """Missing, cut or foreign weights are said to be that, as by `ramcore.load`."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(BundleError, match=r"model\.safetensors cannot be read"):
        compile_vocabulary(bundle, tmp_path / "out", VocabularyEdits())
    (bundle / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"model\.safetensors is missing"):
        compile_vocabulary(bundle, tmp_path / "out", VocabularyEdits())


def test_vocabulary_of_another_length_is_not_compiled(tiny_bundle, tmp_path):
    """A vocabulary.csv that was cut does not silently make a smaller model."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "vocabulary.csv").write_text("tag_id,tag,tag_zh,threshold\n0,dog,,0.5\n")
    with pytest.raises(BundleError, match=r"num_tags 20, vocabulary\.csv has 1 tags"):
        compile_vocabulary(bundle, tmp_path / "out", VocabularyEdits())
