"""Writing files so that a reader finds the old content or the new, and never half of either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write the new content of ``path`` to; it takes its place when the block ends without an error.

    A temporary file in the same directory is flushed and synchronised, renamed over ``path``, and the directory is
    synchronised. An existing file keeps its permissions, a link keeps pointing where it does. After an error ``path``
    is as it was and the temporary file is gone; an OSError is raised again as the same class, naming ``path``.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or an os.PathLike, got {path!r}")
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {os.fspath(path)!r}: it is a directory")
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            if target.exists():
                os.chmod(temporary, target.stat().st_mode & 0o777)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_directory(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _naming(error, path) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def require_writable(path: str | os.PathLike[str]) -> None:
    """Raise the OSError that writing to ``path`` would end in, before there is anything to write. Leaves no trace."""
    with suppress(_Undone), atomic_write(path):
        raise _Undone


class _Undone(Exception):  # noqa: N818
    """Takes back what was begun."""


def sync_directory(directory: Path) -> None:
    """Make renames in ``directory`` last through a power failure, where the system can be told to."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _naming(error: OSError, path: str | os.PathLike[str]) -> OSError:
    named = type(error)(f"cannot write {os.fspath(path)!r}: {error.strerror or error}")
    named.errno = error.errno
    return named
