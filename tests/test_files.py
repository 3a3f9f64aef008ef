"""Atomic writing: the old content or the new, never half of either, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_graph import files
from lora_graph.files import atomic_write, require_writable


def put(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def test_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    put(path, b"old")
    put(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_what_is_no_path_is_named() -> None:
    with pytest.raises(TypeError, match=r"path must be a str or an os.PathLike, got None"):
        require_writable(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_inside_the_block_leaves_everything_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    put(path, b"old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"half of the n")
            raise error("disk on fire")

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_a_failing_rename_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(PermissionError, match=r"cannot write '.*a.bin': Permission denied") as caught:
        put(tmp_path / "a.bin", b"new")
    assert caught.value.errno == 13
    assert not list(tmp_path.iterdir())


def test_the_content_is_synchronised_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (events.append("fsync"), fsync(fd)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    put(tmp_path / "a.bin", b"new")
    assert events == ["fsync", "replace", "fsync"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    put(path, b"old")
    script = (
        "import os, signal, sys\n"
        "from lora_graph.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'x' * 100_000); file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    assert path.read_bytes() == b"old"


def test_a_missing_folder_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cannot write '.*nowhere/a.bin': No such file or directory"):
        put(tmp_path / "nowhere" / "a.bin", b"new")
    with pytest.raises(IsADirectoryError, match="is a directory"):
        put(tmp_path, b"new")


def test_what_could_not_be_written_is_known_before(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    require_writable(path)
    assert list(tmp_path.iterdir()) == []
    put(path, b"old")
    require_writable(path)
    assert [(item, item.read_bytes()) for item in tmp_path.iterdir()] == [(path, b"old")]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        require_writable(tmp_path / "nowhere" / "a.bin")
    with pytest.raises(IsADirectoryError, match="is a directory"):
        require_writable(tmp_path)


def test_permissions_and_links_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "a.bin", tmp_path / "link.bin"
    put(path, b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    put(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_new_file_obeys_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        put(tmp_path / "a.bin", b"new")
    finally:
        os.umask(old)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640
