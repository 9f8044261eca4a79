"""Files that appear whole or not at all, and that know what they were made from.

Two ideas. :func:`whole_file` writes beside the target and renames, so an interrupt or a full disk never leaves half a
file under the final name. :func:`make` keeps a small JSON record beside each artifact (the inputs it was made from, its
size and its SHA-256), and makes the artifact again when any of them no longer holds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from helpers.errors import CourseError

__all__ = [
    "DiskSpaceError",
    "file_input",
    "is_current",
    "make",
    "recorded_inputs",
    "sha256_file",
    "whole_file",
    "write_bytes",
    "write_text",
]


class DiskSpaceError(CourseError):
    """The disk (or the user's quota) was full while a file was being written; the earlier file is untouched."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on a clean exit it is renamed to ``path``, otherwise removed.

    The temporary name keeps the suffix of ``path``, because several libraries choose a format by it.

    Raises:
        DiskSpaceError: the disk was full while writing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; an artifact gets the permissions any newly created file would have.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskSpaceError(
                f"no disk space left while writing {path}", "free some space and run the same command again"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


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


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".inputs.json")


def recorded_inputs(path: Path) -> dict[str, Any] | None:
    """The inputs recorded beside ``path``; None if there is no readable record."""
    try:
        record = json.loads(_record_path(Path(path)).read_text())
    except (OSError, ValueError):
        return None
    inputs = record.get("inputs") if isinstance(record, dict) else None
    return inputs if isinstance(inputs, dict) else None


def is_current(path: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether ``path`` is whole and was made from exactly ``inputs`` (compared as JSON)."""
    path = Path(path)
    try:
        record = json.loads(_record_path(path).read_text())
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
    waits on a lock file and finds it made. ``inputs`` must be JSON-serialisable and should name everything the result
    depends on (:func:`file_input` for files, versions of the libraries that made it, options).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if is_current(path, inputs):
            return path
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
