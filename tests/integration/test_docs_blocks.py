"""Code blocks of the documentation that start Ray, or need the run of one that does."""

import shutil
from pathlib import Path

import pytest
from docs_blocks import WITH_RAY, Page, blocks
from s3server import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """README's blocks have been run here, and left the run of `make demo`."""
    folder = tmp_path_factory.mktemp("readme")
    reader = Page(folder)
    for block in blocks("README.md"):
        reader.assert_runs(block)
    return folder / "demo-run"


def test_the_readme_does_what_it_says(demo_run: Path) -> None:
    """`make demo` prints what it is said to print, and its run can be read, queried and searched."""
    assert (demo_run / "index.sqlite").exists()


@pytest.mark.parametrize("page", WITH_RAY[1:])
def test_the_blocks_of_a_page_run(page: str, demo_run: Path, s3_server: S3Server, tmp_path: Path) -> None:
    """In their order, in one folder beside the demo pictures and the README's run, with a bucket on a real server."""
    bucket = s3_server.new_bucket()
    reader = Page(tmp_path / "page", {**s3_server.environment, "BUCKET": bucket})
    shutil.copytree(demo_run, reader.folder / "demo-run", ignore=shutil.ignore_patterns("index.sqlite*"))
    for block in blocks(page):
        reader.assert_runs(block)
