"""Turns: several at a time, or one alone."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.alone import Turn, Turns


class Watched:
    """Workers that note whom they meet."""

    def __init__(self):
        self.turns = Turns()
        self.here = set()
        self.met = []
        self.guard = threading.Lock()

    def work(self, name, plan):
        with Turn(self.turns) as turn:
            for alone in plan:
                turn.go_on(alone=alone)
                with self.guard:
                    self.here.add(name)
                    self.met.append((alone, len(self.here)))
                time.sleep(0.001)
                with self.guard:
                    self.met.append((alone, len(self.here)))
                    self.here.remove(name)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=6), min_size=1, max_size=5))
def test_one_who_is_alone_meets_nobody_and_all_come_to_an_end(plans):
    watched = Watched()
    threads = [
        threading.Thread(target=watched.work, args=(number, plan), daemon=True) for number, plan in enumerate(plans)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert all(met == 1 for alone, met in watched.met if alone)
    assert len(watched.met) == 2 * sum(map(len, plans))


def test_two_work_at_a_time():
    turns = Turns()
    both = threading.Barrier(2, timeout=20)

    def work():
        with Turn(turns):
            both.wait()

    other = threading.Thread(target=work, daemon=True)
    other.start()
    work()
    other.join(20)


def test_who_waits_to_be_alone_is_not_overtaken():
    turns, order = Turns(), []

    def alone():
        turns.begin(alone=True)
        order.append("alone")
        turns.end()

    turns.begin(alone=False)
    waiting = threading.Thread(target=alone, daemon=True)
    waiting.start()
    time.sleep(0.05)
    assert turns._wanting_alone == 1
    late = threading.Thread(target=lambda: (turns.begin(alone=False), order.append("late"), turns.end()), daemon=True)
    late.start()
    time.sleep(0.05)
    assert order == []
    turns.end()
    for thread in (waiting, late):
        thread.join(20)
    assert order == ["alone", "late"]


def test_a_turn_ends_with_an_error():
    turns = Turns()
    with pytest.raises(ValueError, match="the reason"), Turn(turns) as turn:
        turn.go_on(alone=True)
        raise ValueError("the reason")
    with Turn(turns):
        assert turns._working == 1
