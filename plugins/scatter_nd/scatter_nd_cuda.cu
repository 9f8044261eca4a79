#include "scatter_nd.h"

#include "../common/cuda_common.h"
#include "scatter_nd_shape.h"

namespace {

constexpr int32_t kThreads = 256;

// Unit: an unsigned integer as wide as an element; scattering moves bits and computes nothing.
template <typename Unit, typename Index>
__global__ void __launch_bounds__(kThreads) scatter_kernel(const Index* __restrict__ indices,
                                                           const Unit* __restrict__ updates, Unit* __restrict__ output,
                                                           const course::ScatterShape shape, int64_t total) {
    const int64_t step = int64_t(gridDim.x) * kThreads;
    for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < total; i += step) {
        const int64_t row = i / shape.slice;
        const int64_t offset = course::scatter_offset(indices + row * shape.depth, shape);
        if (offset >= 0) output[offset + (i - row * shape.slice)] = updates[i];
    }
}

template <typename Unit>
int32_t launch(const void* indices, const void* updates, void* output, int32_t index_type,
               const course::ScatterShape& shape, int64_t total, cudaStream_t stream) {
    const uint32_t blocks = uint32_t(course::smaller<int64_t>((total + kThreads - 1) / kThreads, 65536));
    if (index_type == kCourseInt32) {
        scatter_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const int32_t*>(indices),
                                                        static_cast<const Unit*>(updates), static_cast<Unit*>(output),
                                                        shape, total);
    } else {
        scatter_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const int64_t*>(indices),
                                                        static_cast<const Unit*>(updates), static_cast<Unit*>(output),
                                                        shape, total);
    }
    return course::launch_status();
}

}  // namespace

int32_t course_scatter_nd_cuda(const void* data, const void* indices, const void* updates, void* output, int32_t type,
                               int32_t index_type, const int64_t* dims, int32_t rank, int64_t rows, int32_t depth,
                               void* stream) {
    course::ScatterShape shape;
    int64_t elements = 0;
    const int64_t bytes = course::element_size(type);
    if (bytes == 0 || (index_type != kCourseInt32 && index_type != kCourseInt64) ||
        !course::scatter_shape(dims, rank, rows, depth, &shape, &elements))
        return kCourseBadArgument;
    auto* cuda_stream = static_cast<cudaStream_t>(stream);
    if (elements > 0 && output != data) {
        const cudaError_t status =
            cudaMemcpyAsync(output, data, size_t(elements * bytes), cudaMemcpyDeviceToDevice, cuda_stream);
        if (status != cudaSuccess) return int32_t(status);
    }
    const int64_t total = rows * shape.slice;
    if (total == 0) return kCourseOk;
    if (bytes == 2) return launch<uint16_t>(indices, updates, output, index_type, shape, total, cuda_stream);
    if (bytes == 4) return launch<uint32_t>(indices, updates, output, index_type, shape, total, cuda_stream);
    return launch<uint64_t>(indices, updates, output, index_type, shape, total, cuda_stream);
}
