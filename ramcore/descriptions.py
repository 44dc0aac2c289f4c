"""Texts that stand for tags: descriptions from a JSON file, or prompts filled with the tags' names."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ramcore.errors import VocabularyError

Descriptions = Mapping[str, Sequence[str]]
"""Tag to its texts, in order."""

PROMPTS = (
    "a photo of {article} {name}.",
    "a photo of the {name}.",
    "a close-up photo of {article} {name}.",
    "a cropped photo of {article} {name}.",
    "a bright photo of {article} {name}.",
    "a dark photo of {article} {name}.",
    "a picture with {article} {name} in it.",
    "there is {article} {name} in the scene.",
)
"""Our own small set; the reference averages over a longer one, so its embeddings differ a little. Give the
reference's as a file of templates where that matters."""


def read_descriptions(path: str | Path, templates: Sequence[str] = PROMPTS) -> dict[str, tuple[str, ...]]:
    """Read `[{"tag": ["text", …]}, …]` (JSON), or a list of names (`.txt`), whose texts are prompts.

    The JSON is the format of the reference's LLM descriptions; names are taken as they are. Blanks around names
    and texts are dropped. Raises `VocabularyError` naming file and entry for anything else: no texts, a name
    twice, several names in one entry.
    """
    path = Path(path)
    text = _read(path)
    if path.suffix != ".json":
        names = [line.strip() for line in text.splitlines() if line.strip()]
        return _unique([(name, prompts(name, templates)) for name in names], path)
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise VocabularyError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, list) or not document:
        raise VocabularyError(f'{path}: expected a list of entries like {{"zebra": ["a striped horse"]}}')
    return _unique([_entry(item, f"{path} entry {number}") for number, item in enumerate(document)], path)


def read_templates(path: str | Path) -> tuple[str, ...]:
    """Prompt templates, one per line, with {name} or {} for the tag and, where wanted, {article} for a or an."""
    lines = tuple(line.strip() for line in _read(Path(path)).splitlines() if line.strip())
    if not lines:
        raise VocabularyError(f"{path} holds no template: give lines like {PROMPTS[0]!r}")
    for number, line in enumerate(lines, 1):
        if "{name}" not in line and "{}" not in line:
            raise VocabularyError(f"{path} template {number} is {line!r}: it lacks {{name}}")
    return lines


def prompts(name: str, templates: Sequence[str] = PROMPTS) -> tuple[str, ...]:
    """The templates filled with a tag, by the reference's rules.

    "_" becomes a blank and "/" " or "; lower case, without a full stop at the end; the article goes by the first
    letter; a text that starts with "a" or "the" gets "This is " in front (so does any other text beginning with
    the letter a, as in the reference).
    """
    plain = name.replace("_", " ").replace("/", " or ").lower().rstrip(".")
    article = "an" if plain[:1] in tuple("aeiou") else "a"
    filled = (
        template.replace("{article}", article).replace("{name}", plain).replace("{}", plain) for template in templates
    )
    return tuple(f"This is {text}" if text.startswith(("a", "the")) else text for text in filled)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise VocabularyError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error


def _entry(item: object, where: str) -> tuple[str, tuple[str, ...]]:
    if not isinstance(item, dict) or len(item) != 1:
        raise VocabularyError(f'{where} is {str(item)[:80]}: give one tag, like {{"zebra": ["a striped horse"]}}')
    ((name, texts),) = item.items()
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise VocabularyError(f"{where} ({name}): give a list of at least one text, none of them blank")
    return str(name).strip(), tuple(text.strip() for text in texts)


def _unique(entries: Sequence[tuple[str, tuple[str, ...]]], path: Path) -> dict[str, tuple[str, ...]]:
    descriptions: dict[str, tuple[str, ...]] = {}
    for name, texts in entries:
        if not name or name in descriptions:
            raise VocabularyError(f"{path}: tag {name!r} is {'twice in it' if name else 'blank'}: give each tag once")
        descriptions[name] = texts
    if not descriptions:
        raise VocabularyError(f"{path} names no tag: give at least one")
    return descriptions
