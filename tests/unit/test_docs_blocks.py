"""Code blocks of the documentation that need no Ray are run, and every other says why it is not."""

from pathlib import Path

import pytest
from docs_blocks import WITH_RAY, Block, Page, blocks, pages


@pytest.mark.parametrize("block", [block for page in pages() for block in blocks(page)], ids=str)
def test_a_block_is_run_or_says_why_not(block: Block) -> None:
    """It has a language, and a reason or a name where one is needed."""
    assert block.language, "a fence without a language"
    assert block.kind, (
        "neither run, nor `<!-- not run: REASON -->`, `<!-- file: NAME -->` or `<!-- prints -->` before it"
    )
    assert block.argument or block.kind in ("run", "prints")


def test_pages_that_are_run_elsewhere_are_there() -> None:
    """None of them was renamed."""
    assert set(pages()) >= set(WITH_RAY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in pages() if page not in WITH_RAY and any(block.kind == "run" for block in blocks(page))],
)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    """In their order, in one folder beside the demo pictures; what they are said to print they print."""
    reader = Page(tmp_path)
    for block in blocks(page):
        reader.assert_runs(block)
