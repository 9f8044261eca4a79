// NonMaxSuppression with ONNX semantics, its two decisions: which of two boxes comes first, and whether one suppresses
// another. Greedy: within each picture and class, boxes above the score threshold are visited by falling score, equal
// scores by rising index (as ONNX Runtime does; the standard leaves it open), and a box is kept unless its overlap with a
// kept one exceeds the threshold.
#pragma once

#include "../common/host_device.h"

namespace course {

template <typename Real>
struct Corners {
    Real x1, y1, x2, y2;  // ordered: x1 <= x2, y1 <= y2
};

// A box as the ONNX operator takes it: two opposite corners in any order, y first (center_point_box 0), or centre and size,
// x first (1). mmdet passes (x1, y1, x2, y2) for the first; swapping the axes changes no overlap.
template <typename Real>
COURSE_HOST_DEVICE Corners<Real> corners(const Real box[4], int32_t center_point_box) {
    Corners<Real> c;
    if (center_point_box) {
        const Real half_width = box[2] / Real(2), half_height = box[3] / Real(2);
        c.x1 = box[0] - half_width;
        c.x2 = box[0] + half_width;
        c.y1 = box[1] - half_height;
        c.y2 = box[1] + half_height;
    } else {
        c.y1 = smaller(box[0], box[2]);
        c.y2 = larger(box[0], box[2]);
        c.x1 = smaller(box[1], box[3]);
        c.x2 = larger(box[1], box[3]);
    }
    return c;
}

// `offset` 1 is the legacy convention where a box from pixel 3 to pixel 3 is one pixel wide (mmcv's attribute; 0 in ONNX).
template <typename Real>
COURSE_HOST_DEVICE bool suppresses(const Corners<Real>& a, const Corners<Real>& b, Real offset, Real iou_threshold) {
    const Real width = smaller(a.x2, b.x2) - larger(a.x1, b.x1) + offset;
    const Real height = smaller(a.y2, b.y2) - larger(a.y1, b.y1) + offset;
    // Also false for NaN: such a box suppresses nothing and is suppressed by nothing.
    if (!(width > Real(0) && height > Real(0))) return false;
    const Real intersection = width * height;
    const Real area_a = (a.x2 - a.x1 + offset) * (a.y2 - a.y1 + offset);
    const Real area_b = (b.x2 - b.x1 + offset) * (b.y2 - b.y1 + offset);
    const Real both = area_a + area_b - intersection;
    if (!(area_a > Real(0) && area_b > Real(0) && both > Real(0))) return false;
    return intersection / both > iou_threshold;
}

// Whether box i is visited before box j.
template <typename Real>
COURSE_HOST_DEVICE bool precedes(Real score_i, int32_t i, Real score_j, int32_t j) {
    return score_i > score_j || (score_i == score_j && i < j);
}

}  // namespace course
