// Pasting 100 masks of 28x28 into 800x1216 moves 778 MB of grid in and 389 MB of masks out; the masks themselves are 0.3 MB
// and stay in the caches. So the kernel is a stream: each thread takes `points` neighbouring grid points, loads them in
// 16-byte accesses, and stores its results in one. Grid and output are touched once and are marked so (__ldcs, __stcs),
// which leaves the caches to the input.
#include "grid_sampler.h"

#include "../common/cuda_common.h"
#include "grid_sampler_math.h"

namespace {

using course::Pack;

constexpr int32_t kThreads = 256;

struct Sizes {
    int32_t batch, channels, height, width, out_height, out_width;
};

// 16-byte (or, for the odd sizes, element-wise) streaming accesses.
template <typename Element, int32_t count>
__device__ __forceinline__ Pack<Element, count> load_streaming(const Element* source) {
    Pack<Element, count> pack;
    constexpr int32_t bytes = sizeof(Element) * count;
    if constexpr (bytes % 16 == 0) {
#pragma unroll
        for (int32_t i = 0; i < bytes / 16; ++i)
            reinterpret_cast<int4*>(&pack)[i] = __ldcs(reinterpret_cast<const int4*>(source) + i);
    } else {
#pragma unroll
        for (int32_t i = 0; i < count; ++i) pack.at[i] = __ldcs(source + i);
    }
    return pack;
}

template <typename Element, int32_t count>
__device__ __forceinline__ void store_streaming(Element* target, const Pack<Element, count>& pack) {
    constexpr int32_t bytes = sizeof(Element) * count;
    if constexpr (bytes == 16) {
        __stcs(reinterpret_cast<int4*>(target), *reinterpret_cast<const int4*>(&pack));
    } else {
#pragma unroll
        for (int32_t i = 0; i < count; ++i) __stcs(target + i, pack.at[i]);
    }
}

template <int32_t interpolation, int32_t padding, int32_t points, typename Element, typename Coordinate>
__global__ void __launch_bounds__(kThreads) grid_sampler_kernel(const Element* __restrict__ input,
                                                                const Coordinate* __restrict__ grid,
                                                                Element* __restrict__ output, const Sizes s,
                                                                const course::GridAxis<float> x_axis,
                                                                const course::GridAxis<float> y_axis) {
    const int64_t out_plane = int64_t(s.out_height) * s.out_width;
    const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * points;
    if (first >= out_plane) return;
    // The grid's second dimension has at most 65,535 blocks.
    for (int32_t n = blockIdx.y; n < s.batch; n += gridDim.y) {
        const auto coordinates = load_streaming<Coordinate, 2 * points>(grid + (n * out_plane + first) * 2);
        const Element* planes = input + int64_t(n) * s.channels * s.height * s.width;
        Element* target = output + int64_t(n) * s.channels * out_plane + first;
        if constexpr (points > 1) {
            // launch() takes this path for one channel only: the results of a thread are neighbours in memory.
            Pack<Element, points> results;
#pragma unroll
            for (int32_t i = 0; i < points; ++i) {
                course::sample_point<interpolation, padding>(
                    planes, 1, course::to_arithmetic(coordinates.at[2 * i]),
                    course::to_arithmetic(coordinates.at[2 * i + 1]), x_axis, y_axis,
                    [&](int32_t, float value) { results.at[i] = course::from_arithmetic<Element>(value); });
            }
            store_streaming(target, results);
        } else {
            course::sample_point<interpolation, padding>(
                planes, s.channels, course::to_arithmetic(coordinates.at[0]), course::to_arithmetic(coordinates.at[1]),
                x_axis, y_axis, [&](int32_t channel, float value) {
                    __stcs(target + channel * out_plane, course::from_arithmetic<Element>(value));
                });
        }
    }
}

template <int32_t interpolation, int32_t padding, typename Element, typename Coordinate>
int32_t launch(const void* input_data, const void* grid_data, void* output_data, const Sizes& s, int32_t align_corners,
               void* stream) {
    const auto* input = static_cast<const Element*>(input_data);
    const auto* grid = static_cast<const Coordinate*>(grid_data);
    auto* output = static_cast<Element*>(output_data);
    const auto x_axis = course::grid_axis<float>(s.width, align_corners);
    const auto y_axis = course::grid_axis<float>(s.height, align_corners);
    const int64_t out_plane = int64_t(s.out_height) * s.out_width;
    constexpr int32_t points = 16 / sizeof(Element);
    const bool packed = s.channels == 1 && out_plane % points == 0 && course::aligned_to(grid, 16) &&
                        course::aligned_to(output, 16);
    const int64_t per_block = int64_t(kThreads) * (packed ? points : 1);
    const int64_t blocks = (out_plane + per_block - 1) / per_block;
    if (blocks > 0x7fffffff) return kCourseBadArgument;
    const dim3 dimensions(uint32_t(blocks), uint32_t(course::smaller(s.batch, 65535)));
    auto* cuda_stream = static_cast<cudaStream_t>(stream);
    if (packed) {
        grid_sampler_kernel<interpolation, padding, points>
            <<<dimensions, kThreads, 0, cuda_stream>>>(input, grid, output, s, x_axis, y_axis);
    } else {
        grid_sampler_kernel<interpolation, padding, 1>
            <<<dimensions, kThreads, 0, cuda_stream>>>(input, grid, output, s, x_axis, y_axis);
    }
    return course::launch_status();
}

template <int32_t interpolation, typename Element, typename Coordinate>
int32_t choose_padding(const void* input, const void* grid, void* output, const Sizes& s, int32_t padding,
                       int32_t align_corners, void* stream) {
    switch (padding) {
        case course::kZeros:
            return launch<interpolation, course::kZeros, Element, Coordinate>(input, grid, output, s, align_corners, stream);
        case course::kBorder:
            return launch<interpolation, course::kBorder, Element, Coordinate>(input, grid, output, s, align_corners,
                                                                               stream);
        case course::kReflection:
            return launch<interpolation, course::kReflection, Element, Coordinate>(input, grid, output, s, align_corners,
                                                                                   stream);
        default: return kCourseBadArgument;
    }
}

template <typename Element, typename Coordinate>
int32_t choose(const void* input, const void* grid, void* output, const Sizes& s, int32_t interpolation, int32_t padding,
               int32_t align_corners, void* stream) {
    switch (interpolation) {
        case course::kBilinear:
            return choose_padding<course::kBilinear, Element, Coordinate>(input, grid, output, s, padding, align_corners,
                                                                          stream);
        case course::kNearest:
            return choose_padding<course::kNearest, Element, Coordinate>(input, grid, output, s, padding, align_corners,
                                                                         stream);
        case course::kBicubic:
            return choose_padding<course::kBicubic, Element, Coordinate>(input, grid, output, s, padding, align_corners,
                                                                         stream);
        default: return kCourseBadArgument;
    }
}

}  // namespace

int32_t course_grid_sampler_cuda(const void* input, const void* grid, void* output, int32_t type, int32_t grid_type,
                                 int32_t batch, int32_t channels, int32_t height, int32_t width, int32_t out_height,
                                 int32_t out_width, int32_t interpolation, int32_t padding, int32_t align_corners,
                                 void* stream) {
    if (batch < 0 || channels < 0 || out_height < 0 || out_width < 0) return kCourseBadArgument;
    if (batch == 0 || channels == 0 || out_height == 0 || out_width == 0) return kCourseOk;
    if (!course::plane_fits(height, width) || !input || !grid || !output) return kCourseBadArgument;
    const Sizes sizes{batch, channels, height, width, out_height, out_width};
    if (type == kCourseFloat32 && grid_type == kCourseFloat32)
        return choose<float, float>(input, grid, output, sizes, interpolation, padding, align_corners, stream);
    if (type == kCourseFloat16 && grid_type == kCourseFloat32)
        return choose<__half, float>(input, grid, output, sizes, interpolation, padding, align_corners, stream);
    if (type == kCourseFloat16 && grid_type == kCourseFloat16)
        return choose<__half, __half>(input, grid, output, sizes, interpolation, padding, align_corners, stream);
    return kCourseBadArgument;
}
