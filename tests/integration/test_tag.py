"""One run over everything that a manifest may hold: odd images, broken ones, repeated rows."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import goldens
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from runs import Run, assert_adds_up, draw_pictures, finish, rows

from pipeline.error_kinds import ERROR_KINDS

pytestmark = pytest.mark.integration

README = Path(__file__).parents[2] / "README.md"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def odd_images() -> dict[str, bytes]:
    """Unusual, but images."""
    photo = Image.fromarray(goldens.synth_images("tiny")[0])
    return {
        "rgba.png": encoded(photo.convert("RGBA"), "PNG"),
        "cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG"),
        "palette.gif": encoded(photo.convert("P"), "GIF"),
        "animated.gif": encoded(photo.convert("P"), "GIF", save_all=True, append_images=[photo.convert("L")]),
        "sixteen.png": encoded(Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80) * 10), "PNG"),
        "pixel.png": encoded(Image.new("RGB", (1, 1), (200, 0, 0)), "PNG"),
        "wide.png": encoded(Image.new("RGB", (20_000, 10), (0, 99, 0)), "PNG"),
        "unicode ☃.webp": encoded(photo, "WEBP"),
    }


def broken_images() -> dict[str, tuple[str, bytes]]:
    """error_kind and content."""
    photo = Image.fromarray(goldens.synth_images("tiny")[1])
    jpeg = encoded(photo, "JPEG")
    bomb = encoded(Image.new("1", (30_000, 30_000)), "PNG")
    return {
        "cut.jpg": ("truncated", jpeg[: len(jpeg) // 2]),
        "empty.jpg": ("empty", b""),
        "page.jpg": ("not_an_image", b"<!DOCTYPE html><html><body>404</body></html>"),
        "bomb.png": ("too_many_pixels", bomb),
    }


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("manifest")
    for number, pixels in enumerate(goldens.synth_images("tiny")):
        (folder / f"golden{number}.png").write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    for name, data in odd_images().items():
        (folder / name).write_bytes(data)
    for name, (_, data) in broken_images().items():
        (folder / name).write_bytes(data)
    draw_pictures(folder / "plain", 40)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))
    table = pd.DataFrame({"image_path": names, "key": [f"id {name}" for name in names], "shop": range(len(names))})
    repeated = table.iloc[[5, 5, 7]]
    other_uri = table.iloc[[9]].assign(image_path="plain/p00001.jpg")
    other_id = table.iloc[[11]].assign(key="second name")
    missing = pd.DataFrame({"image_path": ["gone.jpg", ""], "key": ["gone", "no uri"], "shop": [1, 2]})
    table = pd.concat([table, repeated, other_uri, other_id, missing], ignore_index=True)
    table.attrs["path"] = str(folder / "images.parquet")
    table.to_parquet(table.attrs["path"])
    return table


@pytest.fixture(scope="module")
def run(manifest: pd.DataFrame, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = ["output.score_floor=0", "output.top_k=0", "decode.mode=exact", "manifest.keep=[shop]"]
    run = Run(Path(manifest.attrs["path"]), tmp_path_factory.mktemp("run") / "run", tiny_bundle, options)
    run.finish()
    return run


def rows_by_id(run: Run) -> pd.DataFrame:
    """All rows but those whose id belongs to another."""
    table = rows(run.out)
    return table[table["error_kind"] != "duplicate_id"]


def test_rows_add_up(run: Run, manifest: pd.DataFrame) -> None:
    """input = tagged + rejected + duplicates, and every id of the manifest has exactly one row."""
    counts = assert_adds_up(run.out, len(manifest))
    assert counts["duplicates"] == 3
    table = rows(run.out)
    assert len(table) == counts["tagged"] + counts["rejected"]
    assert set(table.index) == set(manifest["key"])


def test_odd_images_are_tagged(run: Run) -> None:
    """RGBA, CMYK, palette, animated, 16 bit, one pixel, extreme shape, snowman in the name."""
    table = rows_by_id(run)
    for name in odd_images():
        assert pd.isna(table.loc[f"id {name}", "error_kind"]), name
    assert table.loc["id wide.png", ["width", "height"]].tolist() == [20_000, 10]


def test_broken_images_are_rejected_with_their_kind(run: Run) -> None:
    """Each with the right error_kind and a line of detail."""
    table = rows_by_id(run)
    for name, (kind, _) in broken_images().items():
        assert table.loc[f"id {name}", "error_kind"] == kind, name
    rejects = table[table["error_kind"].notna()]
    assert set(rejects["error_kind"]) <= set(ERROR_KINDS)
    assert rejects["error_detail"].str.len().gt(0).all()
    assert table.loc["gone", "error_kind"] == table.loc["no uri", "error_kind"] == "not_found"


def test_identity_rules(run: Run, manifest: pd.DataFrame) -> None:
    """Repeated rows are listed; one id with two uris keeps the first; one uri with two ids is tagged twice."""
    duplicates = pd.read_parquet(run.out / "duplicates")
    assert sorted(duplicates["image_id"]) == sorted(manifest["key"].iloc[[5, 5, 7]])
    rejects = pd.read_parquet(run.out / "rejects")
    assert (rejects["error_kind"] == "duplicate_id").sum() == 1
    assert rejects.set_index("error_kind").loc["duplicate_id", "uri"].endswith("plain/p00001.jpg")
    tags = pd.read_parquet(run.out / "tags").set_index("image_id")
    first = tags.loc[manifest["key"].iloc[11]]
    assert tags.loc["second name", "scores"].tolist() == pytest.approx(first["scores"].tolist(), abs=1e-5)


def test_scores_are_those_of_the_reference(run: Run) -> None:
    """The golden logits through the whole pipeline, as a black box."""
    golden = goldens.load_golden("tiny_ram_plus")
    names = goldens.load_json("tiny_vocabulary.json")
    tags = pd.read_parquet(run.out / "tags").set_index("image_id")
    for number in (0, 1):
        row = tags.loc[f"id golden{number}.png"]
        expected = 1 / (1 + np.exp(-golden["logits"][number].astype(np.float64)))
        assert row["tag_ids"].tolist() == list(range(len(expected)))
        assert np.abs(row["scores"] - expected).max() <= 1e-5
        assert row["tags"].tolist() == [names["tags"][tag] for tag in golden[f"tags{number}"]]
        assert row["tags_zh"].tolist() == [names["tags_zh"][tag].strip() for tag in golden[f"tags{number}"]]


def test_kept_columns_and_schema(run: Run, manifest: pd.DataFrame) -> None:
    """The tag table has the documented columns, then the kept ones with their type."""
    tags = pd.read_parquet(run.out / "tags")
    documented = "image_id, uri, width, height, tags, tags_zh, tag_ids, scores, caption, sha256, chunk, version"
    assert tags.columns.tolist() == [*documented.split(", "), "shop"]
    shops = manifest.drop_duplicates("key").set_index("key")["shop"]
    assert (tags.set_index("image_id")["shop"] == shops.reindex(tags["image_id"])).all()
    assert documented in README.read_text()


def test_duckdb_query_of_the_readme(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's query runs on the tag table and counts as pandas does."""
    query = re.search(r"```sql\n(.*?)```", README.read_text(), re.DOTALL)
    assert query is not None
    found = duckdb.sql(query[1].replace("demo-run", str(run.out))).fetchall()
    counts = pd.read_parquet(run.out / "tags")["tags"].explode().value_counts()
    assert found == sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]


def test_run_again_does_nothing(run: Run) -> None:
    """A finished run is not touched, and needs no cluster."""
    before = json.loads((run.out / "run.json").read_text())
    assert "nothing was left to do" in run.finish(timeout_s=60)
    after = json.loads((run.out / "run.json").read_text())
    assert after["parts"] == before["parts"]
    assert after["counts"] == before["counts"]


def test_summary_says_what_score_lists_weigh(run: Run) -> None:
    """As the parts' footers have it."""
    assert "bytes per image on disk" in run.finish(timeout_s=60)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["decode.mode=fast"], "decode.mode"),
        (["output.top_k=3"], "output.top_k"),
        (["manifest.keep=[]"], "manifest.keep"),
    ],
)
def test_changed_result_keys_are_refused_by_name(run: Run, change: list[str], named: str) -> None:
    """The difference is told, with both values."""
    changed = Run(run.input, run.out, run.bundle, [*run.options, *change])
    output = finish(changed.start(), 60, code=2)
    assert f"{named}: the run was planned with" in output


def test_changed_input_limit_and_bundle_are_refused(run: Run, tmp_path: Path) -> None:
    """INPUT, --limit and the bundle's content are pinned too."""
    copy = tmp_path / "bundle"
    copy.mkdir()
    for path in run.bundle.iterdir():
        text = path.read_bytes()
        (copy / path.name).write_bytes(text.replace(b"0.45", b"0.46") if path.name == "vocabulary.csv" else text)
    output = finish(Run(run.input.parent, run.out, copy, run.options).start(), 60, code=2)
    assert "INPUT: the run was planned with" in output
    assert "bundle: the run was planned with" in output


def test_operation_keys_may_differ(run: Run) -> None:
    """How a run is done is no part of what it is."""
    assert Run(run.input, run.out, run.bundle, [*run.options, "fetch.concurrency=3"]).finish(timeout_s=60)


def test_finalize_again_gives_the_same_parts(run: Run) -> None:
    """`ramfleet finalize` is a pure function of the chunks; parts of another finalize are removed."""
    before = json.loads((run.out / "run.json").read_text())["parts"]
    stray = run.out / "tags/part-00007-0123456789abcdef.parquet"
    stray.write_bytes((run.out / before["tags"][0]).read_bytes())
    command = [sys.executable, "-m", "jobs.main", "finalize", str(run.out)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert json.loads((run.out / "run.json").read_text())["parts"] == before
    assert not stray.exists()


def test_telemetry_has_a_row_for_each_chunk(run: Run) -> None:
    """Where, on what and how long, for every committed chunk; further pieces of a chunk have rows of their own."""
    telemetry = pd.read_parquet(run.out / "telemetry")
    committed = telemetry[telemetry["outcome"] == "committed"]
    assert len(committed) == run.committed()
    assert committed["chunk"].is_unique
    done = telemetry[telemetry["outcome"].isin(["committed", "shared"])]
    assert done["images"].sum() == len(rows(run.out))
    for column in ("node_id", "card", "replica", "dtype", "model_s", "commit_s", "started_at", "ended_at"):
        assert committed[column].notna().all(), column
    assert (committed["ended_at"] >= committed["started_at"]).all()
