"""What every configuration is built on."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

EMBEDDED = "embedded"
Value = float | int | str | bool


def _absolute(name: str) -> str:
    """A file or folder that exists becomes absolute, because workers have another current folder; a hub name stays."""
    path = Path(name).expanduser()
    return str(path.absolute()) if name != EMBEDDED and path.exists() else name


PathOrName = Annotated[str, AfterValidator(_absolute)]


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys and infinite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
