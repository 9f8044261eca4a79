"""The search for nodes that must stay in FP32: on tests and graphs whose answer is known, and on real detectors."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from helpers.detector.preprocess import NetworkInput
from helpers.export import exporter as export
from helpers.graph import detect
from helpers.graph.file import load_onnx
from helpers.graph.index import GraphIndex
from helpers.graph.onnx_runtime import open_session
from helpers.graph.origins import origin
from helpers.graph.runner import GraphInputError
from helpers.half_precision.search import (
    Outcome,
    PrecisionSearchError,
    Simulation,
    Trials,
    _same_functions,
    agreement,
    find_plan,
    indispensable,
    minimal_set,
    same_detections,
)
from helpers.half_precision.simulation import HalfPrecisionError, hunt, round_results

NAMES = [f"n{i}" for i in range(24)]


@settings(max_examples=100)
@given(st.sets(st.sampled_from(NAMES)))
def test_the_nodes_that_a_test_needs_are_found_and_no_others(needed):
    trials = Trials(needed.issubset)
    found = minimal_set(trials, NAMES)
    assert set(found.nodes) == needed
    assert list(found.nodes) == [name for name in NAMES if name in needed]
    assert set(found.without) == needed
    assert not any(outcome.passed for outcome in found.without.values())


@settings(max_examples=100)
@given(st.lists(st.sets(st.sampled_from(NAMES), min_size=1, max_size=5), min_size=1, max_size=4), st.randoms())
def test_with_several_ways_out_the_result_passes_and_no_node_of_it_is_idle(ways, random):
    def test(keep):
        return any(way <= keep for way in ways)

    found = minimal_set(Trials(test), random.sample(NAMES, len(NAMES)))
    kept = set(found.nodes)
    assert test(kept)
    assert not any(test(kept - {name}) for name in kept)


def test_a_node_that_another_made_needed_is_tried_again():
    passing = [{"a", "b", "c"}, {"a", "c"}, {"c"}]
    found = minimal_set(Trials(lambda keep: set(keep) in passing), ["a", "b", "c"])
    assert found.nodes == ("c",)


def test_a_set_is_tried_once_and_an_interrupted_search_goes_on(tmp_path):
    needed, tried, path = {"n3", "n4", "n20"}, [], tmp_path / "trials.json"

    def test(keep, *, patience=10**6):
        if len(tried) == patience:
            raise KeyboardInterrupt
        tried.append(keep)
        return Outcome(needed <= keep, f"{len(keep)} kept")

    with pytest.raises(KeyboardInterrupt):
        minimal_set(Trials(lambda keep: test(keep, patience=7), path=path, key="a"), NAMES)
    with pytest.raises(PrecisionSearchError, match="need a key"):
        Trials(test, path=path)
    trials = Trials(test, path=path, key="a")
    assert trials.remembered == 7
    found = minimal_set(trials, NAMES)
    assert set(found.nodes) == needed
    assert found.without["n3"].detail == "2 kept"
    assert len(tried) == len(set(tried)) == 7 + trials.run
    again = Trials(test, path=path, key="a")
    assert minimal_set(again, NAMES) == found
    assert again.run == 0


def test_bad_trials_are_named(tmp_path):
    path = tmp_path / "trials.json"
    with pytest.raises(PrecisionSearchError, match="even with all 24 candidates.*no way"):
        minimal_set(Trials(lambda keep: Outcome(False, "no way")), NAMES)
    Trials(lambda keep: np.True_, path=path, key="a")(["n1"])
    with pytest.raises(PrecisionSearchError, match="another model, picture or test"):
        Trials(lambda keep: True, path=path, key="b")
    for text in ("{", "[]", "[" * 50_000, json.dumps({"key": "a", "trials": [{"keep": []}]})):
        path.write_text(text)
        with pytest.raises(PrecisionSearchError, match="holds no trials"):
            Trials(lambda keep: True, path=path, key="a")


def graph(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], *outputs: str) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


@pytest.fixture
def overflowing() -> onnx.ModelProto:
    """x is moved out of half precision's range and back, beside a branch that is fine."""
    nodes = [
        helper.make_node("Relu", ["x"], ["start"], name="start"),
        helper.make_node("Add", ["start", "offset"], ["far"], name="far"),
        helper.make_node("Identity", ["far"], ["carried"], name="carried"),
        helper.make_node("Sub", ["carried", "offset"], ["back"], name="back"),
        helper.make_node("Mul", ["start", "third"], ["fine"], name="fine"),
        helper.make_node("Add", ["back", "fine"], ["y"], name="sum"),
    ]
    return graph(nodes, {"offset": [96064], "third": [1 / 3]}, "y")


FEEDS = {"x": np.array([1, 20.5, 300, 4000], np.float32)}


def close_to(expected):
    def judge(found):
        error = np.abs(found["y"] - expected).max()
        return Outcome(bool(error < 4), f"off by {error}")

    return judge


def test_the_plan_of_a_graph_with_a_known_overflow(overflowing, tmp_path):
    judge = close_to(FEEDS["x"] * 4 / 3)
    cached = {"outputs": ["y"], "cache": tmp_path / "trials.json", "question": "within 4"}
    search = find_plan(overflowing, FEEDS, judge=judge, **cached)
    assert search.remembered == 0
    assert search.plan.names == ("far", "carried", "back")
    assert [node.operator for node in search.plan.nodes] == ["Add", "Identity", "Sub"]
    assert search.plan.nodes[0].reason.startswith("inf in float16; without it: off by")
    assert "3 of 4 candidates" in str(search)
    again = find_plan(overflowing, FEEDS, judge=judge, **cached)
    assert (again.plan, again.trials, again.remembered) == (search.plan, 0, search.trials)
    with pytest.raises(PrecisionSearchError, match=r"trials\.json holds the trials of another model, picture or test"):
        find_plan(overflowing, FEEDS, judge=judge, **cached | {"question": "within 5"})


def test_each_graph_is_indexed_once(overflowing, monkeypatch):
    """The caller's, of which a hunt and a search take the index as well; the rounded one; and the parts that are cut
    out, however often they are run."""
    indexed, inferred, index = [], [], GraphIndex(overflowing)
    build, infer = GraphIndex.__init__, onnx.shape_inference.infer_shapes

    def counted(self, model):
        indexed.append(model.SerializeToString(deterministic=True))
        build(self, model)

    def counted_inference(model, **options):
        inferred.append(model.SerializeToString(deterministic=True))
        return infer(model, **options)

    monkeypatch.setattr(GraphIndex, "__init__", counted)
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", counted_inference)
    given = overflowing.SerializeToString(deterministic=True)

    def builds(call):
        indexed.clear()
        inferred.clear()
        result = call()
        assert len(set(indexed)) == len(indexed)
        assert len(set(inferred)) == len(inferred)
        return len(indexed), given in indexed, result

    # Rounded, and once more what is not finite: in float32.
    assert builds(lambda: hunt(overflowing, FEEDS))[:2] == (3, True)
    assert builds(lambda: hunt(index, FEEDS))[:2] == (2, False)
    judge = close_to(FEEDS["x"] * 4 / 3)
    # Also what the outputs need, this rounded for what lies before the candidates, and what is left for the trials.
    search = {"outputs": ["y"], "judge": judge}
    count, again, found = builds(lambda: find_plan(overflowing, FEEDS, **search))
    assert (count, again) == (6, True)
    assert found.trials > count
    count, again, other = builds(lambda: find_plan(index, FEEDS, **search))
    assert (count, again) == (5, False)
    assert other.plan == found.plan


def test_two_judges_of_one_factory_do_not_share_answers(overflowing, tmp_path):
    """Of one qualified name, which alone told them apart once: the second got the first's empty plan."""
    expected = FEEDS["x"] * 4 / 3

    def judge(tolerance):
        return lambda found: Outcome(bool(np.abs(found["y"] - expected).max() < tolerance))

    cache = tmp_path / "trials.json"
    for tolerance in (np.inf, 4.0):
        with pytest.raises(PrecisionSearchError, match="cannot tell one judge from another: say in question"):
            find_plan(overflowing, FEEDS, outputs=["y"], judge=judge(tolerance), cache=cache)
    assert not cache.exists()
    find_plan(overflowing, FEEDS, outputs=["y"], judge=judge(1e9), cache=cache, question="within 1e9")
    with pytest.raises(PrecisionSearchError, match="trials of another"):
        find_plan(overflowing, FEEDS, outputs=["y"], judge=judge(4), cache=cache, question="within 4")


def test_a_fresh_search_of_several_rounds_remembers_nothing(overflowing, tmp_path):
    """The first round's candidates, here "far" alone, do not do."""
    model = onnx.ModelProto()
    model.CopyFrom(overflowing)
    model.graph.node[2].doc_string = "a\nmmdet/a.py:7 forward"
    judge = close_to(FEEDS["x"] * 4 / 3)
    asked = []

    def picky(found):
        asked.append(1)
        outcome = judge(found)
        return outcome if len(asked) > 1 else Outcome(False, "not yet")

    search = find_plan(
        model, FEEDS, outputs=["y"], judge=picky, cache=tmp_path / "trials.json", question="the second time"
    )
    assert (search.trials, search.remembered) == (len(asked), 0)
    assert search.candidates == 6
    assert "remembered" not in str(search)


def test_functions_of_one_name_in_two_files_are_not_the_same():
    nodes = [helper.make_node("Relu", ["x"], [name], name=name) for name in "abcd"]
    lines = ("mmdet/a.py:7 forward", "mmdet/b.py:7 forward", "mmdet/a.py:9 forward", "mmdet/a.py:9 other")
    for node, line in zip(nodes, lines, strict=True):
        node.doc_string = f"scope\n{line}\nmmdet/top.py:1 simple_test"
    assert _same_functions(GraphIndex(graph(nodes, {}, "a")), ["a"]) == {"a", "c"}


@settings(max_examples=50)
@given(st.lists(st.sets(st.sampled_from(NAMES), min_size=1, max_size=5), min_size=1, max_size=3))
def test_nodes_that_nothing_replaces_are_in_every_set_that_passes(ways):
    trials = Trials(lambda keep: any(way <= keep for way in ways))
    found = minimal_set(trials, NAMES)
    needed = indispensable(trials, NAMES, found.nodes)
    assert set(needed) == set.intersection(*ways)
    if needed == found.nodes:
        assert all(set(needed) <= way for way in ways)


def test_lost_digits_are_found_where_nothing_overflows():
    """4096 + x in half precision has a step of 4: every result is finite, and wrong."""
    nodes = [
        helper.make_node("Add", ["x", "offset"], ["far"], name="far"),
        helper.make_node("Sub", ["far", "offset"], ["y"], name="back"),
    ]
    model = graph(nodes, {"offset": [4096]}, "y")
    feeds = {"x": np.array([1.5, 2.5, 5.5, 9.5], np.float32)}
    judge = lambda found: Outcome(bool(np.abs(found["y"] - feeds["x"]).max() < 0.1))  # noqa: E731
    assert not hunt(model, feeds).suspects
    search = find_plan(model, feeds, outputs=["y"], judge=judge)
    assert search.plan.names == ("far", "back")
    assert search.plan.nodes[0].reason == "without it: test fails"


def test_a_graph_that_is_fine_needs_no_plan(overflowing):
    model = graph(list(overflowing.graph.node[:1]), {}, "start")
    search = find_plan(model, FEEDS, outputs=["start"], judge=lambda found: Outcome(True))
    assert search.plan.nodes == ()
    with pytest.raises(PrecisionSearchError, match="default judge compares dets and labels"):
        find_plan(model, FEEDS, outputs=["start"])
    assert str(search) == "half precision passes the test with no node in FP32"


def test_bad_searches_are_named(overflowing, tmp_path):
    with pytest.raises(PrecisionSearchError, match="even with every node in FP32"):
        find_plan(overflowing, FEEDS, outputs=["y"], judge=lambda found: Outcome(False))
    for search in (
        lambda: find_plan(overflowing, FEEDS, outputs=["z"], judge=lambda found: Outcome(True)),
        lambda: Simulation(overflowing, FEEDS, ["far"], outputs=["y", "z"]),
    ):
        with pytest.raises(GraphInputError, match="no tensor 'z'"):
            search()
    simulation = Simulation(overflowing, FEEDS, ["far"], outputs=["y"])
    with pytest.raises(PrecisionSearchError, match="'back' is not among the candidates"):
        simulation.run(["back"])
    with pytest.raises(HalfPrecisionError, match="no node 'up'"):
        Simulation(overflowing, FEEDS, ["up"], outputs=["y"])
    nameless = onnx.ModelProto()
    nameless.CopyFrom(overflowing)
    nameless.graph.node[1].name = ""
    with pytest.raises(PrecisionSearchError, match="nodes without a name"):
        find_plan(nameless, FEEDS, outputs=["y"], judge=lambda found: Outcome(True))


@settings(max_examples=60)
@given(st.data())
def test_a_trial_computes_what_the_whole_graph_would(data):
    """Random graphs of chains and joins, random candidates, random islands."""
    rows = data.draw(st.lists(st.tuples(st.sampled_from(["Add", "Sub", "Mul"]), *[st.integers(0, 30)] * 2), min_size=2))
    tensors, nodes = ["x", "w", "c"], [helper.make_node("Constant", [], ["c"], name="c", value_float=1 / 3)]
    for i, (operator, a, b) in enumerate(rows):
        pair = [tensors[a % len(tensors)], tensors[b % len(tensors)]]
        nodes.append(helper.make_node(operator, pair, [f"t{i}"], name=f"t{i}"))
        tensors.append(f"t{i}")
    model = graph(nodes, {"w": [300, 0.1, -7, 1000]}, tensors[-1], tensors[-2])
    names = [node.name for node in nodes]
    candidates = data.draw(st.sets(st.sampled_from(names)))
    keep = data.draw(st.sets(st.sampled_from(sorted(candidates)))) if candidates else set()
    outputs = [tensors[-1], tensors[-2]]
    feeds = {"x": np.array([0.3, -2, 17, 333], np.float32)}
    found = Simulation(model, feeds, candidates, outputs=outputs).run(keep)
    session = open_session(round_results(model, keep=keep), optimise=False)
    for name, expected in zip(outputs, session.run(outputs, feeds), strict=True):
        np.testing.assert_array_equal(found[name], expected)


def outputs(*rows: tuple[float, ...], labels: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    dets = np.array(rows, np.float32).reshape(1, -1, 5)
    return {"dets": dets, "labels": np.array([labels or [0] * dets.shape[1]], np.int64)}


def test_agreement_counts_partners_errors_and_numbers_that_are_none():
    reference = outputs((0, 0, 10, 10, 0.9), (50, 50, 80, 80, 0.8), (0, 0, 5, 5, 0.1), labels=(1, 2, 1))
    same = agreement(reference, outputs((0, 0, 10, 13, 0.9), (51, 50, 80, 80, 0.7), labels=(1, 2)))
    assert (same.matched, same.alone, same.box, same.non_finite, same.share) == (2, 0, 2.0, 0, 1.0)
    other = agreement(reference, outputs((0, 0, 10, 10, 0.9), (51, 50, 80, 80, 0.7), labels=(1, 3)))
    assert (other.matched, other.alone, other.share) == (1, 2, 0.5)
    broken = agreement(reference, outputs((np.nan, 0, 10, np.inf, 0.9), (50, 50, 80, 80, np.nan), labels=(1, 2)))
    assert (broken.matched, broken.non_finite) == (0, 3)
    assert np.isnan(broken.box)
    assert str(broken).startswith("3 numbers of dets not finite, 0 matched, ")
    judge = same_detections(reference)
    assert judge(reference).passed
    assert not judge(outputs((0, 0, 10, 13, 0.9), (51, 50, 80, 80, 0.7), labels=(1, 2))).passed, "2 px in the median"
    assert not judge(outputs((0, 0, 10, 10, 0.9), (50, 50, 80, 80, 0.7), labels=(1, 3))).passed
    assert not judge(outputs((0, 0, 10, 10, 0.9), (50, 50, 80, 80, 0.8), (np.nan,) * 5, labels=(1, 2, 0))).passed
    nothing = outputs((0, 0, 0, 0, 0))
    assert same_detections(nothing)(nothing).passed


def random_detector(config: str):
    """One of mmdet's R-50 configs at a quarter of its size (R-18, 100 RoIs), random weights, in evaluation mode."""
    from pathlib import Path

    import mmdet
    import torch
    from mmcv import Config
    from mmdet.models import build_detector

    settings = Config.fromfile(str(Path(mmdet.__file__).parent / ".mim/configs" / config))
    settings.model.backbone.update(depth=18, init_cfg=None)
    settings.model.neck.in_channels = [64, 128, 256, 512]
    settings.model.test_cfg.rpn.update(nms_pre=200, max_per_img=100)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        detector = build_detector(settings.model)
        heads = detector.roi_head.bbox_head
        heads = list(heads) if isinstance(heads, torch.nn.ModuleList) else [heads]
        # Scores that spread over (0, 1), as helpers.detector.models.build_random_detector does it and says why.
        layers = [(detector.rpn_head.rpn_cls, 60), (detector.rpn_head.rpn_reg, 20), *((h.fc_cls, 60) for h in heads)]
        for layer, gain in layers:
            layer.weight.mul_(gain)
    return detector.eval()


# 79 * 1216 passes 65,504; the height keeps it cheap.
SHAPE = (1, 3, 128, 1216)


@pytest.mark.slow
def test_faster_rcnn_needs_the_same_island(tmp_path):
    detector = random_detector("faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py")
    moved = export.BOXES_MOVED["standard"]
    model = load_onnx(export.export_onnx(detector, tmp_path / "x.onnx", input_shape=SHAPE, applied=moved))
    assert [output.name for output in model.graph.output] == ["dets", "labels"]
    feeds = detect.feeds([NetworkInput.full(np.random.default_rng(0).uniform(-2, 2, SHAPE).astype(np.float32))])
    found = hunt(model, feeds)
    assert found.first_inf is not None
    # Random weights agree with themselves but badly once anything is rounded: this judge asks for finite numbers alone.
    search = find_plan(model, feeds, judge=lambda run: Outcome(bool(np.isfinite(run["dets"]).all())))
    operators = [node.operator for node in search.plan.nodes]
    assert 5 <= len(operators) < 20
    assert {"Add", "Mul", "Sub"} <= set(operators)
    origins = {node.name: str(origin(node)) for node in model.graph.node}
    box_head = ("bbox_head.py", "bbox_heads.bbox_head:BBoxHead")  # as it is, or with a patch
    assert [o for o in (origins[name] for name in search.plan.names) if not any(part in o for part in box_head)] == []
    # What the plan promises holds for the whole graph, and nothing less does.
    for keep, is_finite in ((search.plan.names, True), (search.plan.names[1:], False)):
        session = open_session(round_results(model, keep=keep), optimise=False)
        assert np.isfinite(session.run(["dets"], feeds)[0]).all() == is_finite


@pytest.mark.slow
def test_cascade_mask_rcnn_moves_no_class_and_two_patches_keep_it_finite(tmp_path):
    """Its box heads regress one box for all classes, so that mmdet's export has no class offsets."""
    detector = random_detector("cascade_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.py")
    correct = export.CORRECT["standard"]
    feeds = detect.feeds([NetworkInput.full(np.random.default_rng(0).uniform(-2, 2, SHAPE).astype(np.float32))])
    for applied, is_finite in (
        (correct, False),
        ((*correct, "p33_paste_narrow_boxes", "p34_roi_scale_without_area"), True),
    ):
        model = load_onnx(export.export_onnx(detector, tmp_path / "x.onnx", applied=applied, input_shape=SHAPE))
        found = hunt(model, feeds)
        assert found.watched > 800
        innermost = {suspect.where.lines[0].split()[-1] for suspect in found.suspects}
        # Whether a random box is so narrow that pasting its mask overflows is up to the weights.
        assert innermost - {"_do_paste_mask"} == (set() if is_finite else {"map_roi_levels"})
        assert not (is_finite and innermost)
        assert (str(found) == f"all of the {found.watched} float tensors are finite") == is_finite
