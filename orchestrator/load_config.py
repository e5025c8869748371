"""A shipped sweep or a YAML file, plus `key=value` overrides, becomes a validated configuration."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from orchestrator.config import Config, SweepConfig

SWEEPS = Path(__file__).parent / "sweeps"
ConfigType = TypeVar("ConfigType", bound=Config)


class ConfigError(ValueError):
    """Bad input; the message names the key, the value and the remedy."""


def shipped_sweeps() -> list[str]:
    """Names of the sweeps that come with the project."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def load_config(name: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """The sweep of a shipped name or a YAML file. ConfigError: no such sweep, or anything in it that is not valid."""
    path = SWEEPS / f"{name}.yaml" if name in shipped_sweeps() else Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"no sweep {name!r}: it is neither a file nor one of the shipped sweeps {', '.join(shipped_sweeps())}"
        )
    return build_config(SweepConfig, path, overrides)


def build_config(kind: type[ConfigType], path: Path | None, overrides: Sequence[str]) -> ConfigType:
    """A configuration of any kind from an optional YAML file and overrides. ConfigError: as load_config."""
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ConfigError(f"{override!r} is not an override; write key=value, such as train.learning_rate=1e-5")
    try:
        base = OmegaConf.load(path) if path else OmegaConf.create()
        if not OmegaConf.is_dict(base):
            raise ConfigError(f"{path} holds no mapping of keys to values; write `name: ...` and so on")
        values = OmegaConf.to_container(OmegaConf.merge(base, OmegaConf.from_dotlist(list(overrides))), resolve=True)
    except ConfigError:
        raise
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(f"{path or 'overrides'} cannot be read: {str(error).splitlines()[0]}") from error
    except Exception as error:  # PyYAML's errors share no public base with OmegaConf's
        if type(error).__module__.startswith("yaml"):
            raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        raise
    return validate(kind, values)


def validate(kind: type[ConfigType], values: Any) -> ConfigType:
    """`values` as a configuration. ConfigError: the first thing wrong with it, and how many more there are."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        messages = list(dict.fromkeys(_message(kind, item) for item in error.errors()))
        more = f" (and {len(messages) - 1} more)" if len(messages) > 1 else ""
        raise ConfigError(messages[0] + more) from error


def _message(kind: type[BaseModel], error: Any) -> str:
    # Members of a union carry the chosen type in their location; a user never wrote it.
    location = [str(part) for part in error["loc"]]
    model, keys = _walk(kind, location)
    key = ".".join(keys)
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {text}" if key and not text.startswith(key) else text
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_suggestion(keys[-1], model)}"
    if error["type"] == "missing":
        return f"{key}: missing; set {key}=VALUE"
    return f"{key}: {text[0].lower()}{text[1:]}, but got {error['input']!r}"


def _walk(kind: type[BaseModel], location: list[str]) -> tuple[type[BaseModel] | None, list[str]]:
    """The model that owns the last part of a location, and the location as the user writes it."""
    owner: type[BaseModel] | None = kind
    keys: list[str] = []
    previous: list[type[BaseModel]] = []
    for position, part in enumerate(location):
        tagged = [model for model in previous if part in _tags(model)]
        if tagged and len(previous) > 1:
            owner, previous = tagged[0], tagged
            continue
        keys.append(part)
        if position < len(location) - 1 and owner is not None:
            previous = _models_of(owner, part) or previous
            owner = previous[0] if previous else None
    return owner, keys


def _models_of(owner: type[BaseModel], field: str) -> list[type[BaseModel]]:
    if field not in owner.model_fields:
        return []
    found: list[type[BaseModel]] = []

    def collect(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        for argument in getattr(annotation, "__args__", ()):
            collect(argument)

    collect(owner.model_fields[field].annotation)
    return found


def _tags(model: type[BaseModel]) -> set[str]:
    return {
        str(argument)
        for name in ("type", "name")
        if name in model.model_fields
        for argument in getattr(model.model_fields[name].annotation, "__args__", ())
    }


def _suggestion(key: str, model: type[BaseModel] | None) -> str:
    names = list(model.model_fields) if model else []
    close = difflib.get_close_matches(key, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"valid keys here are {', '.join(names)}" if names else "remove it"
