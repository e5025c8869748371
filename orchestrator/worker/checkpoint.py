"""Where a trial goes on after its workers died: the newest checkpoint whose checksums hold.

A checkpoint is a folder with a folder for each rank that wrote something, and a manifest, which is written last and
whole: a folder without one is a checkpoint that was cut off. All ranks of the process group call these functions.
"""

import contextlib
import errno
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from orchestrator.storage import Storage, StorageError, sha256_of
from orchestrator.worker.share import gathered, rank_and_size

_MANIFEST = "manifest.json"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder, named by a number, and what was known when it was written."""

    storage: Storage
    state: dict[str, Any]

    @property
    def name(self) -> str:
        """The number, as the folder has it."""
        return self.storage.local.name

    def part(self, rank: int) -> Path:
        """The files of one rank, on this machine. OSError: the disk or the store does not give them."""
        return self.storage.fetch(f"rank{rank}")


def save_checkpoint(
    root: Storage,
    number: int,
    fill: Callable[[Path], None],
    state: Mapping[str, Any],
    *,
    start: Checkpoint | None = None,
    keep: Checkpoint | None = None,
) -> Checkpoint:
    """Let `fill` write this rank's files, add checksums and `state` (rank 0's); numbers must grow.

    The checkpoint before it is kept, and so are `start`, which this one cannot be read without, and `keep`, which was
    found to be whole; all others are removed first. StorageError on every rank: one of them could not write; earlier
    checkpoints are as they were.
    """
    rank, _ = rank_and_size()
    checkpoint = Checkpoint(root.sub(f"{number:06d}"), dict(state))
    folder = checkpoint.storage.local

    def make_room() -> None:
        if rank == 0:
            _remove_all_but_last(root, checkpoint.name, {one.name for one in (start, keep) if one})

    def write() -> dict[str, str]:
        place = folder / f"rank{rank}"
        checkpoint.storage.drop_copy(place.name)  # of an earlier attempt at this trial
        place.mkdir(parents=True)
        fill(place)
        files = [path for path in sorted(place.rglob("*")) if path.is_file()]
        digests = {str(path.relative_to(folder)): sha256_of(path) for path in files}
        checkpoint.storage.publish(place.name, keep_copy=False, patience_seconds=0.0)
        return digests

    def seal(manifest: str) -> None:
        checkpoint.storage.put(_MANIFEST, lambda draft: draft.write_text(manifest, "utf-8"), patience_seconds=0.0)

    try:
        _together(make_room)
        digests = _together(write)
        files = {name: digest for part in digests.values() for name, digest in part.items()}
        manifest = json.dumps({"files": files, "state": dict(state), "start": start.name if start else None})
        _together(lambda: seal(manifest) if rank == 0 else None)
    except OSError:
        if rank == 0:
            _remove(root, checkpoint.name)
        raise
    return checkpoint


def newest_checkpoint(
    root: Storage, say: Callable[[str], None] = _LOG.warning
) -> tuple[Checkpoint, Checkpoint | None] | None:
    """The newest whole checkpoint in `root`, and the one that it starts from, if it needs one.

    Each rank checks its own files. A checkpoint that is cut off is passed over, and so is one that is damaged, which
    rank 0 says. StorageError on every rank: the store is away.
    """
    rank, _ = rank_and_size()
    for name in _together(lambda: _ended(root) if rank == 0 else [])[0]:
        try:
            return _whole(root, name)
        except StorageError as error:
            if root.uri is not None and error.errno != errno.EBADMSG:
                raise  # the store is away, and will come back
            if rank == 0:
                say(f"checkpoint {root}/{name} is not whole ({error.strerror}); passed over")
    return None


def _whole(root: Storage, name: str) -> tuple[Checkpoint, Checkpoint | None]:
    """A checkpoint and what it starts from. StorageError on every rank; with EBADMSG: it is not whole."""
    rank, _ = rank_and_size()
    storage = root.sub(name)
    manifest = _together(lambda: _read_manifest(storage) if rank == 0 else None)[0]
    _together(lambda: _check_part(storage, f"rank{rank}", manifest["files"]))
    start = None if manifest["start"] is None else _whole(root, manifest["start"])[0]
    return Checkpoint(storage, manifest["state"]), start


def _read_manifest(storage: Storage, patience_seconds: float | None = None) -> dict[str, Any]:
    with _damage():
        storage.drop_copy(_MANIFEST)
        manifest = json.loads(storage.fetch(_MANIFEST, patience_seconds).read_text(encoding="utf-8"))
        return {key: manifest[key] for key in ("files", "state", "start")}


def _check_part(storage: Storage, part: str, files: Mapping[str, str]) -> None:
    with _damage():
        storage.drop_copy(part)
        mine = {name: digest for name, digest in files.items() if name.startswith(f"{part}/")}
        folder = storage.fetch(part) if mine else storage.local / part
        for name, digest in mine.items():
            if sha256_of(folder / name.removeprefix(f"{part}/")) != digest:
                raise ValueError(f"damaged: {name}")


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """What is not there or not as it was written is an OSError too."""
    try:
        yield
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise OSError(errno.EBADMSG, str(error)) from error


def _numbered(root: Storage, patience_seconds: float | None = None) -> list[str]:
    """Names of checkpoints, newest first."""
    return sorted((name for name in root.names(patience_seconds) if name.isdigit()), reverse=True)


def _ended(root: Storage) -> list[str]:
    """Names of checkpoints that were not cut off, newest first."""
    return [name for name in _numbered(root) if _MANIFEST in root.sub(name).names()]


def _remove_all_but_last(root: Storage, new: str, kept: set[str]) -> None:
    """Make room for a new one: keep what must be, the last one before it that has a manifest, and what that needs."""
    numbered = _numbered(root, 0.0)
    for name in numbered:
        try:
            needed = _read_manifest(root.sub(name), 0.0)["start"]
        except OSError as error:
            kept = kept if error.errno == errno.EBADMSG else kept | {name}
            continue
        if name < new:
            kept = kept | {name} | ({needed} if needed else set())
            break
    for name in numbered:
        if name not in kept:
            _remove(root, name)


def _remove(root: Storage, name: str) -> None:
    """Room that is not freed is no reason to lose what was to be done with it."""
    try:
        root.remove(name)
    except OSError as error:
        _LOG.warning("checkpoint %s/%s cannot be deleted: %s", root, name, error)


def _together(action: Callable[[], Any]) -> dict[int, Any]:
    """What each rank's action returned, when all have ended. StorageError on every rank if one met an OSError."""
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
            raise StorageError(met.errno, f"{met.strerror or met} (rank {number})", met.filename) from failure
    return {number: value for number, (value, _) in values.items()}
