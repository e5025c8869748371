"""Where a sweep is kept: a folder, or a store such as S3 with a copy on this machine of what is in use."""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit

DEFAULT_STORAGE = "~/lethe"
PATIENCE_SECONDS = 60.0
_AT_ONCE = 16
_SECRET = re.compile(r"secret|password|token|credential|key|sas|sig", re.IGNORECASE)
_LOG = logging.getLogger(__name__)
Found = TypeVar("Found")


class StorageError(OSError):
    """The disk or the store did not take or give something, although it was asked for a while."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder. Without `uri` it is `local` and nothing else; with one, `local` holds a copy of what is in use.

    A `name` is a path relative to the folder. What a store does not take or give is tried again for a minute, then it
    is a StorageError. FileNotFoundError: there is no such file.
    """

    local: Path
    uri: str | None = None

    def __str__(self) -> str:
        return self.uri or str(self.local)

    def sub(self, name: str) -> "Storage":
        """A folder inside."""
        return Storage(self.local / name, None if self.uri is None else join(self.uri, name))

    def names(self, patience_seconds: float | None = None) -> list[str]:
        """What is in the folder, without what is inside of folders; nothing where there is no such folder."""
        if self.uri is None:
            return sorted(path.name for path in self.local.iterdir()) if self.local.is_dir() else []
        from pyarrow.fs import FileSelector  # noqa: PLC0415  (for stores only)

        filesystem, root = _open(self.uri)
        look = lambda: filesystem.get_file_info(FileSelector(root, allow_not_found=True))  # noqa: E731
        return sorted(found.base_name for found in _patiently(look, f"{self} cannot be listed", patience_seconds))

    def put(self, name: str, write: Callable[[Path], Found], *, patience_seconds: float | None = None) -> Found:
        """Let `write` make a file or folder at a path, and keep it as `name`, whole or not at all."""
        path = self.local / name
        draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            made = write(draft)
            if self.uri is None:
                _sync(draft)  # a machine that loses power must not leave an empty file under a name that is relied on
            if path.is_dir():  # of an earlier attempt
                _remove(path)
            draft.replace(path)
            if self.uri is None:
                sync_entry(path.parent)
        except OSError as error:
            text = f"{self}/{name} cannot be written: {error.strerror or error}"
            raise StorageError(error.errno or errno.EIO, text) from error
        finally:
            with contextlib.suppress(OSError):  # what went wrong before is told
                _remove(draft)
        self.publish(name, keep_copy=False, patience_seconds=patience_seconds)
        return made

    def publish(self, name: str, *, keep_copy: bool = True, patience_seconds: float | None = None) -> None:
        """Put a file or folder that was written to `local` into the store. A file appears there whole or not at all."""
        if self.uri is None:
            return
        filesystem, root = _open(self.uri)
        source, destination = self.local / name, f"{root}/{name}"
        try:
            for path in [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file()):
                target = destination if path == source else f"{destination}/{path.relative_to(source).as_posix()}"
                put = lambda path=path, target=target: _put(filesystem, path, target)  # noqa: E731
                _patiently(put, f"{self} does not take {name}", patience_seconds)
        finally:
            if not keep_copy:
                self.drop_copy(name)

    def fetch(self, name: str, patience_seconds: float | None = None) -> Path:
        """Where a file or folder is on this machine, brought from the store if it is not there."""
        path = self.local / name
        if self.uri is None or path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(path.with_name(".fetch.lock")):  # the processes of a machine bring it once
            if not path.exists():
                self._bring_patiently(name, patience_seconds)
        return path

    def fetch_files(self, names: Sequence[str]) -> None:
        """Bring files of this folder that are not on this machine; many of them side by side."""
        missing = [name for name in names if not (self.local / name).exists()]
        if self.uri is None or not missing:
            return
        self.local.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._bring_patiently, missing))

    def remove(self, name: str) -> None:
        """Delete a file or folder, here and in the store; one that is not there is fine. OSError: not now."""
        _remove(self.local / name)
        if self.uri is None:
            return
        from pyarrow.fs import FileType  # noqa: PLC0415

        filesystem, root = _open(self.uri)
        found = filesystem.get_file_info(f"{root}/{name}")
        if found.type == FileType.Directory:
            filesystem.delete_dir(found.path)
        elif found.type != FileType.NotFound:
            filesystem.delete_file(found.path)

    def drop_copy(self, name: str) -> None:
        """Delete what only saves a way to the store."""
        if self.uri is not None:
            _remove(self.local / name)

    def _bring_patiently(self, name: str, patience_seconds: float | None = None) -> None:
        _patiently(lambda: self._bring(name, self.local / name), f"{self} does not give {name}", patience_seconds)

    def _bring(self, name: str, path: Path) -> None:
        from pyarrow.fs import FileType, LocalFileSystem, copy_files  # noqa: PLC0415

        assert self.uri is not None
        filesystem, root = _open(self.uri)
        source, draft = f"{root}/{name}", path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        kind = filesystem.get_file_info(source).type
        if kind == FileType.NotFound:
            raise FileNotFoundError(errno.ENOENT, "No such file in the store", join(self.uri, name))
        try:
            if kind == FileType.Directory:
                draft.mkdir()
            copy_files(source, str(draft), source_filesystem=filesystem, destination_filesystem=LocalFileSystem())
            draft.rename(path)
        finally:
            _remove(draft)


def open_storage(place: str) -> Storage:
    """The folder at a path, or at a URI; copies of what is at a URI lie in the default storage, or in $LETHE_COPIES.

    ValueError: a URI that holds a password, or names no store that there is.
    """
    if not is_uri(place):
        return Storage(Path(place).expanduser().absolute())
    check_uri(place)
    uri = place.rstrip("/")
    name = f"{Path(urlsplit(uri).path).name}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
    return Storage(copies() / name, uri)


def copies() -> Path:
    """The folder of this machine's copies of what is in stores."""
    return Path(os.environ.get("LETHE_COPIES") or DEFAULT_STORAGE).expanduser().absolute()


def is_uri(place: str) -> bool:
    """Whether a place is a URI rather than a path."""
    return "://" in place


def check_uri(uri: str) -> None:
    """ValueError: it holds a password, which would be written down with every result."""
    parts = urlsplit(uri)
    secret = [name for name, _ in parse_qsl(parts.query) if _SECRET.search(name)]
    if parts.password or secret or (parts.username and parts.scheme in ("s3", "gs")):
        raise ValueError(
            "storage: a URI may hold no password, because it is written down with every result; leave it out, and give "
            "the password as the store's own tools take it, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
            "environment of every node"
        )


def join(place: str, name: str) -> str:
    """The path or URI of something inside a path or URI."""
    if not is_uri(place):
        return f"{place.rstrip('/')}/{name}"
    parts = urlsplit(place)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def split(place: str) -> tuple[str, str]:
    """A path or URI as the folder that it is in and its name there."""
    if not is_uri(place):
        path = Path(place).expanduser().absolute()
        return str(path.parent), path.name
    parts = urlsplit(place.rstrip("/"))
    folder, _, name = parts.path.rpartition("/")
    return urlunsplit(parts._replace(path=folder)), name


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _patiently(action: Callable[[], Found], what: str, patience_seconds: float | None = None) -> Found:
    """What an action returns, tried again for a while when the store is away."""
    patience = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
    deadline, pause = time.monotonic() + patience, 0.5
    while True:
        try:
            return action()
        except FileNotFoundError:
            raise
        except OSError as error:
            if time.monotonic() + pause > deadline:
                raise StorageError(error.errno or errno.EIO, f"{what}: {' '.join(str(error).split())}") from error
            _LOG.warning("%s (%s); tried again in %g s", what, error, pause)
            time.sleep(pause)
            pause = min(2 * pause, 10.0)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Only one process of this machine at a time."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@lru_cache(maxsize=64)
def _open(uri: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem  # noqa: PLC0415

    filesystem, root = FileSystem.from_uri(uri)
    return filesystem, root.rstrip("/")


def _put(filesystem: Any, source: Path, target: str) -> None:
    from pyarrow.fs import LocalFileSystem, copy_files  # noqa: PLC0415

    if not isinstance(filesystem, LocalFileSystem):  # an object is there once all of it is
        copy_files(str(source), target, source_filesystem=LocalFileSystem(), destination_filesystem=filesystem)
        return
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with source.open("rb") as reader, draft.open("wb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())
    draft.replace(path)


def _sync(path: Path) -> None:
    """Have a file, or a folder with all that is in it, on the disk."""
    for inside in path.iterdir() if path.is_dir() else ():
        _sync(inside)
    sync_entry(path)


def sync_entry(path: Path) -> None:
    """Have a file's bytes, or a folder's list of names, on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such thing for folders
            raise
    finally:
        os.close(number)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
