from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from openrouter_async._values import folders
from openrouter_async.errors import RequestValidationError
from openrouter_async.sinks import FileSink, KeySinkError
from openrouter_async.sinks import _private_file as module
from tests.login.support import KEY


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


async def test_file_sink_file_and_new_folders_are_private_under_any_umask(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "a" / "b" / "key.json")
    for umask in (0, 0o077, 0o777):
        before = os.umask(umask)
        try:
            await sink.save(KEY)
        finally:
            os.umask(before)
        assert mode(sink.path) == 0o600
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700
    assert os.listdir(sink.path.parent) == ["key.json"]


async def test_file_sink_file_with_wrong_mode_is_not_read_and_fixed_by_save(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "key")
    await sink.save("sk-or-v1-old")
    for wrong in (0o644, 0o640, 0o604, 0o620):
        sink.path.chmod(wrong)
        with pytest.raises(KeySinkError, match="can be read by others; its mode must be 0600"):
            await sink.load()
    await sink.save(KEY)
    assert mode(sink.path) == 0o600
    stored = await sink.load()
    assert stored is not None
    assert stored.key == KEY


async def test_file_sink_symbolic_link_is_never_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    sink = FileSink(tmp_path / "key")
    for points_to in (target, tmp_path / "nowhere"):
        sink.path.symlink_to(points_to)
        for call in (sink.save(KEY), sink.load(), sink.delete()):
            with pytest.raises(KeySinkError, match="is a symbolic link"):
                await call
        assert sink.path.is_symlink()
        sink.path.unlink()
    assert os.listdir(tmp_path) == ["target"]
    assert target.read_text() == "untouched"


async def test_file_sink_folder_at_the_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    sink = FileSink(tmp_path / "key")
    for call in (sink.save(KEY), sink.load(), sink.delete()):
        with pytest.raises(KeySinkError, match="is not a file"):
            await call


async def test_file_sink_pipe_at_the_path_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key")
    with pytest.raises(KeySinkError, match="is not a file"):
        await FileSink(tmp_path / "key").load()


@pytest.mark.parametrize("open_mode", [0o777, 0o1777, 0o703])
async def test_file_sink_folder_writable_by_everybody_is_refused(tmp_path: Path, open_mode: int) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    sink = FileSink(folder / "key")
    await sink.save(KEY)
    folder.chmod(open_mode)
    for call in (sink.save("sk-or-v1-new"), sink.load(), sink.delete()):
        with pytest.raises(KeySinkError, match="everybody can write to the folder"):
            await call
    assert os.listdir(folder) == ["key"]


async def test_file_sink_linked_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    await FileSink(tmp_path / "link" / "key").save(KEY)
    assert (tmp_path / "real" / "key").is_file()


async def test_file_sink_system_error_is_a_key_sink_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sink = FileSink(tmp_path / "file" / "key")
    for verb, call in (("written", sink.save(KEY)), ("read", sink.load()), ("deleted", sink.delete())):
        with pytest.raises(KeySinkError, match=f"cannot be {verb}: Not a directory"):
            await call


async def test_file_sink_delete_of_nothing_is_no_error(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "missing" / "key")
    assert not await sink.delete()
    assert await sink.load() is None
    assert os.listdir(tmp_path) == []


async def test_file_sink_failed_save_leaves_the_old_key_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = FileSink(tmp_path / "key")
    await sink.save("sk-or-v1-old")
    full = OSError(28, "No space left on device")

    def refuse(*_: object) -> None:
        raise full

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, refuse)
            with pytest.raises(KeySinkError, match="cannot be written: No space left on device"):
                await sink.save(KEY)
        assert os.listdir(tmp_path) == ["key"]
        stored = await sink.load()
        assert stored is not None
        assert stored.key == "sk-or-v1-old"


async def test_file_sink_file_system_without_modes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_mode = os.fchmod
    monkeypatch.setattr(os, "fchmod", lambda descriptor, _: set_mode(descriptor, 0o755))
    with pytest.raises(KeySinkError, match="has no modes"):
        await FileSink(tmp_path / "key").save(KEY)
    assert os.listdir(tmp_path) == []


async def test_file_sink_platform_without_modes_skips_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in (module, folders):
        monkeypatch.setattr(part, "HAS_MODES", False)
    os.chmod(tmp_path, 0o777)
    sink = FileSink(tmp_path / "key")
    await sink.save(KEY)
    sink.path.chmod(0o666)
    stored = await sink.load()
    assert stored is not None
    assert stored.key == KEY


async def test_file_sink_readers_find_a_whole_key_during_a_save(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "key")
    keys = [f"sk-or-v1-{number}" * (1 + 100 * (number % 2)) for number in range(10)]
    await sink.save(keys[0])
    read: list[str] = []
    started, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            stored = asyncio.run(sink.load())
            assert stored is not None
            read.append(stored.key)
            started.set()

    watching = asyncio.create_task(asyncio.to_thread(watch))
    for _ in range(3):
        await asyncio.gather(*(sink.save(key) for key in keys))
    await asyncio.to_thread(started.wait, 10)
    done.set()
    await watching
    assert set(read) <= set(keys)
    assert os.listdir(tmp_path) == ["key"]


DYING = """
import asyncio, os, signal, sys
from openrouter_async.sinks import FileSink
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(FileSink(sys.argv[1]).save(sys.argv[2]))
"""


async def test_file_sink_delete_removes_files_of_a_killed_process(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "key")
    await FileSink(tmp_path / "key.other").save("sk-or-v1-other")
    (tmp_path / ".key.backup").write_text("the user's own")
    await sink.save("sk-or-v1-old")
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", DYING, str(sink.path), KEY], capture_output=True, check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 4
    stored = await sink.load()
    assert stored is not None
    assert stored.key == "sk-or-v1-old"

    assert await sink.delete()
    assert sorted(os.listdir(tmp_path)) == [".key.backup", "key.other"]


@pytest.mark.parametrize("path", ["", ".", "/", "a\0b", "\ud800", 7, None, b"key"])
def test_file_sink_invalid_path_is_refused(path: Any) -> None:
    with pytest.raises(RequestValidationError, match=r"^path: must be the path of a file$"):
        FileSink(path)


def test_file_sink_relative_path_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sink = FileSink("key")
    monkeypatch.chdir("/")
    assert sink.path == tmp_path / "key"
    assert repr(sink) == f"<FileSink {tmp_path}/key>"
