"""The base of every error that the course raises on purpose.

Each module defines its own subclasses beside the functions that raise them, so that a reader meets an error
where it can happen. All of them say two things in one sentence: what is wrong, and what to do next.
"""

from __future__ import annotations


def first_line(error: BaseException | None) -> str:
    """What an exception says, in one line; of which type it is, if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class CourseError(Exception):
    """Something the user can put right.

    ``problem`` names the thing that is wrong; ``next_step`` is an instruction. Both are phrases without a final
    full stop; the message joins them into one sentence.
    """

    def __init__(self, problem: str, next_step: str) -> None:
        self.problem = problem
        self.next_step = next_step
        super().__init__(f"{problem}: {next_step}.")

    def __reduce__(self) -> tuple[type[CourseError], tuple[str, str]]:
        # Exception's own pickling would call the class with the joined message alone; worker processes need this.
        return type(self), (self.problem, self.next_step)
