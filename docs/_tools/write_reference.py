"""Writes what of the documentation is made from the code: docs/reference, the tables of metrics.md and events.md."""

import ast
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

import pipeline.config
import pipeline.errors
from jobs.main import app
from pipeline import error_kinds
from pipeline.config import Config, known_keys
from pipeline.events import kinds as event_kinds
from pipeline.metrics import kinds
from pipeline.tables import columns

DOCS = Path(__file__).parents[1]
_BEGIN, _END = "<!-- begin of what make reference writes -->\n", "<!-- end of what make reference writes -->\n"
_ON_A_PAGE = {
    "docs/costs.md": "../costs.md",
    "docs/metrics.md": "../metrics.md",
    "docs/reference/errors.md": "errors.md",
}


# ---- command line ----


def commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    return "\n".join(_group(typer.main.get_command(app), "ramfleet"))


def _group(command: Any, name: str) -> Iterator[str]:
    """A command, and all below it; Typer has classes of its own for them, without a public type."""
    context = command.context_class(command, info_name=name)
    yield from _command(command, context, name)
    for each in getattr(command, "commands", {}).values():
        yield from _group(each, f"{name} {each.name}")


def _command(command: Any, context: Any, name: str) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f"## {name}", "", _plain(command.help or ""), "", f"Usage: `{name} {usage}`", "", "| | |", "|---|---|")
    for parameter in command.get_params(context):
        left, right = parameter.get_help_record(context)
        yield f"| `{_cell(left)}` | {_cell(right)} |"
    yield ""


# ---- configuration ----


def configuration() -> str:
    """Every key with its default, what it may be, and what it is for, in a table for each section."""
    schema, meanings, pinned = Config.model_json_schema(), dict(_docstrings()), Config().pinned()
    lines: list[str] = []
    for section, keys in _sections():
        lines += [
            f"## {section}",
            "",
            meanings.get(section, ""),
            "",
            "| key | default | may be | | |",
            "|---|---|---|---|---|",
        ]
        for key in keys:
            kind = "result" if key in pinned else "operation"
            described = _of_key(schema, key)
            row = (f"`{key}`", _shown(key), _allowed(described), f"*{kind}*", _linked(_cell(meanings[key])))
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)


def _sections() -> Iterator[tuple[str, list[str]]]:
    keys = known_keys()
    for section in dict.fromkeys(key.partition(".")[0] for key in keys):
        yield section, [key for key in keys if key.partition(".")[0] == section]


def _docstrings() -> Iterator[tuple[str, str]]:
    """(key or section, what the text below it in the code says)."""
    tree = ast.parse(Path(pipeline.config.__file__).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    alone = dict(_fields(classes["Config"]))
    for section, field in Config.model_fields.items():
        owner = getattr(field.annotation, "__name__", "")
        if section in alone:
            yield section, alone[section]
        else:
            yield section, (ast.get_docstring(classes[owner]) or "").partition("\n\n")[0]
            yield from ((f"{section}.{name}", text) for name, text in _fields(classes[owner]))


def _fields(owner: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(owner.body, owner.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield ast.unparse(field.target), _plain(str(below.value.value))


def _shown(key: str) -> str:
    value: Any = Config()
    for name in key.split("."):
        value = getattr(value, name)
    return "none" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _of_key(root: dict[str, Any], key: str) -> dict[str, Any]:
    """What the JSON schema says of a key."""
    schema = root
    for name in key.split("."):
        reference = schema.get("$ref")
        schema = root["$defs"][reference.rpartition("/")[2]] if reference else schema
        schema = schema["properties"][name]
    return schema


def _allowed(schema: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    names = {"integer": "whole number", "boolean": "true, false", "string": "text", "null": "none", "array": "list"}
    name = names.get(schema["type"], schema["type"].replace("object", "numbers by name"))
    return ", ".join([name, *_limits(schema)])


def _limits(schema: dict[str, Any]) -> Iterator[str]:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    yield from (f"{sign} {schema[name]:g}" for name, sign in words.items() if name in schema)


def _linked(text: str) -> str:
    """Names of pages as links to them."""
    for name, target in _ON_A_PAGE.items():
        text = text.replace(name, f"[{target.removeprefix('../')}]({target})")
    return text


# ---- errors ----


def exit_codes() -> str:
    """Every error that ends a command, with its exit code."""
    base = pipeline.errors.RunError
    lines = ["| error | exit code | when |", "|---|---|---|"]
    for name, error in vars(pipeline.errors).items():
        if isinstance(error, type) and issubclass(error, base) and error is not base:
            lines.append(f"| {name} | {error.exit_code} | {_cell(_plain(error.__doc__ or ''))} |")
    lines.append("| RamcoreError, in all its kinds | 2 | A bundle, checkpoint, vocabulary or picture cannot be used. |")
    return "\n".join(lines) + "\n"


# ---- Python ----

PUBLIC = {
    "ramcore": (
        *("ramcore.load", "ramcore.tagger.Tagger.tag", "ramcore.tagger.TagResult", "ramcore.tagger.Tagger.pixels"),
        *(
            "ramcore.tagger.Tagger.logits",
            "ramcore.tagger.Tagger.scores",
            "ramcore.tagger.Tagger.captions",
            "ramcore.errors.RamcoreError",
        ),
    ),
    "pipeline": (
        *("pipeline.tag.tag", "pipeline.tag.Request", "pipeline.tag.Result", "pipeline.config.load_config"),
        *(
            "pipeline.stores.opening.open_store",
            "pipeline.finished_run.FinishedRun",
            "pipeline.finished_run.FinishedRun.batches",
        ),
        *("pipeline.index.open", "pipeline.index.Index.search", "pipeline.index.Result", "pipeline.index.Hit"),
        "pipeline.errors.RunError",
    ),
}
"""What is meant to be called from outside, by package."""


def python() -> str:
    """The public functions and classes, as their docstrings say."""
    lines: list[str] = []
    for package, names in PUBLIC.items():
        lines += [f"## {package}", ""]
        for name in names:
            lines += [f"### {name}", "", f"`{_signature(pkgutil.resolve_name(name))}`", ""]
            lines += [_documented(pkgutil.resolve_name(name)), ""]
    return "\n".join(lines)


def _documented(thing: Any) -> str:
    paragraphs = (inspect.getdoc(thing) or "").split("\n\n")
    return "\n\n".join(_plain(paragraph).replace("<", "&lt;") for paragraph in paragraphs)


def _signature(thing: Any) -> str:
    """As it is written in the code: a function's parameters, the fields of a record."""
    source = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    if isinstance(source, ast.ClassDef):
        fields = (ast.unparse(field) for field in source.body if isinstance(field, ast.AnnAssign))
        return f"class {source.name}({', '.join(fields)})"
    if not isinstance(source, ast.FunctionDef):
        raise SystemExit(f"{thing}: neither a class nor a function")
    result = f" -> {ast.unparse(source.returns)}" if source.returns else ""
    return f"{source.name}({ast.unparse(source.args).removeprefix('self, ')}){result}".replace("'", '"')


# ---- pages ----


def _plain(text: str) -> str:
    return re.sub(r"\s*\n\s*(?=\S)", " ", text.strip())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES: dict[str, tuple[Callable[[], str], ...]] = {
    "reference/cli.md": (commands,),
    "reference/config.md": (configuration,),
    "reference/schemas.md": (columns.as_markdown,),
    "reference/errors.md": (exit_codes, error_kinds.as_markdown),
    "reference/python.md": (python,),
    "metrics.md": (kinds.as_markdown,),
    "events.md": (event_kinds.as_markdown,),
}
"""What is written into each page, in this order, between marks."""


def with_parts(page: str, parts: list[str]) -> str:
    """The page with each part between its pair of marks."""
    pattern = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
    if len(pattern.findall(page)) != len(parts):
        raise SystemExit(f"the page needs {len(parts)} pairs of the marks {_BEGIN.strip()} and {_END.strip()}")
    left = iter(parts)
    return pattern.sub(lambda _: f"{_BEGIN}\n{next(left).rstrip()}\n\n{_END}", page)


def written(name: str) -> str:
    """A page as it has to be, with its own text."""
    return with_parts((DOCS / name).read_text(encoding="utf-8"), [make() for make in PAGES[name]])


if __name__ == "__main__":
    for page in PAGES:
        (DOCS / page).write_text(written(page), encoding="utf-8")
        sys.stdout.write(f"docs/{page}\n")
