#include "scatter_nd.h"

#include <string.h>

#include "scatter_nd_shape.h"

namespace {

template <typename Index>
int32_t run(const void* indices, const void* updates, void* output, const course::ScatterShape& shape, int64_t rows,
            int64_t slice_bytes, int64_t element_bytes) {
    const Index* row = static_cast<const Index*>(indices);
    // All rows are checked before the first is written: a wrong index leaves the plain copy.
    for (int64_t r = 0; r < rows; ++r)
        if (course::scatter_offset(row + r * shape.depth, shape) < 0) return kCourseIndexOutOfRange;
    if (slice_bytes == 0) return kCourseOk;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t offset = course::scatter_offset(row + r * shape.depth, shape) * element_bytes;
        memcpy(static_cast<char*>(output) + offset, static_cast<const char*>(updates) + r * slice_bytes,
               size_t(slice_bytes));
    }
    return kCourseOk;
}

}  // namespace

int32_t course_scatter_nd_host(const void* data, const void* indices, const void* updates, void* output, int32_t type,
                               int32_t index_type, const int64_t* dims, int32_t rank, int64_t rows, int32_t depth) {
    course::ScatterShape shape;
    int64_t elements = 0;
    const int64_t bytes = course::element_size(type);
    if (bytes == 0 || (index_type != kCourseInt32 && index_type != kCourseInt64) ||
        !course::scatter_shape(dims, rank, rows, depth, &shape, &elements))
        return kCourseBadArgument;
    if (elements > 0 && output != data) memcpy(output, data, size_t(elements * bytes));
    return index_type == kCourseInt32
               ? run<int32_t>(indices, updates, output, shape, rows, shape.slice * bytes, bytes)
               : run<int64_t>(indices, updates, output, shape, rows, shape.slice * bytes, bytes);
}
