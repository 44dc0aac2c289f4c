"""Text files that a user names in the configuration or on the command line."""

from pathlib import Path

from pipeline.errors import ConfigError


def read_text(path: str | Path, field: str) -> str:
    """The text of a local file in UTF-8, with or without a byte order mark. Raises ConfigError that names the field."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{field}={path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{field}={path}: not UTF-8: {error}") from error
