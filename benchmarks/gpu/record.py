"""A JSON file of measurements and a page beside it, written anew after every one."""

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import recording

_PACKAGES = ("torch", "transformers", "deepspeed", "peft", "sentence-transformers", "optuna", "numpy")


def circumstances(command: str) -> dict[str, Any]:
    """Date, machine, device, versions of what is installed, command."""
    facts = recording.circumstances([package for package in _PACKAGES if _is_installed(package)], command)
    if not torch.cuda.is_available():
        return facts | {"device": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return facts | {
        "device": properties.name,
        "device_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


class Record:
    """The measurements of one device, by name; a later one takes an earlier one's place. Without a file: only kept."""

    def __init__(self, out: Path | None, facts: dict[str, Any], page: Callable[[dict[str, Any]], list[str]]) -> None:
        self._out, self._page = out, page
        self.facts: dict[str, Any] = facts | {"runs": []}
        if out is not None and out.exists():
            known = json.loads(out.read_text(encoding="utf-8"))
            if known["device"] != facts["device"]:
                raise ValueError(f"{out} was measured on {known['device']}, this is {facts['device']}; name a new file")
            self.facts["runs"] = known["runs"]

    def add(self, run: dict[str, Any]) -> None:
        """Keep one measurement and write both files."""
        others = [known for known in self.facts["runs"] if known["name"] != run["name"]]
        self.facts["runs"] = [*others, run]
        if self._out is None:
            return
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._out.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")
        lines = [*self._page(self.facts), "", *self._origin()]
        self._out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _origin(self) -> list[str]:
        facts = self.facts
        assert self._out is not None
        versions = ", ".join(f"{package} {number}" for package, number in facts["versions"].items())
        return [
            f"{facts['date']}, {facts['device']}, {facts['machine']}. `{facts['command']}`. "
            f"Numbers: [{self._out.name}]({self._out.name}).",
            f"Versions: {versions}.",
        ]


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
