"""The search's own steps, on graphs of five nodes that were written by hand."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from helpers.compare.fingerprints import fingerprint
from helpers.compare.recording import Record, Recording, record_graph, record_module, result_arrays
from helpers.compare.search import _differing as differing_outputs
from helpers.compare.search import _Graph as Walked
from helpers.compare.search import first_disagreement
from helpers.detector.detections import Detections
from helpers.graph.cut import GraphInputError, run_graph
from helpers.graph.index import GraphIndex

MODULE = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, 5)
).eval()
OPERATORS = ["Conv", "Relu", "MaxPool", "Flatten", "Gemm"]
INPUT = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)


def graph(**weights: np.ndarray) -> onnx.ModelProto:
    state = {name: value.numpy() for name, value in MODULE.state_dict().items()} | weights
    names = ["x", "conv", "relu", "pool", "flat", "y"]
    extra = {"Conv": ["0.weight", "0.bias"], "Gemm": ["4.weight", "4.bias"]}
    attributes = {"MaxPool": {"kernel_shape": [2, 2], "strides": [2, 2]}, "Gemm": {"transB": 1}}
    nodes = [
        helper.make_node(
            operator,
            [names[i], *extra.get(operator, [])],
            [names[i + 1]],
            name=f"node {i}",
            doc_string=str(i),
            **attributes.get(operator, {}),
        )
        for i, operator in enumerate(OPERATORS)
    ]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 3, 4, 4)), ("y", (1, 5)))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in state.items()]
    made = helper.make_graph(nodes, "toy", values[:1], values[1:], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


@pytest.fixture(scope="module")
def recording():
    return record_module(MODULE, torch.from_numpy(INPUT))


def found(model, recording):
    return first_disagreement(model, {"x": INPUT}, recording)


def test_a_correct_graph_has_no_disagreement(recording):
    assert found(graph(), recording) is None


@settings(max_examples=10)
@given(st.sampled_from(["0.weight", "0.bias", "4.weight", "4.bias"]), st.sampled_from(["value", "order", "infinite"]))
def test_a_wrong_weight_is_named_whatever_is_wrong_with_it(recording, name, kind):
    wrong = MODULE.state_dict()[name].numpy().copy()
    if kind == "order":
        wrong[[0, 1]] = wrong[[1, 0]]
    else:
        wrong[0] = np.inf if kind == "infinite" else wrong[0] + 1
    finding = found(graph(**{name: wrong}), recording)
    assert finding.operator == {"0": "Conv", "4": "Gemm"}[name[0]]


def test_the_search_goes_back_from_the_symptom_to_what_agrees(recording):
    model = graph()
    model.graph.node[2].attribute[0].CopyFrom(helper.make_attribute("kernel_shape", [1, 1]))
    # Nothing is known of modules 2 and 3: the first symptom is what the last one reads.
    model.graph.node[2].doc_string = model.graph.node[3].doc_string = ""
    finding = found(model, recording)
    assert (finding.operator, finding.symptom) == ("MaxPool", "flat")
    assert finding.region == ("node 2", "node 3")
    assert finding.expected.operator == "input"


def test_a_node_at_which_the_runtime_stops_is_the_finding(recording):
    model = graph(**{"4.weight": np.zeros((5, 3), np.float32)})
    finding = found(model, recording)
    assert (finding.operator, finding.symptom, finding.region) == ("Gemm", "y", ("node 4",))
    assert "ONNX Runtime" in finding.stopped


class Halves(torch.nn.Module):
    def forward(self, rois):
        low, high = rois[:, 1:5].split(2, dim=1)
        return low + high


@pytest.mark.parametrize("first", [1, 2])
def test_a_part_of_the_wrong_size_is_the_finding_and_not_the_node_that_stops_at_it(first):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 16]>
        halves (float[6,5] rois) => (float[6,2] sum)
            <int64[1] first = {1}, int64[1] end = {5}, int64[1] columns = {1}, int64[2] two = {2, 2}> {
            boxes = Slice (rois, first, end, columns)
            low, high = Split <axis = 1> (boxes, two)
            sum = Add (low, high)
        }""".replace("first = {1}", f"first = {{{first}}}")
    )
    for node in model.graph.node:
        node.name = node.output[0]
    rois = np.random.default_rng(1).uniform(1, 9, (6, 5)).astype(np.float32)
    finding = first_disagreement(model, {"rois": rois}, record_module(Halves(), torch.from_numpy(rois)))
    assert (finding.node, bool(finding.stopped)) == ("boxes", True) if first > 1 else finding is None


def test_the_runtime_may_stop_at_the_right_numbers_in_the_wrong_shape():
    """A row that should have been turned into a column, by its line of Python."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 16]>
        turned (float[1,3] x) => (float[3,2] y) <float[1,2] w = {1, 2}> {
            column = Transpose <perm = [0, 1]> (x)
            y = MatMul (column, w)
        }""")
    for node in model.graph.node:
        node.name, node.doc_string = node.output[0], f"\n<p1: turned>:{node.output[0]}"
    x = np.array([[3, 1, 2]], np.float32)
    arrays = {"column": ("permute", x.T), "y": ("mm", x.T @ np.array([[1, 2]], np.float32))}
    records = [
        Record(i, "", operator, i, f"<p1: turned>:{name}", array.shape, fingerprint(array))
        for i, (name, (operator, array)) in enumerate(arrays.items())
    ]
    results = Record(2, "", "result", 2, "", (3, 2), records[1].print)
    finding = first_disagreement(model, {"x": x}, Recording([*records, results]))
    assert (finding.node, finding.symptom) == ("column", "y")


@pytest.mark.parametrize(("largest", "named"), [(1, None), (0, "best")])
def test_a_choice_is_not_passed_over_where_no_line_is_known(largest, named):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 16]>
        best_of (float[8] x) => (float[3] y) <int64[1] three = {3}> {
            best, places = TopK <largest = 1> (x, three)
            y = Exp (best)
        }""".replace("largest = 1", f"largest = {largest}")
    )
    for node in model.graph.node:
        node.name = node.output[0]

    class Best(torch.nn.Module):
        def forward(self, x):
            return x.topk(3).values.exp()

    x = np.random.default_rng(3).permutation(8).astype(np.float32)
    finding = first_disagreement(model, {"x": x}, record_module(Best(), torch.from_numpy(x)))
    assert (finding.node if finding else None) == named


CORNERS = """<ir_version: 8, opset_import: ["": 16]>
corners (float[6,4] boxes) => (float[6,4] corners) <float[1] two = {2}, int64[2] halves = {2, 2}> {
  centre, size = Split <axis = 1> (boxes, halves)
  half = Div (size, two)
  low = Sub (centre, half)
  high = Add (centre, half)
  corners = Concat <axis = 1> (low, high)
}"""


class Corners(torch.nn.Module):
    def forward(self, boxes):
        centre, size = boxes.split(2, dim=1)
        half = size * 0.5
        return torch.cat([centre - half, centre + half], dim=1)


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("", "", None),
        ("(centre, half)\n  high", "(half, centre)\n  high", "low"),
        ("{2}", "{3}", "half"),
        ("Add (centre", "Mul (centre", "high"),
        ("centre, size =", "size, centre =", "half"),
    ],
)
def test_arithmetic_without_modules_is_searched_too(right, wrong, named):
    """In the last case every number is one of PyTorch's until the halves of the wrong part are taken."""
    model = onnx.parser.parse_model(CORNERS.replace(right, wrong) if right else CORNERS)
    for node in model.graph.node:
        node.name = node.output[0]
    boxes = np.random.default_rng(1).uniform(1, 9, (6, 4)).astype(np.float32)
    finding = first_disagreement(model, {"boxes": boxes}, record_module(Corners(), torch.from_numpy(boxes)))
    assert (finding.node if finding else None) == named


def test_a_tensor_that_does_not_exist_and_a_wrong_input_are_refused(recording):
    with pytest.raises(GraphInputError, match="no tensor 'absent'"):
        run_graph(graph(), {"x": INPUT}, ["absent"])
    with pytest.raises(GraphInputError, match="takes float32"):
        first_disagreement(graph(), {"x": INPUT[..., :2]}, recording)


def returned(found: Detections) -> Recording:
    """Of a run of which only what it returned is known."""
    arrays = enumerate(result_arrays(found))
    return Recording([Record(i, "", "result", i, "", a.shape, fingerprint(a)) for i, a in arrays], found=found)


def test_a_graph_that_finds_nothing_where_pytorch_finds_something_differs():
    one = Detections(
        np.ones((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), np.ones((1, 2, 2), bool)
    )
    recording = returned(one)
    assert set(differing_outputs(one[:0], recording)) == {"dets", "labels", "masks"}
    assert differing_outputs(one, recording) == {}
    moved = dataclasses.replace(one, masks=np.array([[[True, True], [True, False]]]))
    assert set(differing_outputs(moved, recording)) == {"masks"}


def test_after_the_last_top_k_only_rows_that_are_detections_count():
    """Of five rows three are, and PyTorch filled the others up with something else."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 16]>
        chosen (float[8] x) => (float[5] best, int64[5] places) <int64[1] five = {5}> {
            best, places = TopK (x, five)
        }""")
    x = np.array([9, 8, 7, 0, 0, 0, 0, 0], np.float32)
    index = GraphIndex(model)
    run = record_graph(index, {"x": x})
    found = Detections(np.ones((3, 4), np.float32), x[:3], np.zeros(3, np.int64), np.ones((3, 2, 2), bool))

    def agrees(*theirs, real_rows=3):
        print_ = fingerprint(np.array(theirs, np.float32))
        recording = Recording([Record(0, "", "TopK", 0, "", (5,), print_)], found=found)
        return Walked(index, run, real_rows=real_rows).agreement(recording)("best")

    assert agrees(9, 8, 7, 5, 4)
    assert not agrees(9, 8, 6, 0, 0)
    assert not agrees(9, 8, 7, 5, 4, real_rows=2), "the graph has a detection less"


def test_a_level_is_a_part_of_the_list_of_all_levels_and_a_mask_of_none():
    """Forty numbers, sorted, are one level's among two; 40 times 0 or 1 are like a part of any longer list of these."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 16]>
        negative (float[40] x) => (float[40] y) { y = Neg (x) }""")
    random = np.random.default_rng(2)
    scores, levels = random.standard_normal(100).astype(np.float32), random.permutation(100) % 2

    def agrees(own, theirs):
        x = -np.asarray(own, np.float32)
        recording = Recording([Record(0, "", "cat", 0, "", (100,), fingerprint(np.asarray(theirs, np.float32)))])
        index = GraphIndex(model)
        return Walked(index, record_graph(index, {"x": x})).agreement(recording)("y")

    assert agrees(np.sort(scores[30:70]), scores)
    assert not agrees(np.sort(scores[30:70]) + 0.1, scores)
    assert not agrees(np.sort(levels[30:70]), levels)


def on_lines(text, made, inputs, lines, scopes=None, names=None):
    """The node that the search names. made: what PyTorch computed, as (scope, line, operator, array), the result last;
    lines, scopes, names: of the nodes by their results."""
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 16]>' + text)
    for node in model.graph.node:
        name = node.output[0]
        node.name = (names or {}).get(name, name)
        node.doc_string = f"{(scopes or {}).get(name, '')}\n<p1: f>:{lines[name]}"
    made = [*made, ("", 0, "result", made[-1][3])]
    records = [
        Record(i, scope, operator, i, f"<p1: f>:{line}" if line else "", array.shape, fingerprint(array))
        for i, (scope, line, operator, array) in enumerate(made)
    ]
    finding = first_disagreement(model, inputs, Recording(records))
    return finding and finding.node


LINES = """turned (float[3,2] x) => (float[3] y)
    <int64 one = {1}, int64 zero = {0}, float[1] half = {0.5}, int64[1] row = {0}> {
    left = Gather <axis = 1> (x, zero)
    right = Gather <axis = 1> (x, one)
    middle = Mul (right, half)
    as_row = Unsqueeze (middle, row)
    sums = Sub (as_row, left)
    y = Squeeze (sums, row)
}"""


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("", "", None),
        ("(x, one)", "(x, zero)", "/right_1"),
        ("(x, zero)", "(x, one)", "/left"),
        ("{0.5}", "{1.0}", "/middle"),
        ("(as_row, left)", "(left, as_row)", "/sums"),
    ],
)
def test_a_node_is_held_to_its_own_place_on_its_line(right, wrong, named, calls):
    """One line of Python takes both columns, one the half: a number of PyTorch's in the wrong place is wrong. Called
    twice, the first line makes the same twice, of which the exporter leaves one.
    """
    lines = {"left": 1, "right": 1, "middle": 2, "as_row": 2, "sums": 3, "y": 4}
    names = {name: f"/{name}" for name in lines} | {"right": "/right_1"}
    x = np.random.default_rng(4).uniform(1, 9, (3, 2)).astype(np.float32)
    left, right_, middle = x[:, 0], x[:, 1], x[:, 1] * np.float32(0.5)
    made = [("", 1, "select", left), ("", 1, "select", right_)] * calls
    made += [("", 2, "mul", middle), ("", 3, "sub", (middle - left)[None])]
    text = LINES.replace(right, wrong) if right else LINES
    assert on_lines(text, made, {"x": x}, lines, names=names) == named


@pytest.mark.parametrize(("first", "named"), [(0, None), (1, "part")])
def test_who_chose_the_numbers_is_named_and_not_who_reshaped_them(first, named):
    """The runtime stops at a place that there is not; nothing but its input is known of the node that reads it."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 16]>
        taken (float[2,3] x, float[4] table) => (float[2] y)
            <int64[1] first = {0}, int64[1] end = {1}, int64[1] columns = {1}> {
            part = Slice (x, first, end, columns)
            flat = Squeeze (part, columns)
            places = Cast <to = 7> (flat)
            y = Gather (table, places)
        }""".replace("first = {0}, int64[1] end = {1}", f"first = {{{first}}}, int64[1] end = {{{first + 1}}}")
    )
    for node in model.graph.node:
        node.name = node.output[0]
    x, table = np.array([[1, 90, 80], [2, 70, 60]], np.float32), np.array([3, 5, 8, 13], np.float32)
    arrays = {"take": table[[1, 2]], "select": x[:, 0], "result": table[[1, 2]]}
    records = [Record(i, "", n, i, "", a.shape, fingerprint(a)) for i, (n, a) in enumerate(arrays.items())]
    finding = first_disagreement(model, {"x": x, "table": table}, Recording(records))
    assert (finding.node if finding else None) == named


def test_scores_count_beside_coordinates_of_a_thousand_pixels():
    boxes = np.array([[100, 200, 900, 1100], [0, 0, 1200, 800]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64), np.ones((2, 2, 2), bool))
    other = dataclasses.replace(found, scores=found.scores - np.float32(0.02))
    assert set(differing_outputs(other, returned(found))) == {"dets"}


def test_a_searched_graph_is_not_kept(recording):
    """Its arrays may be some hundred MB, and no collector counts them."""
    walked = Walked(GraphIndex(graph()), record_graph(graph(), {"x": INPUT}))
    kept = weakref.ref(walked)
    gc.disable()
    try:
        assert walked.finding("PyTorch", recording) is None
        del walked
        assert kept() is None
    finally:
        gc.enable()


X = np.random.default_rng(4).uniform(1, 9, (3, 3)).astype(np.float32)
PARTS = """parts (float[3,3] x) => (float[3] y) <int64 zero = {0}, int64 one = {1}, int64 two = {2}> {
    b = Gather <axis = 1> (x, one)
    a = Gather <axis = 1> (x, zero)
    c = Gather <axis = 1> (x, two)
    p = Mul (a, b)
    q = Mul (a, c)
    y = Sub (p, q)
}"""
TWICE = """twice (float[3,3] x) => (float[3,3] y) <float[1] k = {0.5}, float[1] m = {0.3}> {
    a = Mul (x, k)
    b = Mul (a, m)
    e = Exp (b)
    c = Mul (e, k)
    d = Mul (c, m)
    y = Neg (d)
}"""
BESIDE = """beside (float[3,3] x) => (float[3,3] y) <float[3] bias = {1, 2, 3}> {
    m = Add (x, x)
    s = Add (m, bias)
    y = Add (x, s)
}"""
WHOLE = """whole (float[3,2] a, float[3,3] x) => (float[3,2] y)
    <int64[1] start = {0}, int64[1] end = {2}, int64[1] columns = {1}> {
    p = Slice (a, start, end, columns)
    q = Slice (x, start, end, columns)
    y = Sub (p, q)
}"""
SHIFTED = """shifted (float[100] x) => (float[40] y) <int64[1] start = {0}, int64[1] end = {40}> {
    part = Slice (x, start, end)
    y = Exp (part)
}"""
LONG = np.random.default_rng(5).standard_normal(100).astype(np.float32)


@pytest.mark.parametrize(("wrong", "named"), [("(a, c)", None), ("(b, c)", "q")])
def test_equal_parts_of_a_line_may_be_one_node_wherever_they_stand(wrong, named):
    """PyTorch takes column 0 twice, before and after column 1; the exporter writes one node, here behind column 1's."""
    a, b, c = X.T
    made = [("", 1, "select", part) for part in (a, b, a, c)]
    made += [("", 2, "mul", a * b), ("", 2, "mul", a * c), ("", 3, "sub", a * b - a * c)]
    lines = {"a": 1, "b": 1, "c": 1, "p": 2, "q": 2, "y": 3}
    names = {"a": "Gather", "b": "Gather_1", "c": "Gather_2"}
    assert on_lines(PARTS.replace("(a, c)", wrong), made, {"x": X}, lines, names=names) == named


@pytest.mark.parametrize(("wrong", "named"), [("(c, m)", None), ("(c, k)", "/head_1/Mul_1")])
def test_two_calls_of_a_module_are_told_apart(wrong, named):
    """Both multiply by 0.5 and 0.3; the exporter begins to count anew in the second."""
    a, b = X * np.float32(0.5), X * np.float32(0.5) * np.float32(0.3)
    e = np.exp(b)
    c, d = e * np.float32(0.5), e * np.float32(0.5) * np.float32(0.3)
    made = [("head", 1, "mul", a), ("head", 1, "mul", b), ("", 2, "exp", e), ("head", 1, "mul", c)]
    made += [("head", 1, "mul", d), ("", 2, "neg", -d)]
    lines = {"a": 1, "b": 1, "e": 2, "c": 1, "d": 1, "y": 2}
    names = {"a": "/head/Mul", "b": "/head/Mul_1", "c": "/head_1/Mul", "d": "/head_1/Mul_1"}
    found = on_lines(TWICE.replace("(c, m)", wrong), made, {"x": X}, lines, dict.fromkeys("abcd", "head"), names)
    assert found == named


def test_what_another_operator_of_the_line_consists_of_is_not_held_to_the_line():
    """`x + proj(x)`: PyTorch has one operator for the product and the bias, the graph two nodes, an Add among them."""
    s = X + X + np.array([1, 2, 3], np.float32)
    made = [("proj", 1, "addmm", s), ("proj", 1, "output", s), ("", 1, "add", X + s)]
    lines = {"m": 1, "s": 1, "y": 1}
    assert on_lines(BESIDE, made, {"x": X}, lines, {"m": "proj", "s": "proj"}) is None


def test_a_part_that_is_the_whole_is_not_held_to_another():
    """`a[:, :2] - x[:, :2]`: a has two columns, so its part is no tensor of its own in PyTorch."""
    a = X[:, 1:] + 1
    made = [("", 0, "add", a), ("", 1, "slice", X[:, :2]), ("", 2, "sub", a - X[:, :2])]
    assert on_lines(WHOLE, made, {"a": a, "x": X}, {"p": 1, "q": 1, "y": 2}) is None


@pytest.mark.parametrize(("by", "named"), [(0, None), (1, "part")])
def test_a_part_of_another_tensor_is_not_what_the_line_made(by, named):
    """One level is a part of all levels, and x[1:41] a part of x; but this line made x[0:40]."""
    text = SHIFTED.replace("start = {0}", f"start = {{{by}}}").replace("end = {40}", f"end = {{{by + 40}}}")
    made = [("", 0, "cat", LONG), ("", 1, "slice", LONG[:40]), ("", 2, "exp", np.exp(LONG[:40]))]
    assert on_lines(text, made, {"x": LONG}, {"part": 1, "y": 2}) == named


def test_detections_of_equal_boxes_are_told_apart_by_their_scores():
    boxes = np.array([[0, 0, 0, 50], [0, 0, 0, 50]], np.float32)  # clipped to an edge: their IoU is 0 / 0
    found = Detections(boxes, np.array([0.9, 0.2], np.float32), np.zeros(2, np.int64), np.zeros((2, 2, 2), bool))
    assert differing_outputs(found[np.array([1, 0])], returned(found)) == {}


def test_an_output_that_does_not_depend_on_the_input_is_not_searched():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 16]>
        constant (float[3,3] x) => (float[3,3] y, float[1] z) <float[1] k = {2}> {
            y = Neg (x)
            z = Identity (k)
        }""")

    class Constant(torch.nn.Module):
        def forward(self, x):
            return -x, torch.tensor([2.0])

    assert first_disagreement(model, {"x": X}, record_module(Constant(), torch.from_numpy(X))) is None
