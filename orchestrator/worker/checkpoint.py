"""Where a trial goes on after its workers died: the newest checkpoint whose checksums hold."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MANIFEST = "manifest.json"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder of weights, and what was known when it was written."""

    folder: Path
    state: dict[str, Any]


def checkpoint_folder(root: Path, number: int) -> Path:
    """Where a checkpoint of that number goes."""
    return root / f"{number:06d}"


def save_checkpoint(root: Path, number: int, fill: Callable[[Path], None], state: Mapping[str, Any]) -> None:
    """Let `fill` write its files to `root/number`, add their checksums, then remove older checkpoints.

    The manifest is written last and whole: a folder without one is a checkpoint that was cut off.
    """
    folder = checkpoint_folder(root, number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fill(folder)
    files = {str(path.relative_to(folder)): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    draft = folder / f".{_MANIFEST}"
    with draft.open("w", encoding="utf-8") as file:
        json.dump({"files": files, "state": dict(state)}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / _MANIFEST)
    for other in root.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """The newest whole checkpoint in `root`; one that is cut off or damaged is passed over with a warning."""
    for folder in sorted(root.glob("[0-9]*"), reverse=True):
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            damaged = [name for name, digest in manifest["files"].items() if _sha256(folder / name) != digest]
        except (OSError, ValueError, KeyError) as error:
            _LOG.warning("checkpoint %s is not whole (%s); passed over", folder, error)
            continue
        if not damaged:
            return Checkpoint(folder, manifest["state"])
        _LOG.warning("checkpoint %s is damaged (%s); passed over", folder, ", ".join(damaged))
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
