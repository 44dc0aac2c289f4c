"""Measuring a device: the knee, the file of profiles, and the command on this machine's CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cards.profiles import load_profiles
from ramcore.bundle import bundle_hash
from ramcore.calibrate import (
    Measurement,
    Point,
    default_sweep,
    knee,
    main,
    measure,
    profiles,
    read_profiles,
    write_profiles,
)

POINTS = st.builds(Point, st.just("fp16"), st.just(False), st.integers(1, 4), st.just(1), st.sampled_from([1, 8, 64]))
MEASUREMENTS = st.lists(
    st.builds(
        Measurement,
        POINTS,
        st.floats(0.1, 1e4),
        st.integers(1, 2**36),
        st.one_of(st.none(), st.just("out of memory")),
    )
)


@pytest.mark.lengthy
@given(MEASUREMENTS)
def test_the_knee_is_the_smallest_within_three_percent(measurements: list[Measurement]) -> None:
    """Nothing that worked is both smaller and as good; failures do not count."""
    found = knee(measurements)
    worked = [each for each in measurements if each.failed is None]
    if found is None:
        assert not worked
        return
    good = 0.97 * max(each.images_per_s for each in worked)
    assert found.failed is None
    assert found.images_per_s >= good
    size = found.point.replicas * found.peak_bytes
    assert not any(each.images_per_s >= good and each.point.replicas * each.peak_bytes < size for each in worked)


@pytest.mark.slow
def test_this_cpu_is_measured(tiny_bundle: Path) -> None:
    """Threads × replicas, each a process with the model; larger micro-batches until they only get slower."""
    sweep = default_sweep(tiny_bundle, "cpu", 0.05, ["fp32"], replicas=[1, 2], microbatches=[2, 1])
    reported: list[Measurement] = []
    measured = measure(sweep, reported.append)
    assert measured == reported
    assert {(each.point.replicas, each.point.microbatch) for each in measured} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert all(each.failed is None and each.images_per_s > 0 for each in measured)
    assert all(each.peak_bytes > 2**26 for each in measured)
    (profile,) = profiles(sweep, measured)
    assert profile["model"] == bundle_hash(tiny_bundle)
    assert profile["images_per_s"] >= 0.96 * max(each.images_per_s for each in measured)


@pytest.mark.slow
def test_a_replica_that_cannot_load_says_why(tiny_bundle: Path, tmp_path: Path) -> None:
    """As a failed measurement, not as a hang."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_bundle.iterdir():
        (broken / path.name).write_bytes(
            path.read_bytes()[:200] if path.name.endswith(".safetensors") else path.read_bytes()
        )
    sweep = default_sweep(broken, "cpu", 0.05, ["fp32"], replicas=[1], microbatches=[1])
    (found,) = measure(sweep, lambda _: None)
    assert "model.safetensors" in str(found.failed)
    assert profiles(sweep, [found]) == []


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_measured(tiny_bundle: Path) -> None:
    """Ctrl-C after the first point ends the measuring with that point."""
    sweep = default_sweep(tiny_bundle, "cpu", 0.05, ["fp32"], replicas=[1], microbatches=[1, 2])

    def interrupt(found: Measurement) -> None:
        raise KeyboardInterrupt

    assert len(measure(sweep, interrupt)) == 1


@pytest.mark.slow
def test_the_command_needs_no_ray(tiny_bundle: Path, tmp_path: Path) -> None:
    """`python -m ramcore.calibrate` where Ray and pydantic cannot be imported writes what fleet.profiles reads."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ray'] = sys.modules['pydantic'] = None\n")
    out = tmp_path / "profiles.yaml"
    options = [
        "--model",
        str(tiny_bundle),
        "--device",
        "cpu",
        "--seconds",
        "0.05",
        "--dtype",
        "fp32",
        "--out",
        str(out),
    ]
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "ramcore.calibrate",
            *options,
            "--replicas",
            "1",
            "--microbatch",
            "1",
            "--out",
            str(out),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fp32, 1 replica(s) of " in ended.stdout
    (profile,) = load_profiles(out).measured
    assert (profile.dtype, profile.replicas, profile.microbatch) == ("fp32", 1, 1)
    assert profile.model == bundle_hash(tiny_bundle)


def test_profiles_of_other_devices_stay(tmp_path: Path) -> None:
    """The same device, model, dtype and compilation is replaced, cards and others are kept."""
    out = tmp_path / "profiles.yaml"
    first = {"name": "A", "model": "m", "dtype": "fp16", "compiled": False, "images_per_s": 1.0}
    out.write_text(yaml.safe_dump({"cards": [{"card": "own"}], "measured": [first, first | {"name": "B"}]}))
    write_profiles(out, [first | {"images_per_s": 2.0}, first | {"compiled": True}])
    document = read_profiles(out)
    assert document["cards"] == [{"card": "own"}]
    assert [(each["name"], each["compiled"], each["images_per_s"]) for each in document["measured"]] == [
        ("B", False, 1.0),
        ("A", False, 2.0),
        ("A", True, 1.0),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["profiles.yaml"]


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dtype", "fp16", "--device", "cpu"], "fp16"),
        (["--device", "tpu"], "give auto, cpu, cuda or cuda:N"),
        (["--model", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    """In one line with exit code 2, before anything is measured."""
    assert main([*options, "--out", str(tmp_path / "out.yaml")]) == 2
    output, error = capsys.readouterr()
    assert not output
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.yaml").exists()


def test_another_file_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What holds no profiles is refused before anything is measured."""
    out = tmp_path / "list.yaml"
    out.write_text("[1, 2]")
    assert main(["--out", str(out)]) == 2
    assert "name another file" in capsys.readouterr().err
    assert out.read_text() == "[1, 2]"
