"""Walk through mmdet's two-stage detector with everything that passes between its parts kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from helpers.detector.detections import Detections
from helpers.detector.inference import NothingFoundError, detect_prepared
from helpers.detector.preprocess import NetworkInput
from helpers.detector.tracing import ModuleCall, recorded_functions, trace_modules

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

__all__ = ["PARTS", "Walk", "flow_diagram", "masks_for_boxes", "nearest_proposals", "roi_levels", "walk"]

# The parts of a two-stage mask detector, by their names in mmdet 2.x.
PARTS = (
    "backbone",
    "neck",
    "rpn_head",
    "roi_head.bbox_roi_extractor",
    "roi_head.bbox_head",
    "roi_head.mask_roi_extractor",
    "roi_head.mask_head",
)

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Walk:
    """One picture's way through the detector; all boxes in pixels of the network's input, xyxy.

    calls: the parts in the order in which they finished. levels: the FPN's output, finest first, each (C, H, W).
    candidates (K, 4) and candidate_levels (K,): the boxes that entered the RPN's NMS and the level each came from.
    proposals (P, 5): what left it, with scores, best first; proposal_levels (P,).
    box_rois (P, 4): what the box branch pooled.
    found: the N detections, in pixels of the input. mask_rois (N, 4): what the mask branch pooled, and mask_logits
    (N, classes, 28, 28) what it made of it, both in the order of ``found``.
    """

    calls: list[ModuleCall]
    levels: list[Array]
    candidates: Array
    candidate_levels: npt.NDArray[np.int64]
    proposals: Array
    proposal_levels: npt.NDArray[np.int64]
    box_rois: Array
    mask_rois: Array
    mask_logits: Array
    found: Detections

    def call(self, name: str) -> ModuleCall:
        """The call of a part. Raises KeyError if it did not run."""
        for call in self.calls:
            if call.name == name:
                return call
        raise KeyError(name)


def walk(detector: BaseDetector, prepared: NetworkInput) -> Walk:
    """Run the detector on one picture with hooks on its parts and on the RPN's NMS.

    Raises:
        NothingFoundError: no detection at all, so that the mask branch is not called.
    """
    import mmdet.models.dense_heads.rpn_head as rpn

    places = (rpn, "batched_nms"), (detector.roi_head, "simple_test_mask")
    with recorded_functions(*places) as functions:
        calls, found = trace_modules(detector, PARTS, lambda: detect_prepared(detector, prepared, rescale=False))
    if not len(found):
        raise NothingFoundError(
            "the detector finds nothing, so its mask branch is not called",
            "choose a picture with helpers.detector.inference.first_with_objects",
        )
    by_name = {call.name: call for call in calls}
    nms = functions["batched_nms"][0]
    candidates, _, levels = nms.args[:3]
    dets, kept = nms.result
    # The mask branch works in the order of the scores; mmdet's results are grouped by class, in the same order within.
    by_class = torch.sort(functions["simple_test_mask"][0].args[3][0], stable=True).indices
    # mmdet keeps max_per_img boxes of what its NMS returns, best first.
    count = detector.test_cfg.rpn.max_per_img
    return Walk(
        calls=calls,
        levels=[level[0].numpy() for level in by_name["neck"].outputs],
        candidates=candidates.numpy(),
        candidate_levels=levels.numpy(),
        proposals=dets[:count].numpy(),
        proposal_levels=levels[kept][:count].numpy(),
        box_rois=by_name["roi_head.bbox_roi_extractor"].inputs[1][:, 1:].numpy(),
        mask_rois=by_name["roi_head.mask_roi_extractor"].inputs[1][by_class, 1:].numpy(),
        mask_logits=by_name["roi_head.mask_head"].outputs[by_class].numpy(),
        found=found,
    )


def roi_levels(rois: Array, *, finest_scale: float = 56.0, levels: int = 4) -> npt.NDArray[np.int64]:
    """The FPN level (0 = finest) that each RoI (N, 4) xyxy is pooled from: clamp(floor(log2(sqrt(area) / 56))).

    Lin et al., "Feature Pyramid Networks for Object Detection", equation 1, in the form and with the constants of
    mmdet's SingleRoIExtractor: an RoI of 224 pixels goes to the third level.
    """
    side = np.sqrt((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1]))
    level = np.floor(np.log2(side / finest_scale + 1e-6))
    return np.clip(level, 0, levels - 1).astype(np.int64)


def nearest_proposals(boxes: Array, proposals: Array) -> npt.NDArray[np.int64]:
    """For each box (N, 4) the index of the proposal (P, 4+) that overlaps it most."""
    from helpers.detector.detections import box_iou

    return box_iou(boxes, proposals[:, :4]).argmax(axis=1)


def masks_for_boxes(
    detector: BaseDetector, walked: Walk, boxes: Array, labels: npt.NDArray[np.int64], shape: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """What the mask branch gives for any boxes (N, 4) in input pixels: (N, H, W) masks of ``shape`` (height, width).

    The features are those of the walk; only the mask branch runs again.
    """
    head = detector.roi_head
    features = [torch.from_numpy(level)[None] for level in walked.levels]
    rois = torch.from_numpy(np.concatenate([np.zeros((len(boxes), 1), np.float32), boxes], axis=1))
    with torch.no_grad():
        logits = head._mask_forward(features, rois)["mask_pred"]
    results = head.mask_head.get_seg_masks(
        logits, torch.from_numpy(boxes), torch.from_numpy(labels), head.test_cfg, (*shape, 3), np.ones(4), False
    )
    taken = [0] * len(results)
    masks = []
    for label in labels:  # results are grouped by class, in the order of the boxes
        masks.append(results[label][taken[label]])
        taken[label] += 1
    return np.stack(masks).astype(bool)


def flow_diagram(calls: Sequence[ModuleCall], *, parallel: bool = False, axis: Axes | None = None) -> Figure:
    """Draw the parts and what flows between them, with the shapes that were seen.

    ``parallel`` draws the same parts as the paper does (He et al., "Mask R-CNN", figures 1 and 3): both branches fed by
    the proposals, side by side.
    """
    if axis is None:
        _, axis = plt.subplots(figsize=(13, 3.6), layout="constrained")
    shown = {call.name: call for call in calls}
    titles = {"bbox_roi_extractor": "box RoIAlign", "mask_roi_extractor": "mask RoIAlign", "bbox_head": "box head"}
    step, width, height = 1.4, 0.98, 0.5
    places = {name: (step * column, 0.0) for column, name in enumerate(("backbone", "neck", "rpn_head"))}
    for row, column, branch in ((0.6, 3, "bbox"), (-0.6, 3 if parallel else 5, "mask")):
        places[f"roi_head.{branch}_roi_extractor"] = (step * column, row)
        places[f"roi_head.{branch}_head"] = (step * (column + 1), row)
    for name, (x, y) in places.items():
        call = shown[name]
        colour = "#ddf4ff" if "bbox" in name else "#ffebe9" if "mask" in name else "#eaeef2"
        box = FancyBboxPatch((x, y - height / 2), width, height, boxstyle="round,pad=0.02")
        box.set(facecolor=colour, edgecolor="#59636e")
        axis.add_patch(box)
        short = name.removeprefix("roi_head.")
        text = titles.get(short, short.replace("_", " "))
        if not parallel:  # the shapes were seen in this order of execution, and are true of no other
            shape = call.output_shapes[0]
            text = f"{call.order + 1}. {text}\n{'×'.join(map(str, shape))}"
        axis.text(x + width / 2, y, text, ha="center", va="center", fontsize=8)

    def arrow(start: str, end: str, words: str = "", colour: str = "#59636e", dx: float = 0, dy: float = 0) -> None:
        (x0, y0), (x1, y1) = places[start], places[end]
        style = {"arrowstyle": "-|>", "color": colour, "lw": 1.6}
        axis.annotate("", (x1 - 0.03, y1), (x0 + width + 0.03, y0), arrowprops=style)
        middle = (x0 + width + x1) / 2 + dx, (y0 + y1) / 2 + dy
        axis.text(*middle, words, ha="center", va="center", fontsize=8.5, color=colour)

    arrow("backbone", "neck")
    arrow("neck", "rpn_head")
    arrow("rpn_head", "roi_head.bbox_roi_extractor", "proposals", "#0969da", -0.3, 0.12)
    arrow("roi_head.bbox_roi_extractor", "roi_head.bbox_head")
    arrow("roi_head.mask_roi_extractor", "roi_head.mask_head")
    if parallel:
        arrow("rpn_head", "roi_head.mask_roi_extractor", "the same\nproposals", "#0969da", -0.3, -0.14)
        axis.set_title("As the paper draws it: box and mask branch side by side, fed by the same proposals")
    else:
        arrow("roi_head.bbox_head", "roi_head.mask_roi_extractor", "refined boxes,\nafter NMS", "#cf222e", 0.55)
        axis.set_title("As mmdet runs it: the mask branch waits for the box branch (order and first output's shape)")
    axis.set_xlim(-0.1, 6 * step + width + 0.1)
    axis.set_ylim(-1.0, 1.0)
    axis.axis("off")
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    return figure
