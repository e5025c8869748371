"""Where a trial goes on after its workers died: the newest checkpoint whose checksums hold.

A checkpoint is a folder with a folder for each rank that wrote something, and a manifest, which is written last and
whole: a folder without one is a checkpoint that was cut off. All ranks of the process group call these functions.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from orchestrator.worker.share import gathered, rank_and_size

_MANIFEST = "manifest.json"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder, and what was known when it was written."""

    folder: Path
    state: dict[str, Any]

    def part(self, rank: int) -> Path:
        """The files of one rank."""
        return self.folder / f"rank{rank}"


def save_checkpoint(
    root: Path, number: int, fill: Callable[[Path], None], state: Mapping[str, Any], *, start: Checkpoint | None = None
) -> Checkpoint:
    """Let `fill` write this rank's files, add checksums and `state` (rank 0's); numbers must grow.

    The whole checkpoint before it is kept, and so is `start`, which this one cannot be read without; all others are
    removed first. OSError on every rank: one of them could not write; earlier checkpoints are as they were.
    """
    rank, _ = rank_and_size()
    checkpoint = Checkpoint(root / f"{number:06d}", dict(state))

    def make_room() -> None:
        if rank == 0:
            _remove_all_but_last(root, checkpoint.folder, start)
            checkpoint.folder.mkdir(parents=True)

    def write() -> dict[str, str]:
        place = checkpoint.part(rank)
        place.mkdir()
        fill(place)
        files = [path for path in sorted(place.rglob("*")) if path.is_file()]
        return {str(path.relative_to(checkpoint.folder)): _sha256(path) for path in files}

    try:
        _together(make_room)
        digests = _together(write)
        files = {name: digest for part in digests.values() for name, digest in part.items()}
        manifest = {"files": files, "state": dict(state), "start": start.folder.name if start else None}
        _together(lambda: _write_manifest(checkpoint.folder, manifest) if rank == 0 else None)
    except OSError:
        if rank == 0:
            shutil.rmtree(checkpoint.folder, ignore_errors=True)
        raise
    return checkpoint


def newest_checkpoint(root: Path) -> tuple[Checkpoint, Checkpoint | None] | None:
    """The newest whole checkpoint in `root`, and the one that it starts from, if it needs one.

    One that is cut off or damaged is removed with a warning; one that the disk does not give is passed over.
    """
    rank, _ = rank_and_size()
    return gathered({0: _newest(root)} if rank == 0 else {})[0]


def _newest(root: Path) -> tuple[Checkpoint, Checkpoint | None] | None:
    for folder in _numbered(root):
        try:
            checkpoint, start = _read(folder)
            return checkpoint, None if start is None else _read(root / start)[0]
        except (FileNotFoundError, ValueError, KeyError) as error:
            _LOG.warning("checkpoint %s is not whole (%s); removed for the one before", folder, error)
            shutil.rmtree(folder, ignore_errors=True)  # or it would be kept in place of one that is whole
        except OSError as error:
            _LOG.warning("checkpoint %s cannot be read (%s); passed over", folder, error)
    return None


def _read(folder: Path) -> tuple[Checkpoint, str | None]:
    """A checkpoint and the name of the one that it starts from. OSError, ValueError, KeyError: not whole."""
    manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    damaged = [name for name, digest in manifest["files"].items() if _sha256(folder / name) != digest]
    if damaged:
        raise ValueError(f"damaged: {', '.join(damaged)}")
    return Checkpoint(folder, manifest["state"]), manifest["start"]


def _numbered(root: Path) -> Iterator[Path]:
    """Folders of checkpoints, newest first."""
    yield from sorted(root.glob("[0-9]*"), reverse=True)


def _remove_all_but_last(root: Path, new: Path, start: Checkpoint | None) -> None:
    """Make room for a new one: keep the last whole one before it, and what either needs."""
    kept = {start.folder} if start else set()
    for folder in _numbered(root):
        try:
            needed = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["start"]
        except (OSError, ValueError, KeyError):  # cut off or damaged
            continue
        if folder.name < new.name:
            kept |= {folder} if needed is None else {folder, root / needed}
            break
    for folder in _numbered(root):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    draft = folder / f".{_MANIFEST}"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(manifest, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / _MANIFEST)


def _together(action: Callable[[], Any]) -> dict[int, Any]:
    """What each rank's action returned, when all have ended. OSError on every rank if one of them met one."""
    rank, _ = rank_and_size()
    failure: OSError | None = None
    value = None
    try:
        value = action()
    except OSError as error:
        failure = error
    except SafetensorError as error:  # what it makes of an OSError
        failure = OSError(errno.EIO, str(error))
    values = gathered({rank: (value, failure)})
    for number, (_, met) in values.items():
        if met is not None:
            raise OSError(met.errno, f"{met.strerror or met} (rank {number})", met.filename) from failure
    return {number: value for number, (value, _) in values.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
