"""Every kind of model through the whole command, against the reference's numbers."""

from dataclasses import dataclass
from pathlib import Path

import goldens
import numpy as np
import pandas as pd
import pytest
import torch
from runs import Run, finish

from ramcore.convert import convert_checkpoint

pytestmark = pytest.mark.integration

EXACT = ["output.score_floor=0", "output.top_k=0", "model.dtype=fp32", "decode.mode=exact"]
FORMS = ["output.grounding_prompt=true", "output.joined=true"]
CASES = ["ram", "tag2text", "ram_plus_openset"]


@dataclass
class Tagged:
    """What a run says of the two pictures of a golden, in their order, and that golden."""

    rows: pd.DataFrame
    golden: dict[str, np.ndarray]
    names: dict[str, list[str]]


@pytest.fixture(scope="session")
def tiny_ram_plus_openset_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle whose tags are the seven of the open-set golden, all at its threshold of 0.5."""
    folder = tmp_path_factory.mktemp("openset")
    golden = goldens.load_golden("tiny_ram_plus_openset")
    config = goldens.tiny_config(num_tags=len(golden["class_threshold"]))
    torch.save({"model": goldens.released_state(config, golden["fc_bias_override"])}, folder / "model.pth")
    lists = names("ram_plus_openset") | {"thresholds": golden["class_threshold"]}
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(map(str, lines)), encoding="utf-8")
    files = [folder / f"{name}.txt" for name in ("tags_zh", "thresholds")]
    convert_checkpoint("ram_plus", folder / "model.pth", folder / "tags.txt", folder / "bundle", *files)
    return folder / "bundle"


def names(case: str) -> dict[str, list[str]]:
    """Tags and Chinese names; the open-set golden has numbers only, and borrows the first of the others'."""
    number = goldens.load_golden(f"tiny_{case}")["logits"].shape[1]
    lists = goldens.load_json("tiny_vocabulary.json")
    return {key: [name.strip() for name in lists[key][:number]] for key in ("tags", "tags_zh")}


@pytest.fixture(scope="module", params=CASES)
def tagged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tagged:
    """One run of the command for each kind."""
    golden = goldens.load_golden(f"tiny_{request.param}")
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(2):
        goldens.as_picture(golden[f"image{number}"]).save(folder / f"{number}.png")
    out = tmp_path_factory.mktemp("family") / "run"
    Run(folder, out, request.getfixturevalue(f"tiny_{request.param}_bundle"), [*EXACT, *FORMS]).finish()
    rows = pd.read_parquet(out / "tags").set_index("image_id").sort_index()
    return Tagged(rows, golden, names(request.param))


def test_scores_are_those_of_the_reference(tagged: Tagged) -> None:
    """Every score equals the sigmoid of the golden logit."""
    for number, (_, row) in enumerate(tagged.rows.iterrows()):
        expected = 1 / (1 + np.exp(-tagged.golden["logits"][number].astype(np.float64)))
        assert row["tag_ids"].tolist() == list(range(len(expected)))
        assert np.abs(row["scores"] - expected).max() <= 1e-5


@pytest.mark.parametrize("column", ["tags", "tags_zh"])
def test_tags_are_those_of_the_reference(tagged: Tagged, column: str) -> None:
    """English and Chinese names, in the order of the vocabulary."""
    expected = [[tagged.names[column][tag] for tag in tagged.golden[f"tags{number}"]] for number in range(2)]
    assert [list(tags) for tags in tagged.rows[column]] == expected


def test_other_forms_of_the_tags_are_there(tagged: Tagged) -> None:
    """As they were asked for: the detectors' prompt, and joined names."""
    for _, row in tagged.rows.iterrows():
        assert row["grounding_prompt"] == " . ".join(row["tags"]).lower() + " ."
        assert row["tags_joined"] == " | ".join(row["tags"])
        assert row["tags_zh_joined"] == " | ".join(row["tags_zh"])


def test_captions_are_those_of_the_reference(tagged: Tagged, request: pytest.FixtureRequest) -> None:
    """Tag2Text writes the golden texts; the other kinds leave the column null."""
    if "tag2text" in request.node.callspec.id:
        golden = goldens.load_golden("tiny_tag2text_caption")
        assert tagged.rows["caption"].tolist() == [str(golden[f"pred_img{number}_caption"]) for number in range(2)]
    else:
        assert tagged.rows["caption"].isna().all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["output.captions=true"], "output.captions=true: a model of kind ram_plus writes no captions"),
        (["model.dtype=fp16", "fleet.use_cpu=true"], "model.dtype=fp16 with fleet.use_cpu=true"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    tiny_bundle: Path, tmp_path: Path, options: list[str], named: str
) -> None:
    """Exit code 2, one line, and no plan."""
    goldens.as_picture(goldens.load_golden("tiny_ram_plus")["image0"]).save(tmp_path / "a.png")
    output = finish(Run(tmp_path / "a.png", tmp_path / "run", tiny_bundle, options).start(), 60, code=2)
    assert named in output
    assert not (tmp_path / "run/plan").exists()
