from __future__ import annotations

import pytest

from helpers.exercises import WrongAnswerError, check


def test_an_unanswered_exercise_does_not_stop_the_run(capsys):
    assert check(..., lambda _: 1 / 0, "hint") is False
    assert "Not answered yet" in capsys.readouterr().out


def test_a_right_answer(capsys):
    assert check(4, lambda value: value == 4, "hint") is True
    assert "Right." in capsys.readouterr().out


def test_a_wrong_answer_shows_the_hint():
    with pytest.raises(WrongAnswerError, match="count the levels"):
        check(3, lambda value: value == 4, "count the levels")


def test_an_answer_of_the_wrong_kind_shows_the_hint_and_why():
    with pytest.raises(WrongAnswerError, match="count the levels .*TypeError"):
        check("3", lambda value: value + 1 == 4, "count the levels")


def test_false_is_an_answer():
    with pytest.raises(WrongAnswerError):
        check(False, lambda value: value, "hint")
