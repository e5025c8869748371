"""What every record says of where its numbers come from."""

import json
import platform
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def circumstances(packages: Sequence[str], command: str) -> dict[str, Any]:
    """Date, machine, versions and command of a run."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {processor()}",
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        "command": command,
    }


def processor() -> str:
    """The name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def versions_of(facts: dict[str, Any]) -> str:
    """The versions of a record as a sentence."""
    return "Versions: " + ", ".join(f"{package} {number}" for package, number in facts["versions"].items()) + "."


def keep(facts: dict[str, Any], page: str, out: Path | None) -> None:
    """Print the page of a record; with `out`, a JSON file, write both beside each other."""
    print(page)
    if out:
        out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        out.with_suffix(".md").write_text(page, encoding="utf-8")


def grid(rows: Iterable[Iterable[object]]) -> str:
    """A table of which the first row is the heading."""
    heading, *others = [list(map(str, row)) for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *others))
