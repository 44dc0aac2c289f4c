"""docs/reference, and the tables of metrics and events, are what `make reference` writes."""

import importlib.metadata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import write_reference
from committed_run import commit_all, plan_run

from pipeline.config import Config, known_keys
from pipeline.finalize import finalize
from pipeline.stores.local_store import LocalStore
from pipeline.tables.columns import MEANINGS, RUN_TABLES, RunTable, type_name


@pytest.mark.parametrize("page", write_reference.PAGES)
def test_a_page_is_up_to_date(page: str) -> None:
    """Word for word; `make reference` writes it."""
    if page.endswith("cli.md") and importlib.metadata.version("typer").startswith(("0.1", "0.20", "0.21", "0.22")):
        pytest.skip("an older Typer names types otherwise")
    assert write_reference.written(page) == (write_reference.DOCS / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("key", known_keys())
def test_every_configuration_key_is_there_with_its_default(key: str) -> None:
    """A row for each key, with its default, what it may be, whether it is pinned, and what it is for."""
    value: object = Config()
    for name in key.split("."):
        value = getattr(value, name)
    shown = "none" if value is None else list(value) if isinstance(value, tuple) else value
    row = next(line for line in write_reference.configuration().splitlines() if line.startswith(f"| `{key}` |"))
    _, _, default, allowed, kind, meaning, _ = row.replace("\\|", "").split("|")
    assert default.strip() == str(shown)
    assert kind.strip() == ("*result*" if key in Config().pinned() else "*operation*")
    assert allowed.strip()
    assert meaning.strip().endswith(".")


def test_a_page_without_its_marks_is_refused() -> None:
    """Instead of being written over."""
    with pytest.raises(SystemExit, match="1 pairs"):
        write_reference.with_parts("# A page\n", ["| table |"])


# ---- the tables of a run ----


@pytest.fixture(scope="module")
def run(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a reject."""
    folder = tmp_path_factory.mktemp("run")
    store = LocalStore(folder)
    plan = plan_run(store, tiny_bundle, [f"i{number}" for number in range(10)])
    commit_all(store, plan, {"i3": "truncated"})
    finalize(store)
    return folder


@pytest.mark.parametrize("table", RUN_TABLES, ids=lambda table: table.name)
def test_a_run_has_the_columns_of_the_page(run: Path, table: RunTable) -> None:
    """Those that are always there in their order, with their types; of the others none that the page does not name."""
    found = sorted(run.glob(table.objects))
    assert found
    for path in found:
        schema = pq.read_schema(path)
        always = [field for field in schema if field not in table.optional]
        if table.name != "Chunks":  # whose columns are in the order in which they came
            assert [field.name for field in always] == [field.name for field in table.fields]
        types = {field.name: type_name(field.type) for field in table.fields}
        assert {field.name: type_name(field.type) for field in always} == types


def test_every_column_has_a_meaning_and_no_other_has() -> None:
    """In both directions."""
    named = {field.name for table in RUN_TABLES for field in (*table.fields, *table.optional)}
    assert named == MEANINGS.keys()
