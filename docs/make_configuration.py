"""Write docs/configuration.md from the configuration models: `python docs/make_configuration.py`."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import SweepConfig
from orchestrator.finetune import FinetuneConfig
from orchestrator.scenario_config import AuthorsScenario

PAGE = Path(__file__).with_name("configuration.md")
Schema = dict[str, Any]

HEAD = """\
# Configuration

<!-- Written by docs/make_configuration.py from the models in orchestrator/config.py; change those, then run it. -->

A sweep is a YAML file, or the name of a shipped one; any key can be overridden on the command line, dotted, as in
`train.learning_rate=2e-5` or `forget_sets=[forget01,forget05]`. Keys may be left out where a default is given.
A key that does not exist or a value out of range is an error that names the key, before anything starts.
`--dry-run` prints the whole configuration as it was understood.

`null` stands for none. Keys of `search.space` may be nested (`train: {learning_rate: ...}`) or dotted; a range without
`type` is a choice where it has `choices`, else a float range.
"""
FINETUNE_HEAD = """\
## Keys of `python -m orchestrator.finetune`

Given as `key=value` only. `scenario`, `model`, `train` and `zero` have the keys of a sweep's sections.
"""


def page() -> str:
    """The whole page as Markdown."""
    sweep, finetune = SweepConfig.model_json_schema(), FinetuneConfig.model_json_schema()
    parts = [HEAD, f"## A sweep\n\n{_table(sweep, '', sweep)}", *_sections(sweep)]
    parts += [FINETUNE_HEAD, _table(finetune, "", finetune), *_sections(finetune, without=_names(sweep), level="###")]
    parts.append(_other_defaults(sweep))
    return "\n".join(part.strip() + "\n" for part in parts)


def undescribed() -> list[str]:
    """Keys without a meaning, in the order of the page."""
    sweep, finetune = SweepConfig.model_json_schema(), FinetuneConfig.model_json_schema()
    places = [(sweep, "", sweep), *((sweep["$defs"][name], f"{key}.", sweep) for key, name in _models_below(sweep))]
    places.append((finetune, "finetune ", finetune))
    below = [(key, name) for key, name in _models_below(finetune) if name not in _names(sweep)]
    places += [(finetune["$defs"][name], f"finetune {key}.", finetune) for key, name in below]
    return [
        prefix + name
        for model, prefix, root in places
        for name, field in model["properties"].items()
        if "const" not in field and not _meaning(field, root)
    ]


def _sections(root: Schema, *, without: frozenset[str] = frozenset(), level: str = "##") -> Iterator[str]:
    """One section for each model below `root`."""
    for key, name in _models_below(root):
        if name in without:
            continue
        model = root["$defs"][name]
        tags = [f" with `{tag}: {field['const']}`" for tag, field in model["properties"].items() if "const" in field]
        heading = f"{level} `{key}`{''.join(tags)}"
        yield f"{heading}\n\n{model.get('description', '')}\n\n{_table(model, f'{key}.', root)}"


def _other_defaults(sweep: Schema) -> str:
    from_nothing = FinetuneConfig(scenario=AuthorsScenario()).model_dump(mode="json")
    changed = [
        f"- `{key}.{name}={json.dumps(value)}`"
        for key in ("train", "zero")
        for name, value in from_nothing[key].items()
        if value != sweep["properties"][key]["default"][name]
    ]
    return "Without `base`, defaults that differ from a sweep's; they suit a tiny model from nothing:\n\n" + "\n".join(
        changed
    )


def _names(root: Schema) -> frozenset[str]:
    return frozenset(name for _, name in _models_below(root))


def _models_below(root: Schema) -> Iterator[tuple[str, str]]:
    """Key and name of every model that the fields of `root` refer to, at any depth."""

    def walk(model: Schema, prefix: str) -> Iterator[tuple[str, str]]:
        for name, field in model["properties"].items():
            for place, reference in _references(field):
                key = f"{prefix}{name}{place}"
                yield key, reference
                yield from walk(root["$defs"][reference], f"{key}.")

    return walk(root, "")


def _references(field: Schema) -> Iterator[tuple[str, str]]:
    """The models in a field, each with how one comes to it: `[]` for a list's items, `.KEY` for a mapping's."""
    for place, inner in (("", field), ("[]", field.get("items")), (".KEY", field.get("additionalProperties"))):
        for option in (inner, *inner.get("oneOf", ())) if isinstance(inner, Mapping) else ():
            if "$ref" in option:
                yield place, option["$ref"].rpartition("/")[2]


def _table(model: Schema, prefix: str, root: Schema) -> str:
    required = set(model.get("required", ()))
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model["properties"].items():
        default = "required" if name in required else _default(field)
        cells = (f"`{prefix}{name}`", _type(field), default, _meaning(field, root))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _meaning(field: Schema, root: Schema) -> str:
    """A field's own description, else that of the model that it holds."""
    text = str(field.get("description", ""))
    if not text:
        models = [root["$defs"][name] for place, name in _references(field) if not place]
        text = models[0].get("description", "") if len(models) == 1 else ""
    pieces = " ".join(text.split()).split("`")  # every second one is code, which Markdown leaves alone
    return "`".join(piece if index % 2 else piece.replace("<", "&lt;") for index, piece in enumerate(pieces))


def _default(field: Schema) -> str:
    if any(not place for place, _ in _references(field)):
        return "see its keys"
    return (
        f"`{json.dumps(field.get('default', {}))}`"  # a field that is neither required nor has a default: a factory's
    )


def _type(field: Schema) -> str:
    """A type in words, with its bounds."""
    match field:
        case {"anyOf": options}:
            words = " or ".join(dict.fromkeys(_type(option) for option in options))
        case {"oneOf": _} | {"$ref": _}:
            words = "keys"
        case {"enum": values}:
            words = " or ".join("`null`" if value is None else f"`{value}`" for value in values)
        case {"const": value}:
            words = f"`{value}`"
        case {"items": items}:
            words = "list of values" if "anyOf" in items else f"list of {_plural(_type(items))}"
        case {"additionalProperties": values}:
            words = f"mapping to {_plural(_type(values))}"
        case {"type": str(kind)}:
            words = _WORDS.get(kind, kind) + _bounds(field)
        case _:
            raise ValueError(f"no words for {field}")
    return words


_WORDS = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "`null`"}
_SIGNS = {"exclusiveMinimum": "> ", "minimum": "≥ ", "exclusiveMaximum": "< ", "maximum": "≤ "}


def _bounds(field: Schema) -> str:
    bounds = [f"{sign}{field[key]:g}" for key, sign in _SIGNS.items() if key in field]
    return f" {', '.join(bounds)}" if bounds else ""


def _plural(words: str) -> str:
    return {"text": "texts", "keys": "keys with values"}.get(words, words)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n" + "".join(f"no meaning: {key}\n" for key in undescribed()))


if __name__ == "__main__":
    main()
