"""What became of a run of the course, for CI systems: a record of its chapters, and the same as JUnit XML."""

from __future__ import annotations

import importlib.metadata
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args
from xml.etree import ElementTree

from helpers import artifacts, evidence, paths

__all__ = ["SCHEMA", "RunReport", "junit"]

State = Literal["running", "ran", "failed", "interrupted", "did not begin"]


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": [*properties], "properties": properties}


_TEXT, _WORDS, _AMOUNT = {"type": "string"}, {"type": ["string", "null"]}, {"type": "number", "minimum": 0}
_NUMBER = {"type": "integer", "minimum": 1}
_CHAPTER = _object(
    chapter=_TEXT,
    state={"enum": ["not run", "ran", "failed"]},
    seconds=_AMOUNT,
    peak_memory_mib={"type": ["number", "null"]},
    failing_cell={"anyOf": [{"type": "null"}, _object(number=_NUMBER, begins=_TEXT)]},
    error=_WORDS,
    skipped={"type": "array", "items": _object(number=_NUMBER, begins=_TEXT, why=_TEXT)},
    notebook=_WORDS,
)
#: Of run.json. ``number`` counts a notebook's code cells from 1, ``begins`` is the first line of one. peak_memory_mib
#: is that of the kernel's process, without what it started; null where the system does not say. notebook: the file, in
#: the record's folder, of a chapter that failed, with what its cells had shown.
SCHEMA: dict[str, Any] = _object(
    what=_TEXT,
    date=_TEXT,
    commit=_WORDS,
    command=_TEXT,
    machine=_object(platform=_TEXT, python=_TEXT, versions={"type": "object", "additionalProperties": _TEXT}),
    state={"enum": [*get_args(State)]},
    error=_WORDS,
    seconds=_AMOUNT,
    chapters={"type": "array", "items": _CHAPTER},
)


class RunReport:
    """``run.json`` (:data:`SCHEMA`) and ``junit.xml`` in a folder, true at any moment: while the run goes on its state
    is "running", and a chapter that has not ended is "not run". So they are true whatever ends the process. The next
    run with the same folder writes over them.
    """

    def __init__(self, folder: Path) -> None:
        """Raises:
        helpers.paths.FolderError: nothing can be written in the folder.
        helpers.artifacts.DiskSpaceError: the disk is full; the other functions raise it too.
        """
        self.folder = paths.make_folder(folder)
        self._lock, self._began = threading.Lock(), time.monotonic()
        versions = {one.name: one.version for one in importlib.metadata.distributions()}
        head = evidence.head("a headless run of the course", {"versions": dict(sorted(versions.items()))})
        self._record = {**head, "state": "running", "error": None, "seconds": 0.0, "chapters": []}
        self._write()

    def begin(self, chapters: Sequence[str], machine: Mapping[str, Any]) -> None:
        """chapters: the names of those that are to run, in order. machine: what the caller knows of it."""
        nothing = dict.fromkeys(("peak_memory_mib", "failing_cell", "error", "notebook"))
        for name in chapters:
            self.notebook(name).unlink(missing_ok=True)  # of an earlier run
            entry: dict[str, Any] = {"chapter": name, "state": "not run", "seconds": 0.0, "skipped": [], **nothing}
            self._record["chapters"].append(entry)
        self._record["machine"] |= machine
        self._write()

    def notebook(self, chapter: str) -> Path:
        """Where the notebook of a chapter is to be kept if it fails."""
        return self.folder / f"{chapter}.failed.ipynb"

    def chapter(self, name: str, **known: Any) -> None:
        """Say what became of one chapter, in the schema's words. Threads may call it at once."""
        with self._lock:
            next(one for one in self._record["chapters"] if one["chapter"] == name).update(known)
            self._write()

    def end(self, state: State, error: str | None = None) -> None:
        """Say how the whole run ended."""
        with self._lock:
            self._record |= {"state": state, "error": error}
            self._write()

    def _write(self) -> None:
        self._record["seconds"] = round(time.monotonic() - self._began, 3)
        evidence.save(self.folder / "run.json", self._record)
        artifacts.write_bytes(self.folder / "junit.xml", junit(self._record))


_KINDS = {"failed": "failure", "not run": "skipped"}


def junit(record: Mapping[str, Any]) -> bytes:
    """A record of that schema as JUnit XML: a test case for each chapter, and one with an error where the run did not
    come to its end, because a list of skipped ones would pass.
    """
    cases = [
        (one["chapter"], one["seconds"], _KINDS.get(one["state"]), one["error"] or one["state"], one["skipped"])
        for one in record["chapters"]
    ]
    if record["state"] not in ("ran", "failed"):
        cases.append(("the whole run", record["seconds"], "error", record["error"] or "it did not end", []))
    kinds = [kind for _, _, kind, _, _ in cases]
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    numbers = {"tests": str(len(cases)), **{name: str(kinds.count(kind)) for name, kind in counts.items()}}
    suite = ElementTree.Element("testsuite", {"name": "course", "time": f"{record['seconds']:.3f}", **numbers})
    for name, seconds, kind, words, skipped in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="course", name=name, time=f"{seconds:.3f}")
        if kind:
            said = _allowed(words).strip()
            ElementTree.SubElement(case, kind, message=said.splitlines()[-1] if said else kind).text = said
        if skipped:
            lines = [f"code cell {one['number']} was skipped ({one['why']}): {one['begins']}" for one in skipped]
            ElementTree.SubElement(case, "system-out").text = _allowed("\n".join(lines))
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def _allowed(text: str) -> str:
    """Without the characters that XML cannot hold, which ElementTree writes all the same."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
