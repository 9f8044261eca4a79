#include "non_max_suppression.h"

#include <algorithm>
#include <vector>

#include "non_max_suppression_math.h"

namespace {

struct Sizes {
    int32_t batch, classes, count;
    int64_t max_per_class;
};

template <typename Real>
int64_t run(const Real* boxes, const Real* scores, int64_t* selected, const Sizes& s, Real iou_threshold,
            Real score_threshold, int32_t center_point_box, Real offset) {
    int64_t rows = 0;
    std::vector<int32_t> order;
    std::vector<int32_t> kept;
    for (int32_t n = 0; n < s.batch; ++n) {
        const Real* picture_boxes = boxes + int64_t(n) * s.count * 4;
        for (int32_t c = 0; c < s.classes; ++c) {
            const Real* score = scores + (int64_t(n) * s.classes + c) * s.count;
            order.clear();
            for (int32_t i = 0; i < s.count; ++i) {
                // NaN scores have no place in an order; they are never candidates.
                if (score[i] > score_threshold || (isnan(score_threshold) && !isnan(score[i]))) order.push_back(i);
            }
            std::sort(order.begin(), order.end(),
                      [&](int32_t i, int32_t j) { return course::precedes(score[i], i, score[j], j); });
            kept.clear();
            for (int32_t i : order) {
                if (int64_t(kept.size()) >= s.max_per_class) break;
                const auto box = course::corners(picture_boxes + int64_t(i) * 4, center_point_box);
                const bool suppressed = std::any_of(kept.begin(), kept.end(), [&](int32_t k) {
                    return course::suppresses(course::corners(picture_boxes + int64_t(k) * 4, center_point_box), box,
                                              offset, iou_threshold);
                });
                if (suppressed) continue;
                kept.push_back(i);
                selected[rows * 3] = n;
                selected[rows * 3 + 1] = c;
                selected[rows * 3 + 2] = i;
                ++rows;
            }
        }
    }
    return rows;
}

}  // namespace

int32_t course_non_max_suppression_host(const void* boxes, const void* scores, int64_t* selected, int64_t* selected_count,
                                        int32_t type, int32_t batch, int32_t classes, int32_t count,
                                        int64_t max_per_class, double iou_threshold, double score_threshold,
                                        int32_t center_point_box, int32_t offset) {
    if (batch < 0 || classes < 0 || count < 0 || max_per_class < 0 || !(iou_threshold >= 0 && iou_threshold <= 1) ||
        (offset != 0 && offset != 1) || !selected_count)
        return kCourseBadArgument;
    if (batch > 0 && classes > 0 && count > 0 && max_per_class > 0 && (!boxes || !scores || !selected)) return kCourseBadArgument;
    const Sizes sizes{batch, classes, count, max_per_class};
    if (type == kCourseFloat32) {
        *selected_count = run(static_cast<const float*>(boxes), static_cast<const float*>(scores), selected, sizes,
                              float(iou_threshold), float(score_threshold), center_point_box, float(offset));
    } else if (type == kCourseFloat64) {
        *selected_count = run(static_cast<const double*>(boxes), static_cast<const double*>(scores), selected, sizes,
                              iou_threshold, score_threshold, center_point_box, double(offset));
    } else {
        return kCourseBadArgument;
    }
    return kCourseOk;
}
