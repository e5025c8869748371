"""Ranges and choices: what a search may vary, and how a sweep file writes it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.base_config import Config, Value


class FloatRange(Config):
    """Uniform, or log-uniform, between two numbers."""

    type: Literal["float"] = "float"
    low: float = Field(description="smallest value")
    high: float = Field(description="largest value")
    log: bool = Field(False, description="draw the logarithm uniformly")

    @model_validator(mode="after")
    def _ordered(self) -> "FloatRange":
        _check_range(self.low, self.high, log=self.log)
        return self

    @property
    def bounds(self) -> tuple[Value, ...]:
        """Values that must all be acceptable; one of them a fraction, which a field for whole numbers refuses."""
        return (self.low, self.high, self.low + 0.381966 * (self.high - self.low))


class IntRange(Config):
    """Whole numbers between two numbers, both included."""

    type: Literal["int"]
    low: int = Field(description="smallest value")
    high: int = Field(description="largest value")
    log: bool = Field(False, description="draw the logarithm uniformly")

    @model_validator(mode="after")
    def _ordered(self) -> "IntRange":
        _check_range(self.low, self.high, log=self.log)
        return self

    @property
    def bounds(self) -> tuple[Value, ...]:
        """Values that must all be acceptable."""
        return (self.low, self.high)


class Choice(Config):
    """One of several values."""

    type: Literal["choice"] = "choice"
    choices: tuple[Value, ...] = Field(min_length=1, description="values to choose from")

    @model_validator(mode="after")
    def _different(self) -> "Choice":
        doubled = [value for index, value in enumerate(self.choices) if value in self.choices[:index]]
        if doubled:
            raise ValueError(f"{doubled[0]!r} stands there twice; name each choice once")
        return self

    @property
    def bounds(self) -> tuple[Value, ...]:
        """Values that must all be acceptable."""
        return self.choices


def _check_range(low: float, high: float, *, log: bool) -> None:
    if low > high:
        raise ValueError(f"low <= high must hold, but got low={low:g} and high={high:g}; swap them")
    if log and low <= 0:
        raise ValueError(f"a log range needs low > 0, but got low={low:g}; raise it or set log=false")


def _with_type(value: Any) -> Any:
    """What is laid over a range or over choices, as an override does, replaces them; later keys are the override's."""
    if not isinstance(value, Mapping):
        return value
    keys = [key for key in value if key != "type"]
    kind = value.get("type", "float")
    if keys[-1:] == ["choices"]:
        return {key: one for key, one in value.items() if key not in ("low", "high", "log")} | {"type": "choice"}
    if "choices" in keys:
        return {key: one for key, one in value.items() if key != "choices"} | {
            "type": "float" if kind == "choice" else kind
        }
    return {**value, "type": kind}


Range = Annotated[
    Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")],
    BeforeValidator(_with_type),
]


def flatten_space(value: Any) -> Any:
    """A nested mapping of ranges becomes one of dotted names, so that overrides reach every bound."""
    if not isinstance(value, Mapping):
        return value
    flat: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        leaf = not isinstance(node, Mapping) or {"low", "high", "choices", "type"} & set(node) or not node
        if leaf:
            flat[prefix] = node
        else:
            for key, child in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), child)

    walk("", value) if value else None
    return flat


def nested_space(space: Mapping[str, Config]) -> dict[str, Any]:
    """Nested as in a sweep file, so that what was written down can be overridden again."""
    nested: dict[str, Any] = {}
    for key, searched in space.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = searched.model_dump(mode="json")
    return nested
