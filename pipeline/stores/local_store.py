"""A run in a local folder, or one on a file system that all nodes mount."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import StoreError
from pipeline.stores.run_store import TEMPORARY, Entry, RunStore


class LocalStore(RunStore):
    """Objects are files, made under a temporary name and then linked to their own, which fails if that is taken."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(Path(root).absolute())

    def path(self, name: str) -> Path:
        """The file that holds the object."""
        return Path(self.root, name)

    def create(self, name: str, data: bytes) -> bool:
        """As `RunStore.create`: written to disk, then linked."""
        with self._temporary(name) as temporary:
            _write_durably(temporary, data)
            return self._link(temporary, name)

    def upload(self, name: str, local_path: str | Path) -> bool:
        """As `RunStore.upload`; nothing is copied if the file lies on the same disk."""
        with self._temporary(name) as temporary:
            _copy_durably(Path(local_path), temporary)
            return self._link(temporary, name)

    def replace(self, name: str, data: bytes) -> None:
        """As `RunStore.replace`: a rename."""
        with self._temporary(name) as temporary:
            _write_durably(temporary, data)
            temporary.rename(self.path(name))

    def read(self, name: str) -> bytes:
        """As `RunStore.read`."""
        return self.path(name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        """As `RunStore.open`."""
        return self.path(name).open("rb")

    def exists(self, name: str) -> bool:
        """As `RunStore.exists`."""
        return self.path(name).exists()

    def entries(self, prefix: str) -> Iterator[Entry]:
        """As `RunStore.entries`."""
        for entry in self._files(prefix):
            status = entry.stat()
            yield Entry(prefix + entry.name, status.st_size, status.st_mtime)

    def list(self, prefix: str) -> Iterator[str]:
        """As `RunStore.list`, without asking for the status of every file."""
        return (prefix + entry.name for entry in self._files(prefix))

    def _files(self, prefix: str) -> Iterator["os.DirEntry[str]"]:
        folder = self.path(prefix)
        if not folder.is_dir():
            return
        with os.scandir(folder) as found:
            yield from (entry for entry in found if not entry.name.startswith(TEMPORARY) and entry.is_file())

    def is_empty(self) -> bool:
        """As `RunStore.is_empty`; a folder that cannot be listed counts as taken."""
        root = Path(self.root)
        return not os.path.lexists(root) or (root.is_dir() and not any(root.iterdir()))

    def delete(self, name: str) -> None:
        """As `RunStore.delete`."""
        self.path(name).unlink(missing_ok=True)

    def append_log(self, name: str) -> "LocalLog":
        """As `RunStore.append_log`: one file `NAME.jsonl`; a line is with the operating system when written."""
        return LocalLog(self.path(f"{name}.jsonl"))

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """As `RunStore.alone`: a file lock, which goes with the process that holds it."""
        try:
            Path(self.root).mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path(f".{name}.lock"), os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise StoreError(f"{self.root}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def probe(self, single_writer: bool = False) -> None:
        """As `RunStore.probe`; a file system without hard links cannot be used at all, by one writer or by many."""
        name = f"{TEMPORARY}probe-{uuid.uuid4().hex}"
        try:
            first, second = self.create(name, b"first"), self.create(name, b"second")
            kept = self.read(name)
        finally:
            self.delete(name)
        if not first or second or kept != b"first":
            raise StoreError(
                f"--out {self.root}: this file system does not refuse to create a file that exists (hard links); "
                "choose a folder on another file system"
            )

    def _temporary(self, name: str) -> "_Temporary":
        return _Temporary(self.path(name).parent, self.root)

    def _link(self, temporary: Path, name: str) -> bool:
        try:
            os.link(temporary, self.path(name))
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(f"--out {self.root}: cannot create {name}: {error.strerror or error}") from error
        _sync_folder(self.path(name).parent)
        return True


class LocalLog:
    """A file that only grows."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, line: str) -> None:
        """Append a line."""
        self._file.write(line)

    def close(self) -> None:
        """End the log."""
        self._file.close()


class _Temporary:
    """A file name of our own beside the object; whatever is left of it goes when the block ends."""

    def __init__(self, folder: Path, root: str) -> None:
        self._path = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        self._root = root

    def __enter__(self) -> Path:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"--out {self._root}: cannot be written: {error.strerror or error}") from error
        return self._path

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            self._path.unlink(missing_ok=True)
        else:
            with suppress(OSError):  # on a file system that is read-only now, removing fails as writing did
                self._path.unlink(missing_ok=True)
            raise StoreError(f"--out {self._root}: cannot be written: {error.strerror or error}") from error


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _copy_durably(source: Path, target: Path) -> None:
    """The content of `source` under a second name: a hard link where that works, else a copy."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(source, target)
    except OSError:  # another disk, or no hard links there: the bytes are copied
        with source.open("rb") as file, target.open("xb") as copy:
            while block := file.read(1 << 22):
                copy.write(block)
            copy.flush()
            os.fsync(copy.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
