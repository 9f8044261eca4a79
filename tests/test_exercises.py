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
import torch
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
    check("07/1", 54)
    check("04/1", 800)
    assert solved() == ("04/1", "07/1")
    assert capsys.readouterr().out.count("Right.") == 4


def test_progress_counts_the_exercises_of_each_chapter(tmp_path):
    assert {chapter: words.split(" of ")[1] for chapter, words in exercises.progress().items()} == {
        path.name[:2]: str(sum(name.startswith(path.name[:2]) for name in EVERY)) for path in NOTEBOOKS
    }
    check("04/1", 800)
    check("07/1", 54)
    assert [words for words in exercises.progress().values() if not words.startswith("0 of")] == ["1 of 2", "1 of 3"]
    assert not (tmp_path / "site").exists()
    (tmp_path / "site").mkdir()
    check("07/1", 54)
    assert '"07": "1 of 3"' in (tmp_path / "site" / "solved.js").read_text()


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
        ("02/3", len, "torch.nn.Module"),
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
    | st.sampled_from([-7, np.float32(-7), True, {}])
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
BOXES = SimpleNamespace(boxes=np.ones((1, 4)), labels=np.zeros(1, int))
ONE = SimpleNamespace(name="the only part", output_shapes=[(1, 2)])
WALKED = SimpleNamespace(calls=[ONE], found=BOXES, proposals=np.ones((1, 5)))
GIVEN = {
    "01/1": {"walked": WALKED},
    "01/3": {"walked": WALKED, "detector": None, "prepared": None},
    "02/1": {"first": SimpleNamespace(above=lambda score: [1] * 30 if score < 1 else [])},
    "03/1": {"graph": onnx.ModelProto()},
    "04/2": {"correct": onnx.ModelProto()},
    "05/1": {"standard": onnx.ModelProto(), "mmcv_flavour": onnx.ModelProto()},
    "07/3": {"plain": onnx.ModelProto(), "plan": None, "picture": None},
    "08/1": {"counts": {"backbone": 8, "box head": 2}},
    "08/2": {"folder": "a bundle"},
}
EVERY = {found.name: found for found in vars(exercises._answers()).values() if isinstance(found, exercises.Exercise)}


@pytest.mark.parametrize("name", sorted(EVERY))
def test_an_answer_of_any_type_is_answered_in_one_line(name, monkeypatch):
    monkeypatch.setattr("helpers.detector.models.load_detector", lambda: torch.nn.Linear(2000, 2000))

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


AREA = "a = Mul (w, h) s = Sqrt (a)"
SAFE = "r = Sqrt (w) t = Sqrt (h) s = Mul (r, t)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SAFE, None),
        (AREA, "'s' is still infinite|'a' is still infinite"),
        ("c = Constant <value = float {2}> () m = Min (w, c) s = Mul (m, h)", "other objects"),
        (f"{SAFE} dets = Abs (s)", "'dets', which is no node of map_roi_levels"),
    ],
)
def test_the_area_exercise_wants_the_same_levels_without_the_area(text, reason, monkeypatch):
    def graph(levels):
        rest = "" if "dets" in levels else "dets = Identity (s)"
        made = onnx.parser.parse_model(
            f"""<ir_version: 8, opset_import: ["": 16]>
            g (float[1] w, float[1] h) => (float[1] dets, int64[1] labels)
            {{ {levels} {rest} labels = Constant <value = int64[1] {{7}}> () }}"""
        )
        for node in made.graph.node:
            node.name = node.output[0]
            node.doc_string = "\na.py:1 map_roi_levels" if node.name in ("a", "s") else ""
        return made

    monkeypatch.setattr("helpers.graph.detect.feeds", lambda _: dict.fromkeys("wh", np.array([300], np.float32)))
    given = {"plain": graph(AREA), "plan": SimpleNamespace(names=()), "picture": None}
    with contextlib.nullcontext() if reason is None else pytest.raises(WrongAnswerError, match=reason):
        check("07/3", graph(text), **given)


def test_the_frozen_batch_exercise():
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


def test_the_proposal_of_a_detection_is_known_by_what_the_box_head_makes_of_it():
    # The last two have the score of proposal 0, and its box.
    logits = torch.tensor([[9.0, 0, 0], [0, 9, 0], [8, 0, 0], [9, 0, 0], [0, 0, 9]])
    boxes = torch.arange(5 * 8, dtype=torch.float32).reshape(5, 8)  # a proposal's box for each of two classes
    boxes[4] = boxes[0]
    # By class: the best of class 0 is proposal 0, then 2; of class 1 it is 1. The scores' order is 0, 1, 2.
    found = SimpleNamespace(
        labels=np.array([0, 0, 1]),
        boxes=np.stack([boxes[0, :4], boxes[2, :4], boxes[1, 4:]]),
        scores=logits.softmax(1).numpy()[[0, 2, 1], [0, 0, 1]],
    )
    head = SimpleNamespace(bbox_coder=SimpleNamespace(decode=lambda rois, deltas, max_shape: deltas))
    walked = SimpleNamespace(
        found=found, proposals=np.zeros((5, 5), np.float32), call=lambda _: SimpleNamespace(outputs=(logits, boxes))
    )
    given = {
        "walked": walked,
        "detector": SimpleNamespace(roi_head=SimpleNamespace(bbox_head=head)),
        "prepared": SimpleNamespace(resized_shape=(9, 9)),
    }
    check("01/3", [0, 2, 1], **given)
    for wrong, words in (
        ([0, 1, 2], "2 of 3 detections"),
        ([3, 2, 1], "1 of 3 detections"),
        ([4, 2, 1], "1 of 3 detections"),
        ([0, 2, 5], "there are 5 proposals"),
        ([0, 2, -4], "there are 5 proposals"),
        ([0, 2], "3 whole numbers"),
        ([0.0, 2, 1], "3 whole numbers"),
    ):
        with pytest.raises(WrongAnswerError, match=words):
            check("01/3", wrong, **given)


def test_the_network_with_its_preprocessing():
    from torch.nn.functional import interpolate, pad

    from helpers.detector.preprocess import COURSE, MEAN, STD

    class FromPicture(torch.nn.Module):
        def __init__(self, rgb=True, first="normalise", **scaling):
            super().__init__()
            self.rgb, self.first, self.scaling = rgb, first, scaling

        def forward(self, picture):
            height, width = COURSE.resized(tuple(picture.shape[:2]))
            scaled = (picture.flip(2) if self.rgb else picture).permute(2, 0, 1)[None].float()
            scaled = interpolate(scaled, (height, width), mode="bilinear", **self.scaling)
            mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
            edges = (0, COURSE.width - width, 0, COURSE.height - height)
            if self.first == "pad":
                return (pad(scaled, edges) - mean) / std
            return pad((scaled - mean) / std, edges)

    check("02/3", FromPicture())
    for wrong in ({"rgb": False}, {"first": "pad"}, {"align_corners": True}, {"antialias": True}):
        with pytest.raises(WrongAnswerError, match="grey levels"):
            check("02/3", FromPicture(**wrong))
    with pytest.raises(WrongAnswerError, match="of shape"):
        check("02/3", torch.nn.Identity())


def test_the_graph_that_asks_for_the_plugin():
    def graph(node, imports='"" : 16, "mmcv" : 1', before="a = Relu (x)"):
        head = f"<ir_version: 8, opset_import: [{imports}]> g (float[2] x, float[2] p) => (float[2] y)"
        return onnx.parser.parse_model(f"{head} {{ {before} {node} }}")

    old = "y = GridSample <mode = 'bilinear', padding_mode = 'zeros', align_corners = 0> (a, p)".replace("'", '"')
    right = "y = mmcv.grid_sampler <interpolation_mode = 0, padding_mode = 0, align_corners = 0> (a, p)"
    given = {"standard": graph(old, '"" : 16'), "mmcv_flavour": graph(right)}
    check("05/1", graph(right), **given)
    for wrong, words in (
        (graph(old), "no GridSample"),
        (graph(right, before="a = Abs (x)"), "the other nodes"),
        (graph(right.replace("(a, p)", "(p, a)")), "read and make"),
        (graph(right.replace("mmcv.", "")), "domain ''"),
        (graph(right.replace("padding_mode = 0", "padding_mode = 1")), "its attributes are"),
        (graph(right, '"" : 16'), "does not know the domain"),
    ):
        with pytest.raises(WrongAnswerError, match=words):
            check("05/1", wrong, **given)


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
