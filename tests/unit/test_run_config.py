"""The configuration tree."""

from pathlib import Path

import pytest

from pipeline.config import Config, known_keys, load_config
from pipeline.errors import ConfigError


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    """--set a.b=v comes after --config."""
    file = tmp_path / "c.yaml"
    file.write_text("decode: {mode: exact}\nfetch: {concurrency: 4}\n")
    config = load_config(file, ["decode.mode=draft"])
    assert (config.decode.mode, config.fetch.concurrency) == ("draft", 4)


def test_all_faults_are_reported_at_once() -> None:
    """Each line names its key, and a near miss is suggested."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["decode.mod=exact", "fetch.concurrency=0", "plan.chunk_rows=x"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any("did you mean decode.mode?" in line for line in lines)
    assert any(line.startswith("fetch.concurrency=0:") for line in lines)
    assert any(line.startswith("plan.chunk_rows='x':") for line in lines)


@pytest.mark.parametrize("override", ["decode=exact", "decode.mode", "=1", ".=1", "mode=exact", "decode.mode=[1"])
def test_malformed_overrides_are_refused(override: str) -> None:
    """--set needs section.key=value with a YAML value."""
    with pytest.raises(ConfigError):
        load_config(None, [override])


@pytest.mark.parametrize(
    ("override", "files"),
    [("prices=a.csv", ("a.csv",)), ("prices=[a.csv, b.yaml]", ("a.csv", "b.yaml")), ("prices=", ())],
)
def test_a_key_that_stands_alone(override: str, files: tuple[str, ...]) -> None:
    """One file or a list of them."""
    assert load_config(None, [override]).prices == files


@pytest.mark.parametrize("override", ["prices=3", "prices={a: 1}", "prices=[[a]]", "prices=['']"])
def test_what_is_no_list_of_files_is_refused(override: str) -> None:
    """The line names the key."""
    with pytest.raises(ConfigError, match=r"^prices"):
        load_config(None, [override])


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [\n", "\x00"])
def test_files_that_are_no_sections_are_refused(tmp_path: Path, text: str) -> None:
    """The error names the file."""
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_config(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """The error names the file and the reason."""
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


def test_pinned_keys_are_those_that_change_results() -> None:
    """Operation keys may differ at a resume; result keys may not."""
    pinned = set(Config().pinned())
    assert {"decode.mode", "output.score_floor", "manifest.keep", "model.dtype"} <= pinned
    assert pinned.isdisjoint({"fetch.concurrency", "fleet.max_replicas", "model.microbatch", "run.max_reject_share"})
    assert pinned <= set(known_keys())


@pytest.mark.parametrize("name", ["~", "null", "tiny #2", "2024", "yes", "a: b", ""])
def test_a_bundle_folder_is_taken_as_it_is(name: str) -> None:
    """--model names a folder; it is no YAML."""
    assert load_config(None, ["model.dtype=fp32"], bundle=name).model.bundle == name
