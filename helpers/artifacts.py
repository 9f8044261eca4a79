"""Files that appear whole or not at all, and that know what they were made from.

Two ideas. :func:`whole_file` (and :func:`whole_folder`) writes beside the target and renames, so an interrupt or a full
disk never leaves half a file under the final name; what a killed process leaves under another name,
:func:`remove_stale` finds. :func:`make` keeps a small JSON record beside each artifact (the inputs it was made from,
its size and its SHA-256), and makes the artifact again when any of them no longer holds.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from helpers.errors import CourseError
from helpers.paths import FolderError, make_folder, unwritable

__all__ = [
    "DiskSpaceError",
    "file_input",
    "is_current",
    "lock",
    "make",
    "module_sources",
    "read_json",
    "read_regular",
    "recorded_inputs",
    "remove_stale",
    "scratch_file",
    "sha256_file",
    "whole_file",
    "whole_folder",
    "write_bytes",
    "write_text",
]


class DiskSpaceError(CourseError):
    """The disk (or the user's quota) was full while a file was being written; the earlier file is untouched."""


#: How the names of files begin that are there for a moment only.
SCRATCH = ".course-part-"


@contextlib.contextmanager
def scratch_file(path: Path) -> Iterator[Path]:
    """Yield the path of an empty file beside ``path``, with its suffix, because several libraries choose a format by
    it. It is removed at the end; if the process is killed before, :func:`remove_stale` does.

    Raises:
        helpers.paths.FolderError: the folder cannot be made or written in.
        DiskSpaceError: the disk is full.
    """
    path = Path(path)
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(prefix=f"{SCRATCH}{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _full(path) if _is_full(error) else unwritable(path.parent, error) from error
    temporary = Path(name)
    try:
        # The system lets go of it however the process ends: a scratch file without the lock is nobody's.
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def remove_stale(folder: Path, *, below: bool = True) -> list[Path]:
    """Remove the scratch files and folders that a killed process left in ``folder`` and, unless ``below`` is False, in
    the folders in it; those in use stay. Returns their paths.
    """
    removed = []
    for path in sorted(Path(folder).glob(f"{'**/' if below else ''}{SCRATCH}*")):
        # Another user's file, one that went a moment ago, one in use, a link: not ours to remove.
        with contextlib.suppress(OSError):
            is_folder = path.is_dir()
            handle = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_folder:
                    shutil.rmtree(path)
                else:
                    path.unlink()
                removed.append(path)
            finally:
                os.close(handle)
    return removed


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (:func:`scratch_file`); on a clean exit it is renamed to ``path``,
    otherwise removed.

    Raises:
        helpers.paths.FolderError: the folder cannot be made or written in.
        DiskSpaceError: the disk was full while writing.
    """
    path = Path(path)
    with scratch_file(path) as temporary:
        try:
            yield temporary
            # Scratch files are private; an artifact gets the permissions any newly created file would have.
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            temporary.replace(path)
        except OSError as error:
            if _is_full(error):
                raise _full(path) from error
            raise


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path``; on a clean exit it takes the place of ``path``, and of what was there,
    otherwise it is removed. :func:`remove_stale` knows it too.

    Raises:
        helpers.paths.FolderError: the folder around it cannot be made or written in.
        DiskSpaceError: the disk was full while writing.
    """
    path = Path(path)
    make_folder(path.parent)
    try:
        outer = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{path.name}-", dir=path.parent))
    except OSError as error:
        raise _full(path) if _is_full(error) else unwritable(path.parent, error) from error
    handle = os.open(outer, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Inside, so that the folder itself gets the permissions that any new folder has.
        (outer / "new").mkdir()
        yield outer / "new"
        if path.exists():
            path.replace(outer / "old")
        (outer / "new").replace(path)
    except OSError as error:
        if _is_full(error):
            raise _full(path) from error
        raise
    finally:
        shutil.rmtree(outer, ignore_errors=True)
        os.close(handle)


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _full(path: Path) -> DiskSpaceError:
    return DiskSpaceError(f"no disk space left while writing {path}", "free some space and run the same command again")


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, which is made and left behind empty; waits for whoever holds it. A symbolic link is
    not followed: another file could be reached through it.

    Raises:
        helpers.paths.FolderError: the file cannot be made or opened.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FolderError(f"the lock file {path} is a symbolic link", "delete it") from error
        raise unwritable(Path(path).parent, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_regular(path: Path) -> bytes:
    """The content of a regular file. A pipe or a device, which could keep a reader waiting for ever, is an OSError."""
    # Asked once it is open: what the path names may change. To open a pipe waits too, without O_NONBLOCK.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return stream.read()


def read_json(path: Path) -> Any:
    """The value in a JSON file, which is to be checked: it may be of any kind.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is not JSON in UTF-8, or is nested too deeply.
    """
    try:
        return json.loads(read_regular(path).decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all. Raises :class:`DiskSpaceError`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all. Raises :class:`DiskSpaceError`."""
    write_bytes(path, text.encode())


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in lower-case hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_input(path: Path) -> str:
    """A file as a recorded input: its content counts, its name and date do not."""
    return f"sha256:{sha256_file(path)}"


# What an error, a patch, a path or an artifact is does not change what is computed.
_WITHOUT_EFFECT = ("helpers.artifacts", "helpers.errors", "helpers.paths", "patches._base")


def module_sources(name: str) -> dict[str, str]:
    """A module of this project and those of the project that it imports, at any depth and anywhere in them, each as
    :func:`file_input` has it, by module name."""
    found: dict[str, str] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in found or module in _WITHOUT_EFFECT or module.split(".")[0] not in ("helpers", "patches"):
            continue
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # a name in a module, not a module
            continue
        if spec is None or spec.origin is None:
            continue
        found[module] = file_input(Path(spec.origin))
        for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                source = importlib.util.resolve_name("." * node.level + (node.module or ""), spec.parent)
                waiting += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return found


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".inputs.json")


def recorded_inputs(path: Path) -> dict[str, Any] | None:
    """The inputs recorded beside ``path``; None if there is no readable record."""
    try:
        record = read_json(_record_path(Path(path)))
    except (OSError, ValueError):
        return None
    inputs = record.get("inputs") if isinstance(record, dict) else None
    return inputs if isinstance(inputs, dict) else None


def is_current(path: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether ``path`` is whole and was made from exactly ``inputs`` (compared as JSON)."""
    path = Path(path)
    try:
        record = read_json(_record_path(path))
        return bool(
            record["inputs"] == json.loads(json.dumps(inputs))
            and path.stat().st_size == record["bytes"]
            and sha256_file(path) == record["sha256"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def make(
    path: Path, inputs: Mapping[str, Any], builder: Callable[[Path], None], *, announce: Callable[[str], None] = print
) -> Path:
    """Return ``path``, building it first unless it :func:`is_current`.

    ``builder`` gets a temporary path to write to. Two processes that want the same artifact build it once: the second
    waits on a lock file and finds it made. What killed processes left in the folder goes first (:func:`remove_stale`).
    ``inputs`` must be JSON-serialisable and should name everything the result depends on (:func:`file_input` for files,
    versions of the libraries that made it, options).
    """
    path = Path(path)
    make_folder(path.parent)
    with lock(path.with_name(f".{path.name}.lock")):
        if is_current(path, inputs):
            return path
        remove_stale(path.parent, below=False)
        announce(f"making {path.name} ...")
        with whole_file(path) as temporary:
            builder(temporary)
            record = {
                "inputs": dict(inputs),
                "bytes": temporary.stat().st_size,
                "sha256": sha256_file(temporary),
            }
        # Written second: a crash between the two leaves a record that does not match, hence a rebuild, never a lie.
        write_text(_record_path(path), json.dumps(record, indent=1, sort_keys=True))
    return path
