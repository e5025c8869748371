"""A shipped sweep or a YAML file, plus `key=value` overrides, becomes a validated configuration."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from orchestrator.base_config import Config
from orchestrator.config import SweepConfig
from orchestrator.tracking.pump import redact_uri

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


def build_config(
    kind: type[ConfigType], path: Path | None, overrides: Sequence[str], *, base: Mapping[str, Any] | None = None
) -> ConfigType:
    """A configuration of any kind from a YAML file or `base` values, and overrides. ConfigError: as load_config."""
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ConfigError(f"{override!r} is not an override; write key=value, such as train.learning_rate=1e-5")
    source = str(path or "the configuration")
    values: Any = _read(source, lambda: OmegaConf.load(path) if path else OmegaConf.create(dict(base or {})))
    if not OmegaConf.is_dict(values):
        raise ConfigError(f"{path} holds no mapping of keys to values; write `name: ...` and so on")
    for override in overrides:
        values = _read(f"override {override!r}", partial(_merged, values, override))
    resolved = _read(source, lambda: OmegaConf.to_container(values, resolve=True))
    if missing := sorted(OmegaConf.missing_keys(values)):  # written ??? in a sweep file
        raise ConfigError(f"{missing[0]}: missing; set {missing[0]}=VALUE")
    return validate(kind, resolved)


def _merged(values: Any, override: str) -> Any:
    return OmegaConf.merge(values, OmegaConf.from_dotlist([override]))


def _read(what: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OmegaConfBaseException, OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{_printable(what)} cannot be read: {_printable(str(error).splitlines()[0])}") from error
    except Exception as error:  # PyYAML's errors share no public base with OmegaConf's
        if type(error).__module__.startswith("yaml"):
            raise ConfigError(f"{_printable(what)} is not YAML: {_printable(' '.join(str(error).split()))}") from error
        raise


def validate(kind: type[ConfigType], values: Any) -> ConfigType:
    """`values` as a configuration. ConfigError: the first thing wrong with it, and how many more there are."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        places = [item["loc"] for item in error.errors()]
        # A list whose items are faulty is also reported as too short.
        wrong = [e for e in error.errors() if not any(e["loc"] == p[: len(e["loc"])] != p for p in places)]
        messages = list(dict.fromkeys(_message(kind, item) for item in wrong))
        more = f" (and {len(messages) - 1} more)" if len(messages) > 1 else ""
        raise ConfigError(_printable(messages[0]) + more) from error


def _printable(text: str) -> str:
    """One line without passwords, whatever a key or value holds."""
    return redact_uri("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))


def _message(kind: type[BaseModel], error: Any) -> str:
    # Members of a union carry the chosen type in their location; a user never wrote it.
    location = [str(part) for part in error["loc"]]
    model, keys = _walk(kind, location)
    key = ".".join(keys)
    text = str(error["msg"]).removeprefix("Value error, ")
    context, got = error.get("ctx", {}), f"but got {error['input']!r}"
    if error["type"].startswith("union_tag"):
        key += "." + str(context["discriminator"]).strip("'")
    match error["type"]:
        case "value_error":
            return f"{key}: {text}" if key and not text.startswith(key) else text
        case "extra_forbidden":
            text = f"unknown key; {_suggestion(keys, model)}"
        case "missing" | "union_tag_not_found":
            text = f"missing; {_remedy(keys, model)}"
        case "union_tag_invalid":
            text = f"input should be one of {context['expected_tags']}, but got {context['tag']!r}"
        case "too_short":
            text = f"input should name at least {context['min_length']}, {got}; write {key}=[VALUE]"
        case "tuple_type":
            text = f"input should be a list, {got}; write {key}=[VALUE]"
        case "model_type" | "model_attributes_type":
            text = f"input should be keys with values, {got}; write {key}.KEY=VALUE"
        case _:
            text = f"{text[0].lower()}{text[1:]}, {got}"
    return f"{key}: {text}"


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


def _remedy(keys: Sequence[str], model: type[BaseModel] | None) -> str:
    """How to set what is missing. What is one of several models is begun with the tag that tells them apart."""
    key, field = ".".join(keys), model.model_fields.get(keys[-1]) if model else None
    if model is None or field is None or not isinstance(field.discriminator, str):
        return f"set {key}=VALUE"
    tags = ", ".join(repr(tag) for one in _models_of(model, keys[-1]) for tag in sorted(_tags(one)))
    return f"set {key}.{field.discriminator}=NAME, one of {tags}"


def _suggestion(keys: Sequence[str], model: type[BaseModel] | None) -> str:
    names = list(model.model_fields) if model else []
    close = difflib.get_close_matches(keys[-1], names, n=1)
    if close:
        return f"did you mean {'.'.join([*keys[:-1], close[0]])}?"
    return f"valid keys here are {', '.join(names)}" if names else "remove it"
