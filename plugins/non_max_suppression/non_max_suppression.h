// The C interface of NonMaxSuppression.
#pragma once

#include <stddef.h>

#include "../common/host_device.h"

// boxes (batch, count, 4), scores (batch, classes, count). Writes rows (picture, class, box) to `selected`, which has room
// for batch * classes * min(max_per_class, count) rows, in ONNX Runtime's order: by picture, class, falling score.
// score_threshold NaN: no threshold (the ONNX input was left out). max_per_class 0 selects nothing.

// selected is int64; *selected_count receives the number of rows written; rows after it are untouched.
COURSE_API int32_t course_non_max_suppression_host(const void* boxes, const void* scores, int64_t* selected,
                                                   int64_t* selected_count, int32_t type, int32_t batch, int32_t classes,
                                                   int32_t count, int64_t max_per_class, double iou_threshold,
                                                   double score_threshold, int32_t center_point_box, int32_t offset);

// selected is int32 and is always filled: unused rows, all at the end, are (-1, -1, -1).
COURSE_API int32_t course_non_max_suppression_cuda(const void* boxes, const void* scores, int32_t* selected,
                                                   void* workspace, int32_t type, int32_t batch, int32_t classes,
                                                   int32_t count, int64_t max_per_class, double iou_threshold,
                                                   double score_threshold, int32_t center_point_box, int32_t offset,
                                                   void* stream);
COURSE_API size_t course_non_max_suppression_workspace(int32_t batch, int32_t classes, int32_t count,
                                                       int64_t max_per_class);
