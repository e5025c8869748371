"""Where a sweep is kept: a folder, or a store such as S3 with a copy on this machine of what is in use."""

import errno
import os
import shutil
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

DEFAULT_STORAGE = "~/lethe"


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder. Without `uri` it is `local` and nothing else; with one, `local` holds a copy of what is in use.

    `name` is always a path relative to the folder. All methods raise OSError where the disk or the store does not take
    or give something, ValueError where `uri` names a store that does not exist.
    """

    local: Path
    uri: str | None = None

    def __str__(self) -> str:
        return self.uri or str(self.local)

    def sub(self, name: str) -> "Storage":
        """A folder inside."""
        return Storage(self.local / name, None if self.uri is None else join(self.uri, name))

    def names(self) -> list[str]:
        """What is in the folder, without what is inside of folders; nothing where there is no such folder."""
        if self.uri is None:
            return sorted(path.name for path in self.local.iterdir()) if self.local.is_dir() else []
        from pyarrow.fs import FileSelector  # noqa: PLC0415  (for stores only)

        filesystem, root = _open(self.uri)
        return sorted(found.base_name for found in filesystem.get_file_info(FileSelector(root, allow_not_found=True)))

    def publish(self, name: str, *, keep_copy: bool = True) -> None:
        """Put a file or folder that was written to `local` into the store. A file appears there whole or not at all."""
        if self.uri is None:
            return
        filesystem, root = _open(self.uri)
        source, destination = self.local / name, f"{root}/{name}"
        for path in [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file()):
            target = destination if path == source else f"{destination}/{path.relative_to(source).as_posix()}"
            _put(filesystem, path, target)
        if not keep_copy:
            self.drop_copy(name)

    def fetch(self, name: str) -> Path:
        """Where a file or folder is on this machine, brought from the store if it is not there."""
        path = self.local / name
        if self.uri is None or path.exists():
            return path
        from pyarrow.fs import FileType, LocalFileSystem, copy_files  # noqa: PLC0415

        filesystem, root = _open(self.uri)
        source = f"{root}/{name}"
        kind = filesystem.get_file_info(source).type
        if kind == FileType.NotFound:
            raise FileNotFoundError(errno.ENOENT, "No such file in the store", join(self.uri, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        if kind == FileType.Directory:
            draft.mkdir()
        copy_files(source, str(draft), source_filesystem=filesystem, destination_filesystem=LocalFileSystem())
        try:
            draft.rename(path)
        except OSError:  # another process of this machine brought the folder meanwhile
            shutil.rmtree(draft, ignore_errors=True)
        return path

    def remove(self, name: str) -> None:
        """Delete a file or folder, here and in the store; one that is not there is fine."""
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


def open_storage(place: str) -> Storage:
    """The folder at a path, or at a URI, whose copies are then kept beside each other in the default storage."""
    if not is_uri(place):
        return Storage(Path(place).expanduser().absolute())
    uri = place.rstrip("/")
    return Storage(Path(DEFAULT_STORAGE).expanduser() / Path(urlsplit(uri).path).name, uri)


def is_uri(place: str) -> bool:
    """Whether a place is a URI rather than a path."""
    return "://" in place


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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
