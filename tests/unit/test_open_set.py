"""Open tags: descriptions, prompts, the text tower and its cache, taggers for them."""

import dataclasses
import json
import shutil

import clip
import goldens
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

import ramcore
from ramcore.descriptions import prompts, read_descriptions, read_templates
from ramcore.errors import BundleError, VocabularyError
from ramcore.open_set import label_embeddings, open_set_tagger
from ramcore.ram import Ram
from ramcore.tagger import Tagger
from ramcore.text_tower import TextTower, default_cache

DESCRIPTIONS = {"zebra": ("a striped horse", "black and white stripes"), "igloo": ("a house of snow",)}


@pytest.fixture
def tower(tiny_clip, tmp_path):
    return TextTower(tiny_clip, cache=tmp_path / "cache")


def _pixels(tagger):
    golden = goldens.load_golden("tiny_ram_plus")
    return np.stack([tagger.pixels(goldens.as_picture(golden[f"image{n}"])) for n in range(2)])


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)


@pytest.mark.lengthy
@given(st.dictionaries(text, st.lists(text, min_size=1, max_size=4), min_size=1, max_size=5))
def test_descriptions_read_back_as_written(tmp_path_factory, descriptions):
    """Any names and texts survive the reference's JSON format, in order."""
    path = tmp_path_factory.mktemp("json") / "d.json"
    path.write_text(json.dumps([{name: texts} for name, texts in descriptions.items()]))
    assert list(read_descriptions(path).items()) == [(name, tuple(texts)) for name, texts in descriptions.items()]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "expected a list of entries"),
        ("[]", "expected a list of entries"),
        ('[{"a": ["x"], "b": ["y"]}]', "entry 0 is .* give one tag"),
        ('["zebra"]', "entry 0 is zebra: give one tag"),
        ('[{"a": ["x"]}, {"b": []}]', r"entry 1 \(b\): give a list of at least one text"),
        ('[{"a": ["x", " "]}]', r"entry 0 \(a\): .* none of them blank"),
        ('[{"a": "x"}]', r"entry 0 \(a\): give a list"),
        ('[{"a": ["x"]}, {"a": ["y"]}]', "tag 'a' is twice in it"),
        ('[{" ": ["x"]}]', "is blank"),
    ],
)
def test_broken_descriptions_say_where(tmp_path, document, message):
    """File and entry are named."""
    path = tmp_path / "d.json"
    path.write_text(document)
    with pytest.raises(VocabularyError, match=message):
        read_descriptions(path)


def test_list_of_names_gets_prompts(tmp_path):
    """A text file of names stands for the prompt templates filled with them."""
    path = tmp_path / "names.txt"
    path.write_text("zebra\n\nIce_cream/sorbet.\n")
    templates = ("a photo of {article} {}.", "one {name}.", "the {name}.")
    assert read_descriptions(path, templates) == {
        "zebra": ("This is a photo of a zebra.", "one zebra.", "This is the zebra."),
        "Ice_cream/sorbet.": (
            "This is a photo of an ice cream or sorbet.",
            "one ice cream or sorbet.",
            "This is the ice cream or sorbet.",
        ),
    }


@given(text)
def test_any_name_fills_all_templates(name):
    """Braces and odd characters in names do not break the prompts."""
    assert len(prompts(name)) == 8


def test_templates_come_from_a_file(tmp_path):
    """Templates without a place for the name are refused."""
    path = tmp_path / "templates.txt"
    path.write_text("itap of {article} {}.\n\n")
    assert read_templates(path) == ("itap of {article} {}.",)
    path.write_text("a photo of a dog.\n")
    with pytest.raises(VocabularyError, match=r"template 1 is .* it lacks \{name\}"):
        read_templates(path)
    path.write_text("\n")
    with pytest.raises(VocabularyError, match="holds no template"):
        read_templates(path)


def test_text_tower_gives_unit_vectors_that_do_not_depend_on_the_batch(tower):
    """A text has the same embedding alone and padded among longer ones."""
    texts = ["a zebra", "a much longer text about a zebra in the savannah"]
    together = tower.encode(texts)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(tower.encode(texts[:1]), together[:1], atol=1e-6)


def test_long_texts_are_cut(tower):
    """What is longer than the model takes is truncated as in the reference."""
    assert np.array_equal(tower.encode(["z" * 200]), tower.encode(["z" * 300]))


def test_embeddings_are_cached_by_content(tower, tiny_clip, monkeypatch):
    """Another tower with the same files reads what the first one wrote, without loading the model."""
    first = tower.encode(["a zebra"])
    again = TextTower(tiny_clip, cache=tower.cache)
    monkeypatch.setattr(again, "_load", None)
    assert np.array_equal(again.encode(["a zebra"]), first)
    with pytest.raises(TypeError):
        again.encode(["a horse"])


def test_another_model_does_not_read_the_cache(tower, tmp_path):
    """The cache's names depend on the weights."""
    other = TextTower(clip.save_tiny_clip(tmp_path / "other", seed=1), cache=tower.cache)
    assert not np.array_equal(other.encode(["a zebra"]), tower.encode(["a zebra"]))


def test_damaged_cache_is_made_again(tower):
    """A file that was cut short is no wrong embedding."""
    expected = tower.encode(["a zebra"])
    (path,) = tower.cache.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(tower.encode(["a zebra"]), expected)


def test_cache_that_cannot_be_written_is_a_warning(tiny_clip, tmp_path):
    """A full or read-only disk costs time, not the result."""
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="text embeddings are not kept"):
        assert TextTower(tiny_clip, cache=tmp_path / "file" / "cache").encode(["a"]).shape == (1, 512)


def test_default_cache_follows_xdg(monkeypatch, tmp_path):
    """XDG_CACHE_HOME decides where embeddings are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "ramfleet" / "text-embeddings"


def test_folder_that_is_no_text_model_is_refused(tmp_path, tiny_clip):
    """Missing folders, missing weights and broken ones are each named."""
    with pytest.raises(BundleError, match="is no folder"):
        TextTower(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"holds neither model\.safetensors"):
        TextTower(tmp_path)
    broken = shutil.copytree(tiny_clip, tmp_path / "broken")
    (broken / "config.json").write_text("{")
    with pytest.raises(BundleError, match="is no CLIP text model"):
        TextTower(broken, cache=tmp_path).encode(["a"])


@pytest.mark.lengthy
def test_ram_plus_tags_by_descriptions_of_different_counts(tiny_bundle, tower):
    """Each tag's scores are those of a tagger for this tag alone."""
    closed = ramcore.load(tiny_bundle, device="cpu")
    tagger = open_set_tagger(closed, DESCRIPTIONS, tower)
    assert tagger.config.description_counts == (2, 1)
    assert tagger.vocabulary.tags == ("zebra", "igloo")
    assert tagger.vocabulary.thresholds.tolist() == [0.5, 0.5]
    pixels = _pixels(tagger)
    scores = tagger.scores(pixels)
    for tag, name in enumerate(DESCRIPTIONS):
        alone = open_set_tagger(closed, {name: DESCRIPTIONS[name]}, tower).scores(pixels)
        torch.testing.assert_close(scores[:, [tag]], alone, rtol=0, atol=1e-6)


@pytest.mark.lengthy
def test_ram_averages_the_texts_of_a_tag(tiny_ram_bundle, tower):
    """RAM's embedding is the mean of unit vectors at unit length."""
    tagger = open_set_tagger(ramcore.load(tiny_ram_bundle, device="cpu"), DESCRIPTIONS, tower)
    rows = tower.encode([text for texts in DESCRIPTIONS.values() for text in texts])
    mean = rows[:2].mean(axis=0)
    expected = np.stack([mean / np.linalg.norm(mean), rows[2]])
    np.testing.assert_allclose(tagger.model.label_embed.detach().numpy(), expected, atol=1e-6)
    assert tagger.scores(_pixels(tagger)).shape == (2, 2)


def test_tag2text_has_no_open_tags(tiny_tag2text_bundle, tower):
    """Learned tags cannot be described."""
    with pytest.raises(VocabularyError, match="take a ram or ram_plus bundle"):
        open_set_tagger(ramcore.load(tiny_tag2text_bundle, device="cpu"), DESCRIPTIONS, tower)


def test_text_model_of_another_width_is_refused(tmp_path):
    """Width is compared before anything is computed with it."""
    tower = TextTower(clip.save_tiny_clip(tmp_path / "narrow", width=64), cache=tmp_path)
    with pytest.raises(VocabularyError, match="gives 64 channels, the bundle takes 512"):
        label_embeddings(goldens.tiny_config(), DESCRIPTIONS, tower)


@pytest.mark.lengthy
def test_folder_of_another_model_is_no_text_model(tiny_bundle, tmp_path):
    """Weights that are not there are not made up, as transformers would."""
    with pytest.raises(BundleError, match="is no CLIP text model"):
        TextTower(tiny_bundle, cache=tmp_path).encode(["dog"])


def test_json_that_is_nested_too_deeply_is_refused(tmp_path):
    """No RecursionError reaches a user."""
    (tmp_path / "d.json").write_text("[" * 100_000)
    with pytest.raises(VocabularyError, match=r"d\.json is not JSON"):
        read_descriptions(tmp_path / "d.json")


def test_open_set_ram_takes_the_mean_direction_of_its_texts(tiny_ram_bundle, tiny_clip, tmp_path):
    """A tag's embedding is the average of CLIP's unit vectors, brought to unit length: by transformers alone."""
    tagger = ramcore.load(tiny_ram_bundle, device="cpu")
    texts = {"zebra": ("a striped horse", "black and white"), "okapi": ("a shy giraffe",)}
    ours, counts = label_embeddings(tagger.config, texts, TextTower(tiny_clip, cache=tmp_path))
    tokenizer, model = CLIPTokenizer.from_pretrained(tiny_clip), CLIPTextModelWithProjection.from_pretrained(tiny_clip)
    for row, name in zip(ours, texts, strict=True):
        vectors = []
        for text in texts[name]:
            with torch.no_grad():
                vector = model(**tokenizer(text, return_tensors="pt")).text_embeds[0].double().numpy()
            vectors.append(vector / np.linalg.norm(vector))
        mean = np.mean(vectors, axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)
    assert counts == [1, 1]


@pytest.mark.lengthy
def test_open_set_head_is_a_closed_head_with_these_embeddings(tiny_ram_bundle, tiny_clip, tmp_path):
    """An open RAM is, number for number, a RAM whose file holds these rows as label_embed."""
    tagger, tower = ramcore.load(tiny_ram_bundle, device="cpu"), TextTower(tiny_clip, cache=tmp_path)
    texts = {"zebra": ("a striped horse", "black and white"), "okapi": ("a shy giraffe",)}
    rows = torch.from_numpy(label_embeddings(tagger.config, texts, tower)[0])
    config = dataclasses.replace(tagger.config, num_tags=2)
    closed = Ram.from_state(config, tagger.model.state_dict() | {"label_embed": rows})
    pixels = goldens.model_pixels(goldens.load_golden("tiny_ram"))
    opened = open_set_tagger(tagger, texts, tower)
    assert torch.equal(opened.logits(pixels), Tagger(closed, opened.vocabulary).logits(pixels))
