// ScatterND (ONNX, without reduction): a copy of `data` in which slices are replaced by `updates`. One function: where a
// row of `indices` points.
#pragma once

#include "../common/host_device.h"

namespace course {

constexpr int32_t kMaxScatterRank = 8;

// The first `depth` dimensions of data, and the number of elements that one row of indices addresses.
struct ScatterShape {
    int32_t depth;
    int64_t dims[kMaxScatterRank];
    int64_t slice;
};

// The offset of the slice that a row of indices addresses, in elements; -1 if an index is out of range. Negative indices
// count from the end.
template <typename Index>
COURSE_HOST_DEVICE int64_t scatter_offset(const Index* row, const ScatterShape& shape) {
    int64_t offset = 0;
    for (int32_t d = 0; d < shape.depth; ++d) {
        int64_t index = int64_t(row[d]);
        if (index < -shape.dims[d] || index >= shape.dims[d]) return -1;
        if (index < 0) index += shape.dims[d];
        offset = offset * shape.dims[d] + index;
    }
    return offset * shape.slice;
}

}  // namespace course
