#pragma once

#include "scatter_nd_math.h"

namespace course {

// Bytes of an element, 0 for a type that ScatterND does not take.
inline int32_t element_size(int32_t type) {
    switch (type) {
        case kCourseFloat16: return 2;
        case kCourseFloat32:
        case kCourseInt32: return 4;
        case kCourseFloat64:
        case kCourseInt64: return 8;
        default: return 0;
    }
}

// False: the arguments make no sense.
inline bool scatter_shape(const int64_t* dims, int32_t rank, int64_t rows, int32_t depth, ScatterShape* shape,
                          int64_t* elements) {
    if (rank < 1 || rank > kMaxScatterRank || depth < 1 || depth > rank || rows < 0) return false;
    shape->depth = depth;
    shape->slice = 1;
    *elements = 1;
    for (int32_t d = 0; d < rank; ++d) {
        if (dims[d] < 0) return false;
        shape->dims[d] = dims[d];
        *elements *= dims[d];
        if (d >= depth) shape->slice *= dims[d];
    }
    return true;
}

}  // namespace course
