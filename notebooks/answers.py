"""What is right in the exercises, apart from the notebooks so that a student's cell gives nothing away.

One function an exercise, named by chapter and number. It gets the answer and what the cell hands over beside it, and
returns True, False, or a sentence that says why the answer is not right. The first hint is a nudge, the second nearly
the way; the notebook's solution cell is the way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from helpers.exercises import Verdict, exercise

# --- 00 set-up check --------------------------------------------------------------------------------------------------


@exercise(
    "00/1",
    "A class whose __reduce__ returns (function, arguments) has the function called when it is unpickled.",
    "torch.save an object of such a class to a file, then models.read_checkpoint(replace(spec, checkpoint=file, "
    "sha256=None)) in a try block: answer with the exception.",
)
def refused_pickle(answer: object) -> Verdict:
    from helpers.detector.models import CheckpointError

    if not isinstance(answer, CheckpointError):
        return f"the loader's own exception is wanted, this is a {type(answer).__name__}"
    return "was not opened" in str(answer) or "this error is about another thing than what the pickle holds"


@exercise(
    "00/2",
    "Add up numel() over parameters() and divide by a million.",
    "sum(p.numel() for p in models.load_detector().parameters()) / 1e6",
)
def million_parameters(answer: float) -> Verdict:
    from helpers.detector import models

    count = sum(parameter.numel() for parameter in models.load_detector().parameters())
    if abs(answer - count) < 1:
        return "that is the number itself; the question asks for millions"
    return abs(answer - count / 1e6) < 0.06


# --- 01 architecture --------------------------------------------------------------------------------------------------


@exercise("01/1", "Multiply the shape of each first output.", "max over walked.calls of np.prod(call.output_shapes[0])")
def most_numbers(answer: str, *, walked: Any) -> Verdict:
    sizes = {call.name: int(np.prod(call.output_shapes[0])) for call in walked.calls}
    name = answer.split(" (")[0].strip()  # as the table prints it, too
    if name not in sizes:
        return f"no part is called {name!r}; the table has: {', '.join(sizes)}"
    return sizes[name] == max(sizes.values())


@exercise(
    "01/2",
    "The formula stands in station 3; clip holds the level between 0 and 3.",
    "np.clip(np.floor(np.log2(np.sqrt(w * h) / 56 + 1e-6)), 0, 3).astype(int), with w and h from the columns",
)
def level_of_box(answer: Callable[[np.ndarray[Any, Any]], Any]) -> Verdict:
    from helpers.detector.architecture import roi_levels

    random = np.random.default_rng(1)
    corner, size = random.uniform(0, 800, (2000, 2)), np.exp(random.uniform(0, 7, (2000, 2)))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    edges = np.array([[0, 0, side, side] for side in (56, 112, 224, 448, 896, 1)], np.float32)
    wanted = roi_levels(np.concatenate([boxes, edges]))
    got = np.asarray(answer(np.concatenate([boxes, edges])))
    if got.shape != wanted.shape:
        return f"for 2006 boxes 2006 levels are wanted, got the shape {got.shape}"
    # On an edge the 1e-6 of mmdet's formula and float32 decide; a box or two may differ.
    wrong = int(np.count_nonzero(got != wanted))
    return wrong <= 3 or f"{wrong} of 2006 boxes are on another level than mmdet's"


@exercise(
    "01/3",
    "A function of yours in the place of multiclass_nms calls the old one with return_inds=True, keeps what it "
    "returns as third, and gives back the first two.",
    "Number // 80 is the proposal; labels.argsort(stable=True), of the labels that the NMS returned, brings the "
    "numbers into the order of walked.found.",
)
def true_proposals(answer: npt.ArrayLike, *, walked: Any, detector: Any, prepared: Any) -> Verdict:
    rows, found = np.asarray(answer), walked.found
    if rows.shape != found.labels.shape or not np.issubdtype(rows.dtype, np.integer):
        return f"{len(found.labels)} whole numbers are wanted, one a detection; got {rows.dtype} of shape {rows.shape}"
    if rows.min() < 0 or rows.max() >= len(walked.proposals):
        return f"there are {len(walked.proposals)} proposals, and {rows.max()} of them is none"
    scores, deltas = (output[rows] for output in walked.call("roi_head.bbox_head").outputs)
    proposals = scores.new_tensor(walked.proposals[rows, :4])
    boxes = detector.roi_head.bbox_head.bbox_coder.decode(proposals, deltas, max_shape=prepared.resized_shape)
    of_class = np.arange(len(rows)), found.labels
    apart = np.abs(boxes.reshape(len(rows), -1, 4).numpy()[of_class] - found.boxes).max(axis=1) > 0.01
    apart |= np.abs(scores.softmax(dim=1).numpy()[of_class] - found.scores) > 1e-4
    return not apart.any() or f"{apart.sum()} of {len(rows)} detections are not what the box head makes of it"


# --- 02 inference -----------------------------------------------------------------------------------------------------


@exercise("02/1", "Try first.above(threshold) with a higher threshold.", "Sort the scores: what is the 30th?")
def fewer_than_thirty(answer: float, *, first: Any) -> Verdict:
    if not answer < 1:
        return "a threshold below 1 is asked for"
    return len(first.above(answer)) < 30 or f"{len(first.above(answer))} detections have at least that score"


@exercise("02/2", "Which side touches first?", "500 times the smaller of 800 / 375 and 1216 / 500, rounded")
def width_in_input(answer: int) -> Verdict:
    from helpers.detector.preprocess import fit_scale

    return answer == fit_scale((375, 500), (800, 1216))[1]


@exercise(
    "02/3",
    "In this order: which size (COURSE.resized), which channel first, resize as float32, normalise, and only then pad.",
    "functional.interpolate(..., mode='bilinear') of picture.flip(2).permute(2, 0, 1)[None].float(), minus MEAN, "
    "divided by STD, both of shape (3, 1, 1); functional.pad fills with zeros.",
)
def network_with_preprocessing(answer: Any) -> Verdict:
    import torch

    from helpers import paths
    from helpers.detector import preprocess

    if not isinstance(answer, torch.nn.Module):
        return f"a torch.nn.Module is asked for, this is a {type(answer).__name__}"
    whole = preprocess.read_picture(paths.DATA / "demo" / "crowd.jpg")
    wider = np.concatenate([whole, whole], axis=1)
    for view in (whole[::5, ::3], wider[:300]):  # scaled up, and down
        wanted = preprocess.prepare(np.ascontiguousarray(view)).tensor
        got = answer(torch.from_numpy(np.ascontiguousarray(view))).detach()
        size = f"{view.shape[1]} x {view.shape[0]}"
        if tuple(got.shape) != wanted.shape or got.dtype != torch.float32:
            return f"of a picture of {size} it makes {got.dtype} of shape {tuple(got.shape)}"
        levels = np.abs(got.numpy() - wanted)[0] * np.array(preprocess.STD).reshape(3, 1, 1)
        # OpenCV resizes in whole grey levels.
        if not levels.max() <= 1.5:
            return f"of a picture of {size} it makes what is up to {levels.max():.1f} grey levels from prepare's"
    return True


# --- 03 static export -------------------------------------------------------------------------------------------------


@exercise("03/1", "Look at every line of the origin, not the innermost only.", "any('_do_paste_mask' in line ...)")
def pasting_nodes(answer: int, *, graph: onnx.ModelProto) -> Verdict:
    from helpers.graph.origins import origin

    return answer == sum(any("_do_paste_mask" in line for line in origin(n).lines) for n in graph.graph.node)


@exercise(
    "03/2",
    "Scores are the fifth column: Gather or Slice them, compare with a constant, cast to int64 and sum over the rows.",
    "Slice(dets, [4], [5], [2]) -> GreaterOrEqual(0.05) -> Cast(int64) -> ReduceSum over axes 1 and 2 without "
    "keeping them; append the nodes and an output `count` of shape [1] to a copy of the graph.",
)
def count_output(answer: onnx.ModelProto) -> Verdict:
    from helpers.graph.cut import extract
    from helpers.graph.onnx_runtime import open_session

    if "count" not in [value.name for value in answer.graph.output]:
        return "the graph has no output named 'count'"
    random = np.random.default_rng(3)
    for kept in (0, 1, 37, 100):
        scores = np.where(np.arange(100) < kept, random.uniform(0.06, 1, 100), random.uniform(0, 0.04, 100))
        dets = np.concatenate([random.uniform(0, 800, (100, 4)), random.permutation(scores)[:, None]], axis=1)
        given = {"dets": dets[None].astype(np.float32)}
        part = extract(answer, ["count"], given)
        if [value.name for value in part.graph.input] != ["dets"]:
            return "the count must come from the output `dets` alone"
        got = open_session(part).run(["count"], given)[0]
        if got.dtype != np.int64 or got.size != 1:
            return f"one int64 number is wanted, got {got.dtype} of shape {got.shape}"
        if int(got.ravel()[0]) != kept:
            return f"for {kept} rows with a score of at least 0.05 the graph counts {int(got.ravel()[0])}"
    return True


# --- 04 NMS level fix -------------------------------------------------------------------------------------------------


@exercise(
    "04/1",
    "Boxes are clipped to the picture, and the offset is added to x and to y.",
    "Two boxes overlap only if they overlap in both directions: the shorter side decides.",
)
def least_distance(answer: float) -> Verdict:
    if 1216 <= answer <= 1218:
        return "that is enough, but less will do: the offset is added to x and to y, and one direction is enough"
    return 800 <= answer <= 801


@exercise(
    "04/2",
    "Copy the correct graph, change one initializer (or an attribute), and search the copy with recordings=.",
    "planted.CopyFrom(correct); pick a node with weights, replace its initializer's values; then "
    "search(detector, planted, small[name], recordings=same_inference)",
)
def planted_and_found(answer: tuple[onnx.ModelProto, Any], *, correct: onnx.ModelProto) -> Verdict:
    planted, report = answer
    before = {tensor.name: tensor.SerializeToString() for tensor in correct.graph.initializer}
    changed = {t.name for t in planted.graph.initializer if before.get(t.name) != t.SerializeToString()}
    old = {node.name: node.SerializeToString() for node in correct.graph.node}
    own = {node.name for node in planted.graph.node if old.get(node.name) != node.SerializeToString()}
    own |= {node.name for node in planted.graph.node if changed.intersection(node.input)}
    if not own:
        return "the planted graph is the correct one: change something in it"
    if report.found is None:
        return "the search found nothing: the change does not reach the detections; plant a larger one"
    return report.found.node in own or f"the search names {report.found.node}, and you changed {', '.join(sorted(own))}"


# --- 05 plugins -------------------------------------------------------------------------------------------------------


@exercise(
    "05/1",
    "Print mmcv's node, and what mmcv_flavour.opset_import has besides ONNX's own operators.",
    "helper.make_node('grid_sampler', the old inputs, the old outputs, domain='mmcv', interpolation_mode=0, "
    "padding_mode=0, align_corners=0) in the old node's place, and helper.make_opsetid('mmcv', 1).",
)
def asks_for_the_plugin(
    answer: onnx.ModelProto, *, standard: onnx.ModelProto, mmcv_flavour: onnx.ModelProto
) -> Verdict:
    def attributes(node: onnx.NodeProto) -> dict[str, Any]:
        return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}

    operators = [node.op_type for node in answer.graph.node]
    old = [node.op_type for node in standard.graph.node]
    if operators.count("grid_sampler") != 1 or "GridSample" in operators:
        return "one node grid_sampler is asked for, and no GridSample"
    place = operators.index("grid_sampler")
    if [*operators[:place], "GridSample", *operators[place + 1 :]] != old:
        return "the other nodes are not those of the standard graph, in its order"
    made, before = answer.graph.node[place], standard.graph.node[place]
    wanted = next(node for node in mmcv_flavour.graph.node if node.op_type == "grid_sampler")
    if (list(made.input), list(made.output)) != (list(before.input), list(before.output)):
        return "the new node must read and make what the old one did"
    if made.domain != wanted.domain:
        return f"a node of the domain {made.domain!r} is another operator than mmcv's"
    if attributes(made) != attributes(wanted):
        return f"its attributes are {attributes(made)}"
    known = {entry.domain for entry in answer.opset_import}
    return wanted.domain in known or f"the graph's opset_import does not know the domain {wanted.domain!r}"


@exercise("05/2", "-1 is the outer edge of pixel 0, and 2/28 is the width of a pixel.", "half a pixel in from -1")
def centre_of_pixel(answer: float) -> Verdict:
    from helpers.operators.library import grid_sampler

    ramp = np.arange(28, dtype=np.float32).reshape(1, 1, 1, 28)
    read = grid_sampler(ramp + 1, np.array([[[[answer, 0]]]], np.float32))[0, 0, 0, 0]
    if answer <= -1:
        return "-1 is the edge of the row, not the centre of its first pixel"
    return abs(read - 1) < 0.02 or f"that point reads {read - 1:.2f}, not pixel 0"


@exercise(
    "05/3",
    "As the bin by hand above, for every bin, with max in the place of mean.",
    "Two loops over rows and columns of bins; in each the points of np.arange(count) + 0.5, read by bilinear().",
)
def roi_align_max(answer: Callable[..., Any]) -> Verdict:
    from helpers.operators.library import roi_align

    random = np.random.default_rng(5)
    for bins in (2, 7):
        feature = random.normal(size=(40, 50))
        x1, y1 = random.uniform(4, 15, 2)
        box = np.array([x1, y1, x1 + random.uniform(9, 25), y1 + random.uniform(9, 18)])
        wanted = roi_align(feature[None, None], np.array([[0, *box]]), (bins, bins), 1.0, mode="max")[0, 0]
        got = np.asarray(answer(feature, box, bins))
        if got.shape != wanted.shape:
            return f"for {bins} bins an array of {wanted.shape} is wanted, got {got.shape}"
        if np.abs(got - wanted).max() > 1e-6:
            return (
                f"with {bins} x {bins} bins the largest difference to the library is {np.abs(got - wanted).max():.3g}"
            )
    return True


# --- 06 dynamic batch -------------------------------------------------------------------------------------------------


@exercise("06/1", "tmp is y[..., 0:2] * 2 - 0.5, and it comes second.", "[30, 40, ?, ?]")
def columns_swapped(answer: Sequence[float]) -> Verdict:
    return [float(value) for value in answer] == [30, 40, 19.5, 39.5]


@exercise("06/2", "Pictures x masks x height x width x 4 bytes.", "8 * 100 * 800 * 1216 * 4 bytes, in MB or MiB")
def mask_megabytes(answer: float) -> Verdict:
    size = 8 * 100 * 800 * 1216 * 4
    return min(abs(answer - size / 1e6), abs(answer - size / 2**20)) < 10


@exercise(
    "06/3",
    "The check follows data through Reshape, Expand, Tile and Slice. What else can hold a number that is a batch?",
    "An index range made from int(x.shape[0]) and read with index_select: a Gather with a constant of three indices.",
)
def frozen_unseen(answer: Any) -> Verdict:
    from dataclasses import replace

    import torch

    from helpers.export.rules import TRACED, outcome, rule
    from helpers.graph.frozen_batch import frozen_batches

    if not isinstance(answer, torch.nn.Module):
        return f"a torch.nn.Module is asked for, this is a {type(answer).__name__}"
    found = outcome(rule(3), replace(rule(3).before, function=answer))
    if found.graph is None:
        return f"the export fails: {found.error}"
    if seen := frozen_batches(found.graph):
        return f"the check finds it: {seen[0]}"
    return found.good_batches == (TRACED,) or f"it is right for the batches {list(found.good_batches)}, not for 3 alone"


# --- 07 half precision ------------------------------------------------------------------------------------------------


@exercise(
    "07/1", "The last class number k has k * 1216 + 1 < 65520; the classes are 0 to k.", "(65520 - 2) // 1216 + 1"
)
def most_classes(answer: int) -> Verdict:
    if answer == 53:
        return "53 is the number of the last class; how many classes are there from 0 to 53?"
    return answer == 54


@exercise("07/2", "300 * 300 is beyond the end, and infinity times what is NaN?", "Mul(x, x), then Mul by a constant 0")
def overflow_without_sub(answer: onnx.ModelProto) -> Verdict:
    from helpers.half_precision.simulation import hunt

    if any(node.op_type == "Sub" for node in answer.graph.node):
        return "there is a Sub in it"
    if not all(node.name for node in answer.graph.node):
        return "a node has no name, and the hunt could not tell which"
    feeds = {"x": np.array([300, 1], np.float32)}
    if hunt(answer, feeds, form=None).suspects:
        return "it is not finite in FP32 either"
    return hunt(answer, feeds).first_nan is not None or "no NaN comes out in half precision"


@exercise(
    "07/3",
    "The product of two sides overflows. What do their roots do?",
    "For both Mul that make an area: Sqrt of either side, then Mul of the two roots in the place of the old Sqrt.",
)
def levels_without_an_area(answer: onnx.ModelProto, *, plain: onnx.ModelProto, plan: Any, picture: Any) -> Verdict:
    from helpers.graph import detect
    from helpers.graph.cut import run_graph
    from helpers.graph.origins import origin
    from helpers.half_precision.simulation import hunt

    def in_levels(where: Any) -> bool:
        return any("map_roi_levels" in line for line in where.lines[:1])

    here = {node.name: node.SerializeToString() for node in answer.graph.node}
    old = {node.name: node for node in plain.graph.node}
    changed = [name for name, node in old.items() if here.get(name) != node.SerializeToString()]
    if strangers := [name for name in changed if not in_levels(origin(old[name]))]:
        return f"{strangers[0]!r}, which is no node of map_roi_levels, is another one or missing"
    feeds = detect.feeds([picture])
    found = hunt(answer, feeds, keep=plan.names).suspects
    if left := [s for s in found if in_levels(s.where) or s.node not in old or s.node in changed]:
        return f"{left[0].node!r} is still infinite"
    wanted, got = (run_graph(model, feeds, ["dets", "labels"]) for model in (plain, answer))
    same = np.allclose(got["dets"], wanted["dets"], atol=0.01) and np.array_equal(got["labels"], wanted["labels"])
    return bool(same) or "in FP32 it finds other objects than the graph did before"


# --- 08 deploy and measure --------------------------------------------------------------------------------------------


@exercise(
    "08/1",
    "Which parts see the picture, and which see a fixed number of RoIs?",
    "backbone, neck and the RPN's convolutions grow fourfold, the two heads not at all: add up, divide by today's sum.",
)
def growth_of_operations(answer: float, *, counts: dict[str, int]) -> Verdict:
    heads = sum(count for name, count in counts.items() if name in ("box head", "mask head"))
    whole = sum(counts.values())
    if abs(answer - 4) < 0.01:
        return "the heads work on 1000 proposals and 100 detections, whatever the picture's size"
    return abs(answer - (4 * (whole - heads) + heads) / whole) < 0.02


@exercise(
    "08/2",
    "Who can change a file can change the list.",
    "Copy the folder, write 0.9 to thresholds/mask of bundle.json, and its new SHA-256 into SHA256SUMS.",
)
def forged_bundle(answer: Any, *, folder: Any) -> Verdict:
    from pathlib import Path

    from helpers.deploy import client

    copy, original = Path(answer), Path(folder)
    if copy.resolve() == original.resolve():
        return "that is the folder itself; make a copy"
    try:
        client.verify(copy)
    except client.BundleError as error:
        return f"the client says: {error}"
    if json.loads((copy / "bundle.json").read_text())["thresholds"]["mask"] != 0.9:
        return "its masks are thresholded as before"
    return (copy / "client.py").read_bytes() == (original / "client.py").read_bytes() or "the client is another one"


# --- 09 a model of one's own ------------------------------------------------------------------------------------------


@exercise("09/1", "Which of the three does the network get first, with to_rgb=False?", "Blue first, each less its mean")
def caffe_pixel(answer: Sequence[float]) -> Verdict:
    wanted = np.array([10 - 103.53, 20 - 116.28, 30 - 123.675])
    given = np.asarray(answer, float)
    if given.shape == (3,) and np.allclose(given, [30 - 123.675, 20 - 116.28, 10 - 103.53]):
        return "the numbers are right and their order is RGB"
    return given.shape == (3,) and bool(np.allclose(given, wanted, atol=1e-3))


@exercise(
    "09/2",
    "mmdet matches the longer side of the picture with the longer of the scale; the course fits into 800 x 1344.",
    "mmdet's factor is min(1333 / 800, 800 / 600); the course's is at most 800 / 800",
)
def portrait_scales(answer: Sequence[Sequence[int]]) -> Verdict:
    first, second = (tuple(int(side) for side in shape) for shape in answer)
    if (second, first) == ((1067, 800), (800, 600)):
        return "mmdet's comes first"
    if (first[1], first[0]) == (1067, 800):
        return "height comes first"
    return (first, second) == ((1067, 800), (800, 600))
