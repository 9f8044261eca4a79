"""Exercises: answers checked without being shown, hints in two steps, and what this learner has solved.

A notebook's exercise cell holds ``answer = ...`` (Ellipsis) until it is filled in, and asks ``check("04/1", answer)``.
What is right stands in another file, ``notebooks/answers.py``, one function an exercise, so that the cell gives nothing
away. An unanswered exercise must not stop a headless run; a wrong answer must be seen.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from helpers import artifacts, paths
from helpers.errors import CourseError

__all__ = [
    "Exercise",
    "UnknownExerciseError",
    "WrongAnswerError",
    "check",
    "exercise",
    "hint",
    "progress",
    "progress_script",
    "solved",
]

#: What a checker returns: True, or False, or a sentence that says why the answer is not right.
Verdict = bool | str


class UnknownExerciseError(CourseError):
    """There is no exercise of that name, or it has no such hint."""


class WrongAnswerError(AssertionError):
    """The answer was given and is not right; the message, one line, says why, or where to look."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in the place of a traceback, which would lead into the course's code."""
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True)
class Exercise:
    """verdict: called with the answer and what the cell hands over beside it. hints: a nudge, then almost the way."""

    name: str
    verdict: Callable[..., Verdict]
    hints: tuple[str, str]


def exercise(name: str, *hints: str) -> Callable[[Callable[..., Verdict]], Exercise]:
    """Turn a function into the :class:`Exercise` of that name; there must be two hints."""
    first, second = hints
    return lambda verdict: Exercise(name, verdict, (first, second))


@functools.cache
def _answers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("course_answers", paths.NOTEBOOKS / "answers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _find(name: str) -> Exercise:
    every = {found.name: found for found in vars(_answers()).values() if isinstance(found, Exercise)}
    if name not in every:
        raise UnknownExerciseError(f"there is no exercise {name!r}", f"use one of: {', '.join(sorted(every))}")
    return every[name]


def check(name: str, answer: Any, *, is_solution: bool = False, **given: Any) -> None:
    """Check one answer and say so; an answer that is right is remembered as solved by this learner.

    answer: what the student wrote; ``...`` means not answered. given: what the checker needs from the notebook, by
    name. is_solution: the course's own answer, which is checked and not remembered.

    Raises:
        WrongAnswerError: the answer is given and wrong, of whatever type.
        UnknownExerciseError: no such exercise.
    """
    asked = _find(name)
    if answer is ...:
        print(f"Not answered yet: replace the dots and run this cell again, or ask hint({name!r}).")
        return
    try:
        verdict = asked.verdict(answer, **given)
        # A sentence says what is wrong; anything else counts as numpy's booleans do.
        reason = verdict if isinstance(verdict, str) else "" if verdict else asked.hints[0]
    except Exception as error:
        reason = f"an answer of type {type(answer).__name__} cannot be checked here ({error}); {asked.hints[0]}"
    if reason:
        raise WrongAnswerError(" ".join(reason.split()))
    if not is_solution:
        _remember(name)
    print("Right.")


def hint(name: str, step: int = 1) -> None:
    """Print the first or the second hint of an exercise. Raises :class:`UnknownExerciseError`."""
    hints = _find(name).hints
    if step not in (1, 2):
        raise UnknownExerciseError(f"exercise {name} has no hint number {step!r}", "ask for 1 or 2")
    print(hints[step - 1])
    if step == 1:
        print(f"(One more: hint({name!r}, 2). The cell after this one has the solution, folded.)")


def _solved_file() -> Path:
    return paths.build_root() / "exercises.json"


def solved() -> tuple[str, ...]:
    """The exercises that were answered right on this machine, in order; a damaged record counts as none."""
    try:
        names = artifacts.read_json(_solved_file())
    except (OSError, ValueError):
        return ()
    return tuple(sorted(name for name in names if isinstance(name, str))) if isinstance(names, list) else ()


def progress() -> dict[str, str]:
    """How many exercises of each chapter were answered right on this machine: ``{"00": "1 of 2", ...}``."""
    # Read and not imported: the index of the site is written where the packages of the answers may be broken.
    text = (paths.NOTEBOOKS / "answers.py").read_text(encoding="utf-8")
    every = re.findall(r'^@exercise\(\s*"(\d\d)/(\d+)"', text, re.MULTILINE)
    right = [chapter for chapter, number in every if f"{chapter}/{number}" in solved()]
    chapters = [chapter for chapter, _ in every]
    return {chapter: f"{right.count(chapter)} of {chapters.count(chapter)}" for chapter in sorted(set(chapters))}


def progress_script() -> str:
    """JavaScript that writes :func:`progress` into a page's elements with ``data-exercises`` (the chapter's number)."""
    return (
        f"const solved = {json.dumps(progress())};\n"
        "for (const one of document.querySelectorAll('[data-exercises]'))"
        " one.textContent = solved[one.dataset.exercises] ?? '';\n"
    )


def _remember(name: str) -> None:
    if name not in (known := solved()):
        artifacts.write_text(_solved_file(), json.dumps(sorted({*known, name})))
    # The index of the site, if it is there, shows it from now on: a page at a file's address may read scripts only.
    if (site := paths.build_root() / "site").is_dir():
        artifacts.write_text(site / "solved.js", progress_script())
