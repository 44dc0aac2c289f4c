"""`ramfleet quote` as a process: standard output is what was asked for and nothing else, whatever libraries print."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from runs import draw_pictures

pytestmark = pytest.mark.integration

FLEET = """
nodes:
  - {card: GeForce RTX 3090, most_nodes: 8, preemptions_per_hour: 0.1, cpus: 8}
  - {card: T4, most_nodes: 4}
assumptions: {image_kb: 200}
"""


def quote(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "fleet.yaml").write_text(FLEET)
    command = [sys.executable, "-m", "jobs.main", "quote", "--fleet", str(folder / "fleet.yaml"), "--runs", "2"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300, check=False)


def test_json_and_files_at_once(tmp_path: Path) -> None:
    """One object on standard output, the worker groups in a file."""
    done = quote(
        tmp_path,
        "--images",
        "500000",
        "--deadline",
        "2h",
        "--json",
        "--emit",
        "kuberay",
        "--to",
        str(tmp_path / "k.yaml"),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    groups = yaml.safe_load((tmp_path / "k.yaml").read_text())["spec"]["workerGroupSpecs"]
    assert sum(group["replicas"] for group in groups) == document["nodes"]
    assert document["assumptions"]["image_kb"] == 200
    assert document["deadline_met"] >= 0.5


def test_the_emitted_file_alone(tmp_path: Path) -> None:
    """Standard output can be piped on."""
    done = quote(tmp_path, "--images", "500000", "--budget", "5", "--emit", "fleet")
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)) == {"nodes", "assumptions"}


def test_the_rows_of_an_input_count(tmp_path: Path) -> None:
    """A folder of seven pictures is quoted as seven images."""
    draw_pictures(tmp_path / "pictures", 7)
    done = quote(tmp_path, str(tmp_path / "pictures"), "--deadline", "1h")
    assert done.returncode == 0, done.stderr
    assert "1 node(s) tag 7 images" in done.stdout


def test_a_deadline_that_cannot_be_met_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    """Nothing on standard output."""
    done = quote(tmp_path, "--images", "500000000", "--deadline", "1h")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ramfleet: deadline 60 min cannot be met: all 12 nodes of the fleet together take")
    assert done.stderr.count("\n") == 1


def test_a_wrong_fleet_file_is_exit_code_2(tmp_path: Path) -> None:
    """With the field and its value."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("nodes: [{card: T4, most_nodes: none}]")
    done = quote(tmp_path, "--images", "5", "--fleet", str(wrong))
    assert done.returncode == 2
    assert "nodes.0.most_nodes='none'" in done.stderr


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """After the work, but in one line."""
    nowhere = str(tmp_path / "none" / "k.yaml")
    done = quote(tmp_path, "--images", "5000", "--budget", "5", "--emit", "kuberay", "--to", nowhere)
    assert done.returncode == 2
    assert done.stderr == f"ramfleet: to={nowhere}: cannot be written: No such file or directory\n"
