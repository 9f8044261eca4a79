"""Who may work now: several at a time, or one alone, so that what it measures is not what the others take from it.

A lock for readers and writers, then; that of the library fasteners lets readers overtake a writer who waits, and with
two chapters at a time there is always a reader.
"""

from __future__ import annotations

import threading

__all__ = ["Turn", "Turns"]


class Turns:
    """Turns for workers that come to a point where they can wait, now and then: between two cells, say."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._working = 0
        self._wanting_alone = 0
        self._alone = False

    def _may_begin(self, alone: bool) -> bool:
        if alone:
            return self._working == 0
        return not self._alone and not self._wanting_alone  # else there would always be somebody at work

    def begin(self, *, alone: bool) -> None:
        """Wait for a turn. Whoever waits to be alone goes first."""
        with self._changed:
            self._wanting_alone += alone
            try:
                self._changed.wait_for(lambda: self._may_begin(alone))
            finally:
                self._wanting_alone -= alone
            self._working += 1
            self._alone = alone

    def end(self) -> None:
        with self._changed:
            self._working -= 1
            self._alone = False
            self._changed.notify_all()


class Turn:
    """One worker's turn, from ``with`` on; not alone at first. Not for use by several threads."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._alone = False

    def __enter__(self) -> Turn:
        self._turns.begin(alone=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._turns.end()

    def go_on(self, *, alone: bool) -> None:
        """Let others have their turn and wait for the next; one who is alone, and is to be it further, does not."""
        if alone and self._alone:
            return
        self._turns.end()
        self._turns.begin(alone=alone)
        self._alone = alone
