"""Graph rewrites that fit an exported model to the plugins.

:func:`one_roi_align_per_head` replaces the four masked RoIAligns that mmdet's export writes for each head by one
``MultiLevelRoIAlign`` (mmdet samples every RoI on every pyramid level and multiplies three of the four results by
zero). It returns a new model and leaves the given one as it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from helpers.errors import CourseError
from helpers.graph.index import GraphIndex

__all__ = ["GraphPatternError", "one_roi_align_per_head"]

DOMAIN = "mmcv"


class GraphPatternError(CourseError):
    """A graph does not have the form that the rewrite knows; the message names the node."""


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _remove_unused(model: onnx.ModelProto) -> None:
    """Drop nodes, initializers and shape notes that nothing reads any more."""
    graph = model.graph
    wanted = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(GraphIndex.reads(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for field in (graph.initializer, graph.value_info):
        left = [entry for entry in field if entry.name in wanted]
        del field[:]
        field.extend(left)


# --- MultiLevelRoIAlign -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Branch:
    """One masked RoIAlign: what it samples, and the sum that it ends in."""

    align: onnx.NodeProto
    level: int
    rois: str
    levels: str  # the tensor with every RoI's level
    total: onnx.NodeProto  # the Add that takes the masked result


def _branch(graph: GraphIndex, align: onnx.NodeProto) -> _Branch:
    """``RoIAlign(features, rois * mask) * mask`` added to a sum, with ``mask = (levels == level)``."""

    def no(what: str) -> GraphPatternError:
        return GraphPatternError(
            f"the RoIAlign {align.name or align.output[0]} is not one of mmdet's masked ones ({what})",
            "export with helpers.export.exporter in the mmcv flavour, and rewrite before other rewrites",
        )

    masked = graph.made_by(align.input[1], "Mul")
    if masked is None:
        raise no("its RoIs are not multiplied by a mask")
    # torch writes rois * mask; the product may be turned round.
    rois, equal = masked.input[0], graph.made_by(masked.input[1], "Unsqueeze", "Cast", "Equal")
    if equal is None:
        rois, equal = masked.input[1], graph.made_by(masked.input[0], "Unsqueeze", "Cast", "Equal")
    if equal is None:
        raise no("no comparison of levels makes the mask")
    level = graph.scalar(equal.input[1])
    after = graph.readers(align.output[0])
    totals = graph.readers(after[0].output[0]) if len(after) == 1 and after[0].op_type == "Mul" else ()
    if level is None or len(totals) != 1 or totals[0].op_type != "Add":
        raise no("its result is not masked and added up")
    return _Branch(align, int(level), rois, equal.input[0], totals[0])


def _sides(graph: GraphIndex, scale: str) -> Sequence[str]:
    """Width and height of which a tensor is the root of the product, as mmdet writes it, or the product of the roots,
    as the patch ``p34_roi_scale_without_area`` does; nothing if it is neither.
    """
    if (product := graph.made_by(scale, "Sqrt", "Mul")) is not None:
        return tuple(product.input)
    product = graph.made_by(scale, "Mul")
    roots = [graph.made_by(name, "Sqrt") for name in product.input] if product is not None else []
    return tuple(root.input[0] for root in roots if root is not None) if all(roots) else ()


def _finest_scale(graph: GraphIndex, levels: str, rois: str, count: int) -> float:
    """Follow the computation of the levels upwards; it must be ``SingleRoIExtractor.map_roi_levels``, whole."""
    clip = graph.made_by(levels, "Cast", "Clip")
    logarithm = graph.made_by(clip.input[0], "Floor", "Div", "Log") if clip is not None else None
    small = graph.made_by(logarithm.input[0], "Add") if logarithm is not None else None
    scaled = graph.made_by(small.input[0], "Div") if small is not None else None
    sides = _sides(graph, scaled.input[0]) if scaled is not None else ()
    if clip is None or small is None or scaled is None or not sides:
        raise GraphPatternError("the pyramid levels are not computed as mmdet does", "rewrite a fresh export")
    corners = set()
    for side in sides:
        difference = graph.made_by(side, "Sub")
        for end in difference.input if difference is not None else ():
            gather = graph.made_by(end, "Gather")
            if gather is not None and gather.input[0] == rois:
                corners.add(graph.scalar(gather.input[1]))
    epsilon, finest = graph.scalar(small.input[1]), graph.scalar(scaled.input[1])
    bounds = [graph.scalar(name) for name in clip.input[1:]]
    good = corners == {1.0, 2.0, 3.0, 4.0} and bounds == [0.0, float(count - 1)] and finest is not None
    if not good or epsilon is None or not np.isclose(epsilon, 1e-6) or finest is None:
        raise GraphPatternError(
            f"the pyramid levels are computed from other numbers than mmdet's (bounds {bounds}, epsilon {epsilon})",
            "the plugin knows mmdet's rule only: leave this graph as it is",
        )
    return finest


def _replacement(graph: GraphIndex, branches: Sequence[_Branch]) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """The MultiLevelRoIAlign for one head, and the Add whose place it takes."""
    branches = sorted(branches, key=lambda branch: branch.level)
    first = branches[0]
    options = [_attributes(branch.align) for branch in branches]
    same = [{k: v for k, v in option.items() if k != "spatial_scale"} for option in options]
    if [branch.level for branch in branches] != list(range(len(branches))) or any(one != same[0] for one in same):
        raise GraphPatternError(
            f"the RoIAligns of {first.align.name} do not form one pyramid",
            "rewrite a fresh export of helpers.export.exporter",
        )
    # The sums must be one chain that starts at zeros: one start that is no sum itself, one end that no sum reads.
    totals = {branch.total.output[0]: branch.total for branch in branches}
    masked = {graph.readers(branch.align.output[0])[0].output[0] for branch in branches}
    starts = [name for total in totals.values() for name in total.input if name not in totals and name not in masked]
    read = {name for total in totals.values() for name in total.input}
    ends = [total for name, total in totals.items() if name not in read]
    zeros = graph.made_by(starts[0], "Mul") if len(starts) == 1 else None
    if len(ends) != 1 or zeros is None or all(graph.scalar(name) != 0 for name in zeros.input):
        raise GraphPatternError(
            f"the results of {first.align.name} are not simply added up",
            "rewrite a fresh export of helpers.export.exporter",
        )
    node = helper.make_node(
        "MultiLevelRoIAlign",
        [first.rois, *(branch.align.input[0] for branch in branches)],
        [ends[0].output[0]],
        name=f"MultiLevelRoIAlign_{first.align.name}",
        doc_string=first.align.doc_string,
        domain=DOMAIN,
        strides=[1.0 / option["spatial_scale"] for option in options],
        finest_scale=_finest_scale(graph, first.levels, first.rois, len(branches)),
        **same[0],
    )
    return node, ends[0]


def one_roi_align_per_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace each head's masked ``MMCVRoiAlign`` nodes (one a pyramid level) by one ``mmcv::MultiLevelRoIAlign``.

    For the ``mmcv`` flavour of :mod:`helpers.export.exporter`. The new node's inputs are the RoIs (n, 5) and the
    feature maps, finest first; it chooses each RoI's level by mmdet's rule, in float, so the graph's own computation of
    the levels goes away too. Values are those of the four nodes up to rounding. One difference in principle: ``log2``
    is computed as ``log(x) / log(2)`` in the exported graph, so a RoI whose size lies within rounding of a level's
    border may take the neighbouring level.

    Raises:
        GraphPatternError: there is no MMCVRoiAlign, or not in mmdet's pattern; nothing was changed.
    """
    model = _copy(model)
    graph = GraphIndex(model)
    aligns = [node for node in graph.nodes if node.op_type == "MMCVRoiAlign"]
    if not aligns:
        raise GraphPatternError("the graph has no MMCVRoiAlign", "export in the mmcv flavour")
    heads: dict[tuple[str, str], list[_Branch]] = defaultdict(list)
    for align in aligns:
        branch = _branch(graph, align)
        heads[branch.rois, branch.levels].append(branch)
    # All of them are found before the first is replaced: an index is of a graph that does not change.
    for node, replaced in [_replacement(graph, branches) for branches in heads.values()]:
        place = next(i for i, other in enumerate(model.graph.node) if other.output[:1] == replaced.output[:1])
        model.graph.node.remove(replaced)
        model.graph.node.insert(place, node)
    _remove_unused(model)
    if left := [node.name for node in model.graph.node if node.op_type == "MMCVRoiAlign"]:
        raise GraphPatternError(f"something else reads the result of {left[0]}", "leave this graph as it is")
    return model


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
