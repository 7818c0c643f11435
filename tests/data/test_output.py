"""A folder is replaced as a whole, only where a command wrote it, and by one run at a time."""

import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from helpers.processes import is_running, wait_until_gone

from iepile_builder import InputError
from iepile_builder.data import output
from iepile_builder.data.output import MARKER, replace_folder


def write(folder: Path, version: str, **options) -> None:
    with replace_folder(folder, "build", **options) as new:
        (new / "data" / "deep").mkdir(parents=True)
        (new / f"only_{version}.txt").write_text(version)
        for name in ("a.txt", "data/deep/b.txt"):
            (new / name).write_text(version)


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files if path.name != MARKER}


def whole(version: str) -> dict[str, str]:
    return dict.fromkeys((f"only_{version}.txt", "a.txt", "data/deep/b.txt"), version)


def test_a_new_and_an_empty_folder_are_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "far/away/new"):
        write(tmp_path / name, "1")
        assert content(tmp_path / name) == whole("1")
    assert sorted(os.listdir(tmp_path)) == ["empty", "far"]


def test_only_what_the_command_wrote_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(folder, "1")
    with pytest.raises(InputError, match=r"not empty; give another folder or --overwrite"):
        write(folder, "2")
    write(folder, "2", overwrite=True)
    assert content(folder) == whole("2")

    (folder / "data" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds data/notes\.txt, which iepile build did not write; move it"):
        write(folder, "3", overwrite=True)
    assert content(folder) == {**whole("2"), "data/notes.txt": "mine"}

    (folder / "data" / "notes.txt").rename(tmp_path / "notes.txt")
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="holds link, which iepile build did not write"):
        write(folder, "3", overwrite=True)
    (folder / "link").unlink()
    (folder / "mine").mkdir()
    with pytest.raises(InputError, match="holds mine, which iepile build did not write"):
        write(folder, "3", overwrite=True)
    (folder / "mine").rmdir()
    (tmp_path / "notes.txt").rename(folder / "data" / "notes.txt")

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty, and not written by iepile build; give another folder"):
            write(tmp_path / "home", "1", overwrite=overwrite)
        with (
            pytest.raises(InputError, match="not written by iepile merge"),
            replace_folder(folder, "merge", overwrite),
        ):
            pass
    assert content(tmp_path / "home") == {"thesis.txt": "mine"}
    (folder / MARKER).write_text("[]")
    with pytest.raises(InputError, match="not written by iepile build"):
        write(folder, "3", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["home", "out"]


def test_the_working_directory_and_the_corpora_are_out_of_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora, here = tmp_path / "corpora", tmp_path / "up" / "here"
    (corpora / "IE-en").mkdir(parents=True)
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    (tmp_path / "link").symlink_to(corpora)
    for place, reason in {
        ".": "is the working directory",
        "..": "holds the working directory",
        tmp_path: "holds the working directory",
        corpora: f"is the corpus folder {corpora}",
        tmp_path / "link": f"is the corpus folder {corpora}",
        corpora / "IE-en" / ".." / "out": f"lies under the corpus folder {corpora}",
    }.items():
        with pytest.raises(InputError, match=reason):
            write(Path(place), "1", overwrite=True, keep_away_from=[corpora])
    with pytest.raises(InputError, match="holds the corpus folder"):
        write(corpora, "1", overwrite=True, keep_away_from=[corpora / "IE-en"])
    assert list(here.iterdir()) == []
    assert [path.name for path in corpora.rglob("*")] == ["IE-en"]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    for version in ("1", "2"):
        write(tmp_path / "link", version, overwrite=version == "2")
        assert (tmp_path / "link").is_symlink()
        assert content(tmp_path / "disk") == whole(version)
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"]


def test_a_mount_point_is_filled_and_replaced(tmp_path: Path) -> None:
    mount = tmp_path / "mount point"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mount], capture_output=True).returncode != 0:
        pytest.skip("only root can mount")
    try:
        for version in ("1", "2"):
            write(mount, version, overwrite=version == "2")
            assert content(mount) == whole(version)
        (mount / "precious.txt").write_text("mine")
        with pytest.raises(InputError, match=r"holds precious\.txt"):
            write(mount, "3", overwrite=True)
        assert content(mount) == {**whole("2"), "precious.txt": "mine"}
    finally:
        subprocess.run(["umount", mount], check=True)
    assert os.listdir(tmp_path) == ["mount point"]


def write_and_kill(folder: Path, operation: int) -> bool:
    """Overwrite a folder in a child that is killed before its n-th operation on files; whether it came that far."""
    pid = os.fork()
    if pid == 0:
        numbers = count()

        def kill(event: str, _: tuple) -> None:
            operations = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir")
            if event in operations and next(numbers) == operation:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        try:
            write(folder, "new", overwrite=True)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("mount", [False, True])
@pytest.mark.parametrize("before", ["old", "empty", "none"])
def test_a_kill_at_any_operation_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: bool, before: str
) -> None:
    monkeypatch.setattr(output, "_is_mount", lambda path: mount)
    found = []
    for operation in count():
        folder = tmp_path / str(operation) / "out"
        folder.parent.mkdir()
        if before == "old":
            write(folder, "old")
        elif before == "empty" or mount:
            folder.mkdir()
        killed = write_and_kill(folder, operation)
        if killed:
            # the next run puts right what it finds, also where it does no more than that
            with pytest.raises(InputError, match="nothing to do"), replace_folder(folder, "build", overwrite=True):
                raise InputError("nothing to do")
        found.append(content(folder))
        write(folder, "newest", overwrite=True)
        assert content(folder) == whole("newest")
        assert os.listdir(folder.parent) == ["out"]
        assert not (folder / ".incomplete").exists()
        if not killed:
            break
    assert len(found) > 15
    switch = found.index(whole("new"))
    assert found[:switch] == [whole("old") if before == "old" else {}] * switch
    assert found[switch:] == [whole("new")] * (len(found) - switch)


def test_what_stands_beside_the_new_content_is_kept_after_a_kill_and_a_wrong_option(tmp_path: Path) -> None:
    folder, work = tmp_path / "out", tmp_path / ".out.incomplete"
    with pytest.raises(KeyboardInterrupt), replace_folder(folder, "build") as new:
        (new.parent / "cache").write_text("finished")
        (new / "half").write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="a wrong option"), replace_folder(folder, "build") as new:
        assert list(new.iterdir()) == []
        raise InputError("a wrong option")
    assert not folder.exists()
    assert (work / "cache").read_text() == "finished"
    write(folder, "1")
    assert not work.exists()


def test_what_is_put_into_the_folder_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(folder, "1")
    with (
        pytest.raises(InputError, match=r"holds notes\.txt, which iepile build did not write"),
        replace_folder(folder, "build", overwrite=True) as new,
    ):
        (new.parent / "cache").write_text("finished")
        (folder / "notes.txt").write_text("mine")
    assert content(folder) == {**whole("1"), "notes.txt": "mine"}
    assert (tmp_path / ".out.incomplete" / "cache").read_text() == "finished"
    (folder / "notes.txt").unlink()
    write(folder, "2", overwrite=True)
    assert content(folder) == whole("2")


@pytest.mark.parametrize("error", [InputError("wrong"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_error_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises((InputError, KeyboardInterrupt)), replace_folder(tmp_path / "far" / "out", "build") as new:
        (new / "half").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_mix(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with replace_folder(folder, "build") as new:
        (new / "a.txt").write_text("first")
        for overwrite in (False, True):
            with pytest.raises(InputError, match="another run is writing it"):
                write(folder, "second", overwrite=overwrite)
    assert content(folder) == {"a.txt": "first"}


def test_many_runs_at_once_leave_what_one_of_them_wrote(tmp_path: Path) -> None:
    folder, pids = tmp_path / "out", []
    for run in range(4):
        pids.append(os.fork())
        if pids[-1] == 0:
            status = 1
            try:
                for turn in range(30):
                    try:
                        write(folder, f"{run}_{turn}", overwrite=True)
                    except InputError as error:
                        assert "another run is writing it" in str(error)
                status = 0
            finally:
                os._exit(status)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert content(folder) == whole((folder / "a.txt").read_text())
    assert os.listdir(tmp_path) == ["out"]


PARENT = """
import multiprocessing, os, signal, sys, time
import multiprocess
from iepile_builder.data.output import end_children_with_us

def report(_):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece
    time.sleep(600)

if __name__ == "__main__":
    if sys.argv[1] == "together":
        end_children_with_us()
    pools = [multiprocessing.get_context("fork").Pool(2), multiprocess.get_context("fork").Pool(2)]
    for pool in pools:
        pool.map_async(report, range(2), chunksize=1)
    manager = multiprocess.get_context("fork").Manager()
    os.write(1, f"{manager._process.pid}\\n".encode())
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, str(tmp_path / "parent.py"), "together"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(5)]
        assert all(map(is_running, pids))
        parent.kill()
    wait_until_gone(pids)
