"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with configuration.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One configuration key; repeatable.")
]
ReadingConfig = Annotated[
    Path | None, typer.Option("--config", help="YAML file; its fetch and storage sections say how pictures are read.")
]
ReadingSettings = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value of fetch and storage; may be repeated.")
]
