"""The cache of compiled libraries on disk: finds its folder, and loads only files that no other user can write.

A library is code that this process will run, so a library is loaded only if its folder, its file and every folder above
them belong to this user (or to root), and no other user can write there. The sha256 that is recorded beside a library
does not protect against users who may write there; it detects truncated or altered files. A checked file is copied, and
the copy is loaded, so that a later truncation does no harm.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

DAY = 86_400.0
"""Seconds after which a folder is taken to be left behind: no compiler runs so long."""

REPORT = "done.json"
"""The name of an entry's report: the name of its library, and the sha256 of each of its files."""
_LARGEST = 2**20
"""The largest size of a report, in bytes."""
_NAME = re.compile(r"\w[\w.-]*")
_OTHERS = stat.S_IWGRP | stat.S_IWOTH

Loaded = TypeVar("Loaded")


class Untrusted(Exception):
    """Another user may have written a folder or a file of the cache."""


@dataclass(frozen=True)
class CacheFolder:
    """The folder that holds the cached libraries.

    Attributes:
        folder: its path, without symbolic links.
        note: why it is not the folder that was asked for; empty if it is.
    """

    folder: Path
    note: str = ""


def cache_folder() -> Path:
    """The folder that the user chooses: `VARIGRAD_CACHE`, else `varigrad` in the user's cache folder.

    Raises:
        RuntimeError: the user has no home folder.
    """
    given = os.environ.get("VARIGRAD_CACHE")
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "varigrad"


def place() -> CacheFolder:
    """The folder that is used: the cache if it is safe and can be written, else a folder for this process only.

    Raises:
        Untrusted: there is no safe folder at all.
        OSError: there is no folder that can be written.
    """
    try:
        folder = cache_folder()
    except RuntimeError as error:
        return CacheFolder(private(os.getpid()), f"there is no place for the cache: {error}. {_ADVICE}")
    try:
        return CacheFolder(made(folder))
    except Untrusted as error:
        return CacheFolder(
            private(os.getpid()), f"the cache at {folder} is not safe to load code from: {error}. {_ADVICE}"
        )
    except OSError as error:
        return CacheFolder(private(os.getpid()), f"the cache at {folder} cannot be written: {error}. {_ADVICE}")


_ADVICE = (
    "Libraries are kept for this process only. Try: set VARIGRAD_CACHE to a folder that is yours and that no other "
    "user can write"
)


@functools.cache
def private(process: int) -> Path:
    """A temporary folder for one process, which is deleted when the process ends."""
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="varigrad-")))
    check_folder(folder)

    def clear() -> None:
        if os.getpid() == process:  # no fork of it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clear)
    return folder


def made(folder: Path) -> Path:
    """Create a folder where it is missing, for this user only; returns its path without symbolic links.

    Raises:
        Untrusted: another user can write it, or a folder above it, or a symbolic link in its path leads nowhere.
        OSError: it cannot be created or written.
    """
    for part in (folder, *folder.parents):
        if part.is_symlink() and not part.exists():  # what it names may be created by another user, or unmounted
            raise Untrusted(f"{part} is a symbolic link to nothing (create the folder, or delete the link)")
    folder = Path(os.path.realpath(folder))
    for part in (*reversed(folder.parents), folder):
        with contextlib.suppress(FileExistsError):
            part.mkdir(0o700)
    check_folder(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write {folder}")
    return folder


def check_folder(folder: Path) -> None:
    """Check that no user but this one and root can put something into a folder, or another folder in its place.

    Raises:
        Untrusted: another user can.
        OSError: the folder does not exist, or is no folder.
    """
    _check(folder, os.stat(folder, follow_symlinks=False), stat.S_ISDIR)
    for above in folder.parents:
        found = os.stat(above, follow_symlinks=False)
        if found.st_uid not in (os.geteuid(), 0):
            raise Untrusted(f"{above} belongs to another user")
        # In a folder with the sticky bit, others cannot rename what is not theirs.
        if found.st_mode & _OTHERS and not found.st_mode & stat.S_ISVTX:
            raise Untrusted(f"others can write {above} (chmod go-w, or +t)")


def _check(path: Path | str, found: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    if not is_kind(found.st_mode):
        raise Untrusted(f"{path} is another kind of file than it should be (a symbolic link?)")
    if found.st_uid != os.geteuid():
        raise Untrusted(f"{path} belongs to another user")
    if found.st_mode & _OTHERS:
        raise Untrusted(f"others can write {path} (chmod go-w)")


def loaded(entry: Path, load: Callable[[Path, dict[str, Any]], Loaded]) -> Loaded:
    """Load an entry's library by `load(library, report)`, which sees a checked copy of it.

    Raises:
        Untrusted: another user may have written it, or it is not what was recorded.
        OSError, ValueError, KeyError: it is not there, or damaged.
    """
    check_folder(entry.parent)
    inside = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        # From here on all is looked up in the open folder, which cannot be exchanged for another one.
        _check(entry, os.fstat(inside), stat.S_ISDIR)
        report = json.loads(_content(inside, REPORT, _LARGEST))
        name, sums = report["library"], dict(report["sha256"])
        if name not in sums:
            raise Untrusted(f"{entry} has no sha256 of its library")
        contents = {own: _content(inside, own) for own in sums}
    finally:
        os.close(inside)
    for own, content in contents.items():
        if hashlib.sha256(content).hexdigest() != sums[own]:
            raise Untrusted(f"{entry / own} is not what was recorded: it has been truncated or altered")
    copy = new_folder(entry.parent)
    try:
        for own, content in contents.items():
            (copy / own).write_bytes(content)
        return load(copy / name, report)
    finally:
        shutil.rmtree(copy, ignore_errors=True)  # what is loaded stays loaded


def _content(folder: int, name: str, most: int | None = None) -> bytes:
    """The content of a file in an open folder.

    Raises:
        Untrusted: another user may have written it, or it is no plain file of the folder.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Untrusted(f"{name!r} is no name of a file inside the folder")
    # Without O_NONBLOCK, opening a pipe would wait for someone to write into it.
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder), "rb") as file:
        _check(name, os.fstat(file.fileno()), stat.S_ISREG)
        return file.read() if most is None else file.read(most)


def new_folder(root: Path) -> Path:
    """Make a folder in the cache, named after this process, in which a library is built."""
    return Path(tempfile.mkdtemp(prefix=f"building-{socket.gethostname()}-{os.getpid()}-", dir=root))


def clear_away(root: Path) -> None:
    """Delete the folders of processes that were killed in the middle."""
    for folder in root.glob("building-*"):
        host, _, pid = folder.name.removeprefix("building-").rpartition("-")[0].rpartition("-")
        with contextlib.suppress(OSError, ValueError):  # another process was quicker; a name that is not ours
            ended = host == socket.gethostname() and not _is_running(int(pid))
            if ended or time.time() - folder.stat().st_mtime > DAY:
                shutil.rmtree(folder)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
