// The kernel shared by MMCVRoiAlign (one level) and MultiLevelRoIAlign.
//
// One block computes all bins of one RoI for a range of channels. The taps (which feature rows and columns a bin reads,
// and their weights) are the same for all channels, so the block computes them once, in shared memory. A thread then
// takes one bin and kChannels channels: per tap one shared read serves kChannels independent loads, which hides their
// latency; neighbouring threads take neighbouring bins, so stores are coalesced.
#pragma once

#include "../common/cuda_common.h"
#include "roi_align_math.h"

namespace course {

constexpr int32_t kChannels = 4;
constexpr int32_t kRoiThreads = 256;

template <typename Element>
struct LevelTable {
    const Element* data[kCourseMaxLevels];
    int32_t height[kCourseMaxLevels];
    int32_t width[kCourseMaxLevels];
    float spatial_scale[kCourseMaxLevels];
    int32_t levels;
    float finest_scale;
};

template <typename Element, typename Coordinate>
__global__ void __launch_bounds__(kRoiThreads) roi_align_kernel(const __grid_constant__ LevelTable<Element> table,
                                                                const Coordinate* __restrict__ rois,
                                                                Element* __restrict__ output, int32_t batch,
                                                                int32_t channels, int32_t channels_per_block,
                                                                const RoiAlignOptions options) {
    extern __shared__ AxisTap<float> taps[];
    __shared__ int32_t counts[2 * kMaxTapBins];
    __shared__ int32_t too_many;

    const int32_t bins_y = options.output_height, bins_x = options.output_width, bins = bins_y * bins_x;
    const int32_t first_channel = blockIdx.y * channels_per_block;
    const int32_t last_channel = smaller(first_channel + channels_per_block, channels);
    const int32_t groups = (last_channel - first_channel + kChannels - 1) / kChannels;

    const Coordinate* roi_ptr = rois + int64_t(blockIdx.x) * 5;
    float roi[5];
#pragma unroll
    for (int32_t i = 0; i < 5; ++i) roi[i] = to_arithmetic(roi_ptr[i]);
    const int32_t picture = roi_batch_index(roi[0], batch);
    int32_t l = 0;
    // finest_scale 0: the single-level operator, which takes every RoI.
    if (table.finest_scale > 0.0f) l = roi_level(roi[1], roi[2], roi[3], roi[4], table.finest_scale, table.levels);
    Element* roi_output = output + int64_t(blockIdx.x) * channels * bins;

    if (picture < 0 || l < 0) {
        Element* target = roi_output + int64_t(first_channel) * bins;
        for (int32_t i = threadIdx.x; i < (last_channel - first_channel) * bins; i += kRoiThreads)
            target[i] = from_arithmetic<Element>(0.0f);
        return;
    }

    const int32_t height = table.height[l], width = table.width[l];
    const RoiAxis<float> y = roi_axis(roi[2], roi[4], table.spatial_scale[l], bins_y, height, options);
    const RoiAxis<float> x = roi_axis(roi[1], roi[3], table.spatial_scale[l], bins_x, width, options);
    const int64_t plane_size = int64_t(height) * width;
    const Element* picture_data = table.data[l] + int64_t(picture) * channels * plane_size;

    // The same decision as in roi_align_loop.h.
    bool use_taps = options.mode == kRoiAlignAverage && bins_y <= kMaxTapBins && bins_x <= kMaxTapBins;
    AxisTap<float>* taps_y = taps;
    AxisTap<float>* taps_x = taps + kMaxTaps * bins_y;
    if (use_taps) {
        if (threadIdx.x == 0) too_many = 0;
        __syncthreads();
        if (int32_t(threadIdx.x) < bins_y + bins_x) {
            const int32_t t = threadIdx.x;
            const int32_t count = t < bins_y ? axis_taps(y, t, kMaxTaps, bins_y, taps_y + t)
                                             : axis_taps(x, t - bins_y, kMaxTaps, bins_x, taps_x + (t - bins_y));
            counts[t] = count;
            if (count < 0) too_many = 1;
        }
        __syncthreads();
        use_taps = too_many == 0;
    }

    const float samples = bin_samples(y, x);
    for (int32_t item = threadIdx.x; item < groups * bins; item += kRoiThreads) {
        const int32_t group = item / bins;
        const int32_t bin = item - group * bins;
        const int32_t bin_y = bin / bins_x;
        const int32_t bin_x = bin - bin_y * bins_x;
        const int32_t channel = first_channel + group * kChannels;
        const Element* plane = picture_data + channel * plane_size;
        Element* target = roi_output + int64_t(channel) * bins + bin;
        const int32_t count_y = use_taps ? counts[bin_y] : 0;
        const int32_t count_x = use_taps ? counts[bins_y + bin_x] : 0;

        if (use_taps && channel + kChannels <= last_channel) {
            // bin_mean_from_taps for kChannels channels at once.
            float sum[kChannels] = {};
            for (int32_t row = 0; row < count_y; ++row) {
                const AxisTap<float> tap_y = taps_y[row * bins_y + bin_y];
                const Element* line = plane + tap_y.index * width;
                float line_sum[kChannels] = {};
#pragma unroll 2
                for (int32_t column = 0; column < count_x; ++column) {
                    const AxisTap<float> tap_x = taps_x[column * bins_x + bin_x];
#pragma unroll
                    for (int32_t k = 0; k < kChannels; ++k)
                        line_sum[k] += tap_x.weight * to_arithmetic(line[k * plane_size + tap_x.index]);
                }
#pragma unroll
                for (int32_t k = 0; k < kChannels; ++k) sum[k] += tap_y.weight * line_sum[k];
            }
#pragma unroll
            for (int32_t k = 0; k < kChannels; ++k) target[k * bins] = from_arithmetic<Element>(sum[k] / samples);
            continue;
        }
        for (int32_t k = 0; k < kChannels && channel + k < last_channel; ++k) {
            const float value =
                use_taps ? bin_mean_from_taps(plane + k * plane_size, width, taps_y + bin_y, count_y, bins_y,
                                              taps_x + bin_x, count_x, bins_x, samples)
                         : bin_from_samples(plane + k * plane_size, y, x, bin_y, bin_x, options.mode);
            target[k * bins] = from_arithmetic<Element>(value);
        }
    }
}

template <typename Element, typename Coordinate>
int32_t launch_roi_align(const LevelTable<Element>& table, const void* rois, void* output, int32_t batch, int32_t channels,
                         int32_t count, const RoiAlignOptions& options, void* stream) {
    // Enough blocks to fill the GPU also with the few RoIs of the mask head; few enough to share the taps.
    const int32_t channels_per_block = 64;
    const dim3 grid(count, (channels + channels_per_block - 1) / channels_per_block);
    const bool may_use_taps = options.mode == kRoiAlignAverage && options.output_height <= kMaxTapBins &&
                              options.output_width <= kMaxTapBins;
    const size_t shared =
        may_use_taps ? size_t(kMaxTaps) * (options.output_height + options.output_width) * sizeof(AxisTap<float>) : 0;
    roi_align_kernel<Element, Coordinate><<<grid, kRoiThreads, shared, static_cast<cudaStream_t>(stream)>>>(
        table, static_cast<const Coordinate*>(rois), static_cast<Element*>(output), batch, channels, channels_per_block,
        options);
    return launch_status();
}

// Fills the table and picks the element types; `levels` 1 with finest_scale 0 is the single-level operator. The arguments
// have been checked (roi_align_arguments_ok).
template <typename Element>
int32_t roi_align_levels(const void* const* features, const void* rois, void* output, int32_t roi_type, int32_t levels,
                         int32_t batch, int32_t channels, const int32_t* heights, const int32_t* widths,
                         const double* spatial_scales, double finest_scale, int32_t count, const RoiAlignOptions& options,
                         void* stream) {
    LevelTable<Element> table{};
    table.levels = levels;
    table.finest_scale = float(finest_scale);
    for (int32_t l = 0; l < levels; ++l) {
        table.data[l] = static_cast<const Element*>(features[l]);
        table.height[l] = heights[l];
        table.width[l] = widths[l];
        table.spatial_scale[l] = float(spatial_scales[l]);
    }
    if (count == 0 || channels == 0) return kCourseOk;
    if (roi_type == kCourseFloat32)
        return launch_roi_align<Element, float>(table, rois, output, batch, channels, count, options, stream);
    if (roi_type == kCourseFloat16)
        return launch_roi_align<Element, __half>(table, rois, output, batch, channels, count, options, stream);
    return kCourseBadArgument;
}

}  // namespace course
