"""
Replace a folder atomically: at any moment, even if the program is killed, it holds the old content or the new.

The new content is made in a work folder, `.NAME.incomplete` beside the output folder, and swapped in by renaming. A
mount point cannot be renamed: there the work folder is inside it, and files are moved one by one.
"""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from iepile_builder.errors import InputError
from iepile_builder.processes import end_with


try:
    import fcntl
except ImportError:  # Windows, where two runs into one folder are not kept apart
    fcntl = None  # type: ignore[assignment]


MARKER = ".iepile"  # in a folder that a command wrote: which command, its files, and what it records of itself
INSIDE = ".incomplete"  # the work folder in a mount point
NOT_CONTENT = (INSIDE, "lost+found")


@contextmanager
def replace_folder(
    output_dir: Path, command: str, overwrite: bool = False, keep_away_from: Sequence[str | Path] = ()
) -> Iterator[Path]:
    """
    Yield an empty folder to write to, which becomes the output folder if the block ends without an error:

        with replace_folder(Path("outputs/data"), "build", overwrite=True) as new:
            (new / "train.jsonl").write_text("...")

    Files beside it, in `new.parent`, are kept for the next run if this one is killed or interrupted.

    Args:
        output_dir (`Path`):
            The output folder. If it is a symbolic link, the folder that it points to is replaced.
        command (`str`):
            The command that writes it.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace what `command` wrote there before.
        keep_away_from (`Sequence` of `str` or `Path`, *optional*):
            Folders with the user's data: the output folder must not be, hold or lie under any of them.

    Raises:
        `InputError`: If the folder must not be replaced, if another run is writing it, or if it cannot be written.
    """
    try:
        output = Path(os.path.realpath(output_dir))
        _check_place(output_dir, output, keep_away_from)
        inside = _is_mount(output)
        work = output / INSIDE if inside else output.with_name(f".{output.name}.incomplete")
        parents = [parent for parent in work.parents if not parent.exists()]
        with _lock(work, output_dir):
            keep = len(os.listdir(work)) > 1  # more than the lock: a run was killed
            new, old = work / "new", work / "old"
            try:
                _finish_swap(output, work, inside)
                _check_content(output_dir, output, command, overwrite)
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir()
                yield new
                keep = True
                _check_content(output_dir, output, command, overwrite)  # again: a build takes hours
                write_marker(new, command=command, files=_files(new))
                _swap(output, work, inside)
            except BaseException as error:
                if not old.exists():  # else the next run finishes the swap
                    shutil.rmtree(new, ignore_errors=True)
                    keep = keep or not isinstance(error, InputError)
                    if not keep or len(os.listdir(work)) == 1:
                        _remove_work(work)
                        for parent in parents:
                            with suppress(OSError):
                                parent.rmdir()
                raise
            _remove_work(work)
    except OSError as error:
        if error.errno is None:
            raise
        raise InputError(f"{error.filename or output_dir}: {error.strerror}") from error


def _check_place(output_dir: Path, output: Path, keep_away_from: Sequence[str | Path]) -> None:
    """Refuse a folder whose replacement would delete the user's data."""
    working = Path.cwd()
    if output == working or output in working.parents:
        how = "is" if output == working else "holds"
        raise InputError(f"{output_dir}: the output folder {how} the working directory; give a folder of its own")
    for folder in keep_away_from:
        place = Path(os.path.realpath(folder))
        how = "is" if output == place else "holds" if output in place.parents else "lies under"
        if output == place or output in place.parents or place in output.parents:
            raise InputError(f"{output_dir}: the output folder {how} the corpus folder {folder}; give another folder")


def _is_mount(path: Path) -> bool:
    """Check for a mount point; `os.path.ismount` misses a bind mount of the same disk."""
    mounts = Path("/proc/self/mountinfo")
    lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if mounts.exists() else []
    points = (re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), line.split(" ")[4]) for line in lines)
    return os.path.ismount(path) or str(path) in points


@contextmanager
def _lock(work: Path, output_dir: Path) -> Iterator[None]:
    """Make the work folder and keep every other run out of it."""
    while True:
        with suppress(FileExistsError):  # `exist_ok` raises, too, if a run that ends removes it meanwhile
            work.mkdir(parents=True)
        with suppress(FileNotFoundError), ExitStack() as stack:  # a run that ends removes folder and lock
            file = stack.enter_context((work / "lock").open("a"))
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{output_dir}: another run is writing it; wait, or give another folder") from None
            if os.path.samestat(os.fstat(file.fileno()), (work / "lock").stat()):
                held = stack.pop_all()
                break
    with held:
        yield


def _entries(output: Path) -> list[Path]:
    """List a folder without the work folder and files that a file system puts there."""
    if not output.exists():
        return []
    return [entry for entry in output.iterdir() if entry.name not in NOT_CONTENT]


def _check_content(output_dir: Path, output: Path, command: str, overwrite: bool) -> None:
    """Refuse to replace anything that the command did not write."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output_dir}: not a folder")
    if not _entries(output):
        return
    marker = read_marker(output)
    if marker.get("command") != command:
        raise InputError(
            f"{output_dir}: not empty, and not written by iepile {command}; give another folder, or empty it yourself"
        )
    if not overwrite:
        raise InputError(f"{output_dir}: not empty; give another folder or --overwrite")
    for name in _files(output):
        if name not in {MARKER, *marker["files"]} and name.partition("/")[0] not in NOT_CONTENT:
            raise InputError(
                f"{output_dir}: holds {name}, which iepile {command} did not write; move it, or give another folder"
            )


def _files(folder: Path) -> list[str]:
    """List the files of a folder, and the empty folders, which may be the user's."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir() or not os.listdir(path))
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def write_marker(folder: Path, **content: Any) -> None:
    """Write what a command records in a folder that it writes, besides what it has recorded there before."""
    text = json.dumps({**read_marker(folder), **content}, ensure_ascii=False, indent=1) + "\n"
    (folder / MARKER).write_text(text, encoding="utf-8")


def read_marker(folder: Path) -> dict[str, Any]:
    """Read what a command recorded in a folder that it wrote; nothing if it is none, or damaged."""
    try:
        return dict(json.loads((folder / MARKER).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _swap(output: Path, work: Path, inside: bool) -> None:
    """Swap the old content for the new; `_finish_swap` can resume it from any point."""
    if not inside:
        if output.exists():
            output.rename(work / "old")
        (work / "new").rename(output)
        return
    leaving = work / "leaving"
    leaving.mkdir()
    for entry in sorted(_entries(output), key=lambda entry: entry.name != MARKER):  # the marker first
        entry.rename(leaving / entry.name)
    leaving.rename(work / "old")
    _move_in(work / "new", output)


def _move_in(new: Path, output: Path) -> None:
    for entry in sorted(new.iterdir(), key=lambda entry: entry.name == MARKER):  # the marker last
        entry.rename(output / entry.name)


def _finish_swap(output: Path, work: Path, inside: bool) -> None:
    """Finish the swap of a run that was killed, or undo it if the old content is still in place."""
    leaving, old = work / "leaving", work / "old"
    if leaving.exists():
        for entry in leaving.iterdir():
            entry.rename(output / entry.name)
        leaving.rmdir()
    if not old.exists():
        return
    if not (output / MARKER).exists():
        if inside:
            _move_in(work / "new", output)
        elif not _entries(output):
            (work / "new").rename(output)
        else:  # new files of the user: touch nothing
            return
    shutil.rmtree(old)


def _remove_work(work: Path) -> None:
    """Remove the work folder, the lock last, so that no other run starts before."""
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != "lock":
            entry.unlink()
    (work / "lock").unlink()
    with suppress(OSError):  # another run has begun
        work.rmdir()


def end_children_with_us() -> None:
    """Make processes forked from now on end with this one, even by SIGKILL, and leave Ctrl-C to it (on Linux)."""
    if sys.platform != "linux":
        return
    parent = os.getpid()

    def after_fork() -> None:
        nonlocal parent
        end_with(parent)
        parent = os.getpid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    os.register_at_fork(after_in_child=after_fork)
