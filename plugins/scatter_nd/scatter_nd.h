// The C interface of ScatterND. `type` is of data, updates and output; index_type is int32 or int64.
#pragma once

#include "../common/host_device.h"

// data and output have `rank` dimensions `dims`; indices is (rows, depth) with depth <= rank; updates is (rows, and the
// last rank - depth dimensions of data). output may be data itself.
//
// Rows that address the same slice: ONNX leaves the result open. The host writes rows in order, so the last one wins (as
// in ONNX Runtime on one thread); on the GPU each element is one of the candidates.
// A row with an index out of range: the host writes nothing and answers kCourseIndexOutOfRange; a kernel cannot, so the
// CUDA version leaves that row out.
COURSE_API int32_t course_scatter_nd_host(const void* data, const void* indices, const void* updates, void* output,
                                          int32_t type, int32_t index_type, const int64_t* dims, int32_t rank, int64_t rows,
                                          int32_t depth);

COURSE_API int32_t course_scatter_nd_cuda(const void* data, const void* indices, const void* updates, void* output,
                                          int32_t type, int32_t index_type, const int64_t* dims, int32_t rank, int64_t rows,
                                          int32_t depth, void* stream);
