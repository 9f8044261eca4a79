"""Records of what was measured elsewhere: one writer for the scripts that make them, one reader for the pages.

A record is a JSON file in ``evidence/``. Every new one says what was measured, when, by which command, from which
commit (marked where files were changed), and on what machine; what else it holds is the script's own. Older records
lack some of that and are not touched: a record is never edited.
"""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers import artifacts, paths
from helpers.errors import CourseError

__all__ = ["EvidenceError", "commit", "head", "load", "save"]

_TEXT = {"type": "string", "minLength": 1}
#: What is asked of any record that is read.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["what"],
    "properties": {
        "what": _TEXT,
        "date": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d"},
        "recorded": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d"},
        "commit": {"type": ["string", "null"]},
        "command": _TEXT,
    },
    "anyOf": [{"required": ["date"]}, {"required": ["recorded"]}],
}
#: Where a file counts that git does not know: what is in these folders is run.
_RUN = ("helpers", "patches", "plugins", "scripts")
_HEAD = ("what", "date", "commit", "command", "machine")


class EvidenceError(CourseError):
    """A record is missing, damaged or empty; the message names the file and what is wrong with it."""


def commit(root: Path = paths.REPO_ROOT) -> str | None:
    """The commit of the repository's files, followed by " with changes" if tracked files differ from it, or files
    that are run are not in it; None where there is no git or no repository (a copy of the files).
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An enclosing repository's commit says nothing about this copy.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != Path(root).resolve():
            return None
        changed = git("status", "--porcelain", "--untracked-files=no") or git(
            "ls-files", "--others", "--exclude-standard", "--", *_RUN
        )
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _command() -> str:
    """The command that runs, with paths inside the repository written from its root, and of absolute paths elsewhere,
    which say nothing on another machine, the last part only."""

    def short(word: str) -> str:
        path = Path(word)
        if not path.is_absolute():
            return word
        inside = path.is_relative_to(paths.REPO_ROOT)
        return path.relative_to(paths.REPO_ROOT).as_posix() if inside else path.name

    script = Path(sys.argv[0]).resolve()
    return shlex.join(["python", *(short(word) for word in (str(script), *sys.argv[1:]))])


def head(what: str, machine: Mapping[str, Any] | None = None, *, of: str | None = None) -> dict[str, Any]:
    """The first entries of a new record: what, date (UTC), commit, command, machine.

    machine: what the script knows of it (GPU, versions), beside platform and Python. of: the commit, for a copy of the
    files without a repository; default what :func:`commit` says.
    """
    return {
        "what": what,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": of or commit(),
        "command": _command(),
        "machine": {"platform": platform.platform(), "python": platform.python_version(), **(machine or {})},
    }


def _check(record: object, schema: Mapping[str, Any], name: str) -> None:
    # Only who reads needs it: a lent machine, where records are made, has little more than PyTorch.
    import jsonschema

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(record))
    if error is not None:
        place = f" at {error.json_path}" if error.path else ""
        raise EvidenceError(
            f"the record {name} is not one{place}: {error.message[:200]}", "restore it, or make it again by its script"
        )


def save(path: Path, record: Mapping[str, Any]) -> Path:
    """Write a record that begins with :func:`head`, whole or not at all.

    Raises:
        EvidenceError: an entry of the head is missing.
    """
    if missing := [name for name in _HEAD if name not in record]:
        raise EvidenceError(f"the record {Path(path).name} has no {missing[0]!r}", "begin it with evidence.head")
    artifacts.write_text(Path(path), json.dumps(record, indent=1) + "\n")
    return Path(path)


def load(name: str | Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """A record by its name in ``evidence/`` (``"cuda_plugins_h200"``) or by path. needed: entries that must not be
    empty, those that the caller draws conclusions from: nothing is true of every row of no rows.

    Raises:
        EvidenceError: there is none, it is no JSON, not a record, or one of those entries is missing or empty.
    """
    path = Path(name) if Path(name).suffix else paths.EVIDENCE / f"{name}.json"
    try:
        record = artifacts.read_json(path)
    except (OSError, ValueError) as error:
        raise EvidenceError(
            f"the record {path.name} cannot be read ({error})", "restore it, or make it again by its script"
        ) from error
    filled = {"type": ["array", "object"], "minItems": 1, "minProperties": 1}
    _check(record, SCHEMA, path.name)
    _check(record, {"required": list(needed), "properties": dict.fromkeys(needed, filled)}, path.name)
    assert isinstance(record, dict)
    return record
