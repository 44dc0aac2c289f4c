"""The run folder as a store of immutable objects; `create` is the only commit point of a run.

Local folders for now. Every name is relative to the run folder and uses forward slashes.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import StoreError

_TEMPORARY = ".tmp-"


class RunStore:
    """Objects below one folder, each created whole or not at all.

    root: the run folder, an absolute path. Instances are small and can be sent to other processes.
    """

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root):
            scheme = str(root).split("://", 1)[0]
            raise StoreError(f"--out {root}: a run on {scheme}:// is not supported yet; give a local folder")
        self.root = str(Path(root).absolute())

    def __repr__(self) -> str:
        return f"RunStore({self.root!r})"

    def path(self, name: str) -> Path:
        """The file that holds the object."""
        return Path(self.root, name)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object if there is none of this name; False if there was one already.

        Raises StoreError when the folder cannot be written.
        """
        with self._temporary(name) as temporary:
            _write_durably(temporary, data)
            return self._link(temporary, name)

    def upload(self, name: str, local_path: str | Path) -> bool:
        """As `create`, with the content of a local file, which is moved if it lies on the same disk."""
        with self._temporary(name) as temporary:
            _copy_durably(Path(local_path), temporary)
            return self._link(temporary, name)

    def replace(self, name: str, data: bytes) -> None:
        """Write an object, or put it in the place of the one of this name, in one atomic step."""
        with self._temporary(name) as temporary:
            _write_durably(temporary, data)
            temporary.rename(self.path(name))

    def read(self, name: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        return self.path(name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        """The object as a seekable file. Raises FileNotFoundError."""
        return self.path(name).open("rb")

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""
        return self.path(name).exists()

    def list(self, prefix: str) -> Iterator[str]:
        """Names of the objects in the folder `prefix`, which ends in a slash; unsorted, not opened."""
        folder = self.path(prefix)
        if not folder.is_dir():
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(_TEMPORARY) and entry.is_file():
                    yield prefix + entry.name

    def delete(self, name: str) -> None:
        """Remove the object if it is there."""
        self.path(name).unlink(missing_ok=True)

    def probe(self) -> None:
        """Prove that this store creates an object only if absent. Raises StoreError if it does not."""
        name = f"{_TEMPORARY}probe-{uuid.uuid4().hex}"
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


class _Temporary:
    """A file name of our own beside the object; whatever is left of it goes when the block ends."""

    def __init__(self, folder: Path, root: str) -> None:
        self._path = folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
        self._root = root

    def __enter__(self) -> Path:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"--out {self._root}: cannot be written: {error.strerror or error}") from error
        return self._path

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._path.unlink(missing_ok=True)
        if isinstance(error, OSError):
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
