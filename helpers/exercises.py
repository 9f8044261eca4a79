"""Checking answers to exercises, with three outcomes: right, wrong, and not answered yet.

A student's cell holds ``answer = ...`` (Ellipsis) until it is filled in. An unanswered exercise must not stop a
headless run; a wrong answer must be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["WrongAnswerError", "check"]


class WrongAnswerError(AssertionError):
    """The answer was given and is not right; the message is the exercise's hint."""


def check(answer: Any, is_right: Callable[[Any], bool], hint: str) -> bool:
    """Check one answer; returns True if it is right, False if it has not been given.

    answer: what the student wrote; ``...`` means not answered. is_right: says whether the answer holds; an exception in
    it counts as "not right" and is shown. hint: what to look at again.

    Raises:
        WrongAnswerError: the answer is given and wrong.
    """
    if answer is ...:
        print("Not answered yet: replace the dots and run this cell again.")
        return False
    try:
        right = bool(is_right(answer))
    except Exception as error:
        raise WrongAnswerError(f"{hint} (checking your answer raised {type(error).__name__}: {error})") from error
    if not right:
        raise WrongAnswerError(hint)
    print("Right.")
    return True
