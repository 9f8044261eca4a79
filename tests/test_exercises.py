"""Exercises: answers, hints, and what is remembered. The answers of all chapters run with the notebooks."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
from types import SimpleNamespace

import nbformat
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from helpers import exercises, paths
from helpers.exercises import UnknownExerciseError, WrongAnswerError, check, hint, solved

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(autouse=True)
def own_build(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))


def test_an_unanswered_exercise_does_not_stop_the_run(capsys):
    assert check("04/1", ...) is None
    assert "Not answered yet" in capsys.readouterr().out
    assert solved() == ()


def test_a_right_answer_is_remembered_and_the_courses_own_is_not(capsys):
    check("04/1", 800, is_solution=True)
    assert solved() == ()
    check("04/1", 800.5)
    check("05/1", 40)
    check("04/1", 800)
    assert solved() == ("04/1", "05/1")
    assert capsys.readouterr().out.count("Right.") == 4


def test_a_damaged_record_counts_as_none(tmp_path):
    for text in ("", "{", "[1, null]", '{"04/1": 1}', "\x00"):
        (tmp_path / "exercises.json").write_text(text)
        assert solved() == ()
    check("04/1", 800)
    assert json.loads((tmp_path / "exercises.json").read_text()) == ["04/1"]


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("04/1", 600, "clipped"),
        ("04/1", 1217, "less will do"),
        ("04/1", "far", "type str"),
        ("04/1", None, "type NoneType"),
        ("05/2", -1, "edge of the row"),
        ("05/2", 0, "that point reads"),
        ("06/1", [40, 30], "y\\["),
        ("06/2", 389, "Pictures x masks"),
        ("07/1", 53, "from 0 to 53"),
        ("00/1", ValueError("x"), "loader's own"),
        ("06/3", 3, "torch.nn.Module"),
    ],
)
def test_a_wrong_answer_is_told_why(name, answer, words):
    with pytest.raises(WrongAnswerError, match=words):
        check(name, answer)
    assert solved() == ()


OF_NO_USE = (
    st.none()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.sampled_from([b"", object(), object, NotImplemented, 1j, float("nan"), float("-inf"), 10**400, len, check])
    | st.sampled_from(
        [lambda: 1, lambda *_: None, lambda *_: "x", lambda *_: 1 / 0, np.array(0.125), np.array([54, 54])]
    )
    | st.sampled_from(
        [np.zeros(0), np.zeros((2, 3)), np.array(["a", None]), ValueError("two\nlines"), onnx.ModelProto()]
    )
    | st.lists(st.none() | st.text(max_size=2) | st.integers(), max_size=3)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)
    | st.sets(st.text(max_size=2), max_size=2)
)
ONE = SimpleNamespace(name="the only part", output_shapes=[(1, 2)])
WALKED = SimpleNamespace(calls=[ONE], found=SimpleNamespace(boxes=np.ones((1, 4))), proposals=np.ones((1, 5)))
GIVEN = {
    "01/1": {"walked": WALKED},
    "01/3": {"walked": WALKED, "nearest": np.zeros(1, int)},
    "02/1": {"first": SimpleNamespace(above=lambda score: [1] * 30 if score < 1 else [])},
    "03/1": {"graph": onnx.ModelProto()},
    "04/2": {"correct": onnx.ModelProto()},
    "07/3": {"plain": onnx.ModelProto(), "plan": None, "picture": None},
    "08/1": {"counts": {"backbone": 8, "box head": 2}},
    "08/2": {"folder": "a bundle"},
}
NO_MORE = ["00/1", "01/2", "02/2", "03/2", "04/1", "05/1", "05/2", "05/3", "06/1", "06/2", "06/3", "07/1", "07/2"]


@pytest.mark.parametrize("name", [*GIVEN, *NO_MORE, "09/1", "09/2"])
def test_an_answer_of_any_type_is_answered_in_one_line(name):
    @settings(max_examples=40, database=None)
    @given(answer=OF_NO_USE)
    def test(answer):
        with pytest.raises(WrongAnswerError) as raised:
            check(name, answer, **GIVEN.get(name, {}))
        assert str(raised.value).strip()
        assert len(str(raised.value).splitlines()) == 1
        assert raised.value.__suppress_context__ or raised.value.__context__ is None

    test()


def test_a_notebook_shows_a_wrong_answer_as_one_line_without_the_courses_code():
    shell = InteractiveShell()
    shell.run_cell("from helpers.exercises import check")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        shell.run_cell("check('07/1', 53)")
    assert said.getvalue().strip() == (
        "WrongAnswerError: 53 is the number of the last class; how many classes are there from 0 to 53?"
    )


RIGHT = [("05/2", -0.9643), ("06/2", 3112.96), ("06/2", 2968.75), ("06/1", (30, 40, 19.5, 39.5))]


@pytest.mark.parametrize(("name", "answer"), RIGHT)
def test_other_right_spellings(name, answer):
    check(name, answer)


def model(text):
    head = '<ir_version: 8, opset_import: ["" : 16]> g (float[2] x) => (float[2] y)'
    made = onnx.parser.parse_model(f"{head} {{ {text} }}")
    for node in made.graph.node:
        node.name = node.output[0]
    return made


def test_the_overflow_exercise_takes_no_sub_and_no_nameless_node():
    right = "z = Constant <value = float {0}> () s = Mul (x, x) y = Mul (s, z)"
    check("07/2", model(right))
    with pytest.raises(WrongAnswerError, match="a Sub"):
        check("07/2", model("s = Mul (x, x) y = Sub (s, s)"))
    nameless = model(right)
    nameless.graph.node[1].name = ""
    with pytest.raises(WrongAnswerError, match="no name"):
        check("07/2", nameless)
    with pytest.raises(WrongAnswerError, match="no NaN"):
        check("07/2", model("y = Add (x, x)"))


def test_the_frozen_batch_exercise():
    import torch

    class Whole(torch.nn.Module):
        def forward(self, x):
            return x * 2

    class Reshaped(torch.nn.Module):
        def forward(self, x):
            return x.reshape(int(x.shape[0]), -1)

    with pytest.raises(WrongAnswerError, match="right for the batches"):
        check("06/3", Whole())
    with pytest.raises(WrongAnswerError, match="the check finds it"):
        check("06/3", Reshaped())


def test_level_and_pooling_functions_are_checked_on_random_boxes():
    with pytest.raises(WrongAnswerError, match="another level"):
        check("01/2", lambda boxes: np.zeros(len(boxes), int))
    with pytest.raises(WrongAnswerError, match="array of"):
        check("05/3", lambda feature, box, bins: np.zeros((1, 1)))
    with pytest.raises(WrongAnswerError, match="largest difference"):
        check("05/3", lambda feature, box, bins: np.zeros((bins, bins)))


def test_the_exercises_on_deployment(tmp_path):
    counts = {"backbone": 50, "neck": 20, "RPN's convolutions": 10, "box head": 15, "mask head": 5}
    check("08/1", 3.4, counts=counts)
    with pytest.raises(WrongAnswerError, match="whatever the picture's size"):
        check("08/1", 4, counts=counts)
    folders = [tmp_path / name for name in ("made", "copy")]
    for folder in folders:
        folder.mkdir()
        about = json.dumps({"thresholds": {"mask": 0.5 if folder.name == "made" else 0.9}})
        (folder / "bundle.json").write_text(about)
        (folder / "client.py").touch()
        (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(about.encode()).hexdigest()}  bundle.json\n")
    made, copy = folders
    check("08/2", copy, folder=made)
    with pytest.raises(WrongAnswerError, match="make a copy"):
        check("08/2", made, folder=made)
    (copy / "bundle.json").write_text('{"thresholds": {"mask": 0.5}}')
    with pytest.raises(WrongAnswerError, match="the client says: bundle.json has changed"):
        check("08/2", copy, folder=made)


def test_hints_come_in_two_steps(capsys):
    hint("04/1")
    first = capsys.readouterr().out
    hint("04/1", 2)
    second = capsys.readouterr().out
    assert "clipped" in first
    assert "shorter side" in second
    assert "shorter side" not in first
    with pytest.raises(UnknownExerciseError, match="no hint number 3"):
        hint("04/1", 3)
    with pytest.raises(UnknownExerciseError, match="no exercise '99/9'"):
        check("99/9", 1)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_gives_an_answer_away(path):
    """An exercise cell holds the dots and one call of check with names only, no comparison and no number."""
    number = path.name[:2]
    for cell in nbformat.read(path, as_version=4).cells:
        if "exercise" not in cell.metadata.get("tags", []):
            continue
        calls = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
        (called,) = [node for node in calls if getattr(node.func, "id", "") == "check"]
        assert called.args[0].value.startswith(f"{number}/")
        assert exercises._find(called.args[0].value)
        assert not any(isinstance(node, (ast.Compare, ast.Lambda)) for node in ast.walk(ast.parse(cell.source)))
