// Runs every operator on inputs that tempt it to read or write outside its buffers, each buffer allocated at its exact
// size. Built for the host under AddressSanitizer by the tests; built by nvcc (-x cu -DCOURSE_CUDA) it runs the kernels,
// under compute-sanitizer, and compares them with the host loops. Prints one line a failure; the exit code is their number.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "../grid_sampler/grid_sampler.h"
#include "../multi_level_roi_align/multi_level_roi_align.h"
#include "../non_max_suppression/non_max_suppression.h"
#include "../roi_align/roi_align.h"
#include "../scatter_nd/scatter_nd.h"

#ifdef COURSE_CUDA
#include <cuda_runtime.h>
#endif

namespace {

int failures = 0;

void expect(bool good, const char* what, long detail) {
    if (good) return;
    ++failures;
    printf("FAILED: %s (case %ld)\n", what, detail);
}

// An array in memory of exactly its size; for CUDA also its copy on the device.
template <typename T>
class Buffer {
public:
    explicit Buffer(const std::vector<T>& values) : count_(values.size()) {
        host_ = static_cast<T*>(malloc(bytes()));
        if (count_ > 0) memcpy(host_, values.data(), bytes());
#ifdef COURSE_CUDA
        expect(cudaMalloc(&device_, bytes() ? bytes() : 1) == cudaSuccess, "cudaMalloc", long(bytes()));
        expect(cudaMemcpy(device_, host_, bytes(), cudaMemcpyHostToDevice) == cudaSuccess, "copy to the device", 0);
#endif
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() {
        free(host_);
#ifdef COURSE_CUDA
        cudaFree(device_);
#endif
    }
    T* host() { return host_; }
    size_t count() const { return count_; }
    size_t bytes() const { return count_ * sizeof(T); }
#ifdef COURSE_CUDA
    T* device() { return device_; }
    std::vector<T> fetch() {
        std::vector<T> values(count_);
        expect(cudaMemcpy(values.data(), device_, bytes(), cudaMemcpyDeviceToHost) == cudaSuccess, "copy back", 0);
        return values;
    }
#endif

private:
    size_t count_;
    T* host_ = nullptr;
#ifdef COURSE_CUDA
    T* device_ = nullptr;
#endif
};

uint32_t random_state = 12345;

float random_unit() {
    random_state = random_state * 1664525u + 1013904223u;
    return float(random_state >> 8) / float(1 << 24);
}

std::vector<float> random_values(size_t count, float low, float high) {
    std::vector<float> values(count);
    for (float& value : values) value = low + (high - low) * random_unit();
    return values;
}

#ifdef COURSE_CUDA
void compare(Buffer<float>& output, const char* what, long detail) {
    const std::vector<float> device = output.fetch();
    for (size_t i = 0; i < device.size(); ++i) {
        const float wanted = output.host()[i], got = device[i];
        if (isnan(wanted) && isnan(got)) continue;
        if (!(fabsf(wanted - got) <= 1e-4f * (1.0f + fabsf(wanted)))) {
            printf("element %zu: host %g, device %g\n", i, double(wanted), double(got));
            return expect(false, what, detail);
        }
    }
}
#endif

const float kNan = NAN, kInf = INFINITY;

std::vector<float> nasty_rois() {
    return {
        0, 0, 0, 40, 30,            // ordinary
        1, 3.5f, 2.5f, 9.25f, 7,    // ordinary
        0, -100, -100, 200, 200,    // larger than the picture
        0, 500, 500, 600, 600,      // outside
        0, -9, -9, -5, -5,          // outside
        0, 5, 5, 5, 5,              // no area
        0, 20, 20, 10, 10,          // negative extent
        0, kNan, 0, 10, 10,         //
        0, 0, 0, kInf, 10,          //
        0, -kInf, -kInf, kInf, kInf,
        0, 0, 0, 1e9f, 1e9f,        // adaptive sampling would need a billion points
        0, 0, 0, 3e38f, 3e38f,      //
        -1, 0, 0, 10, 10,           // no such picture
        2, 0, 0, 10, 10,            // no such picture
        kNan, 0, 0, 10, 10,         //
        1e20f, 0, 0, 10, 10,
    };
}

void roi_align_cases() {
    const std::vector<float> list = nasty_rois();
    const int32_t count = int32_t(list.size() / 5);
    const int32_t sizes[][2] = {{1, 1}, {1, 9}, {7, 1}, {13, 19}};
    long number = 0;
    for (const auto& size : sizes) {
        for (int32_t channels : {1, 4, 6}) {
            for (int32_t ratio : {0, 1, 3}) {
                for (int32_t mode : {0, 1}) {
                    for (int32_t bins : {1, 3, 40}) {
                        const int32_t aligned = ++number % 2;
                        Buffer<float> features(random_values(size_t(2) * channels * size[0] * size[1], -1, 1));
                        Buffer<float> rois(list);
                        Buffer<float> output(std::vector<float>(size_t(count) * channels * bins * 2, -7.0f));
                        const int32_t status = course_roi_align_host(
                            features.host(), rois.host(), output.host(), kCourseFloat32, 2, channels, size[0], size[1],
                            count, bins, 2, 0.25, ratio, mode, aligned);
                        expect(status == kCourseOk, "roi_align status", number);
#ifdef COURSE_CUDA
                        const int32_t cuda_status = course_roi_align_cuda(
                            features.device(), rois.device(), output.device(), kCourseFloat32, kCourseFloat32, 2, channels,
                            size[0], size[1], count, bins, 2, 0.25, ratio, mode, aligned, nullptr);
                        expect(cuda_status == 0, "roi_align CUDA status", number);
                        compare(output, "roi_align on the GPU equals the host", number);
#endif
                    }
                }
            }
        }
    }
    Buffer<float> nothing(std::vector<float>{});
    Buffer<float> features(random_values(12, -1, 1));
    expect(course_roi_align_host(features.host(), nothing.host(), nothing.host(), kCourseFloat32, 1, 1, 3, 4, 0, 7, 7, 1, 0, 1,
                                 1) == kCourseOk,
           "roi_align without RoIs", 0);
#ifdef COURSE_CUDA
    expect(course_roi_align_cuda(features.device(), nothing.device(), nothing.device(), kCourseFloat32, kCourseFloat32, 1, 1,
                                 3, 4, 0, 7, 7, 1, 0, 1, 1, nullptr) == 0,
           "roi_align without RoIs on the GPU", 0);
#endif
}

void multi_level_cases() {
    const std::vector<float> list = nasty_rois();
    const int32_t count = int32_t(list.size() / 5), channels = 5;
    const int32_t heights[] = {16, 8, 4, 1}, widths[] = {20, 10, 5, 1};
    const double scales[] = {0.25, 0.125, 0.0625, 0.03125};
    Buffer<float> maps[] = {Buffer<float>(random_values(2 * 5 * 16 * 20, -1, 1)), Buffer<float>(random_values(2 * 5 * 8 * 10, -1, 1)),
                            Buffer<float>(random_values(2 * 5 * 4 * 5, -1, 1)), Buffer<float>(random_values(2 * 5, -1, 1))};
    const void* host_maps[4];
    for (int32_t l = 0; l < 4; ++l) host_maps[l] = maps[l].host();
    for (int32_t levels : {1, 4}) {
        Buffer<float> rois(list);
        Buffer<float> output(std::vector<float>(size_t(count) * channels * 9, -7.0f));
        expect(course_multi_level_roi_align_host(host_maps, rois.host(), output.host(), kCourseFloat32, levels, 2, channels,
                                                 heights, widths, scales, 14, count, 3, 3, 0, 1, 1) == kCourseOk,
               "multi_level_roi_align status", levels);
#ifdef COURSE_CUDA
        const void* device_maps[4];
        for (int32_t l = 0; l < 4; ++l) device_maps[l] = maps[l].device();
        expect(course_multi_level_roi_align_cuda(device_maps, rois.device(), output.device(), kCourseFloat32, kCourseFloat32,
                                                 levels, 2, channels, heights, widths, scales, 14, count, 3, 3, 0, 1, 1,
                                                 nullptr) == 0,
               "multi_level_roi_align CUDA status", levels);
        compare(output, "multi_level_roi_align on the GPU equals the host", levels);
#endif
    }
}

void grid_sampler_cases() {
    const int32_t sizes[][2] = {{1, 1}, {1, 5}, {6, 1}, {7, 9}};
    const int32_t outs[][2] = {{1, 1}, {3, 5}, {4, 8}};
    long number = 0;
    for (const auto& size : sizes) {
        for (const auto& out : outs) {
            for (int32_t channels : {1, 3}) {
                for (int32_t interpolation : {0, 1, 2}) {
                    for (int32_t padding : {0, 1, 2}) {
                        const int32_t align = ++number % 2;
                        const size_t points = size_t(2) * out[0] * out[1];
                        std::vector<float> values = random_values(points * 2, -1.7f, 1.7f);
                        const float nasty[] = {kNan, kInf, -kInf, 1e30f, -1e30f, 3e9f, -3e9f, 1, -1};
                        // Reflecting what is beyond 2^24 pixels is a lottery of rounding: no comparison, but no crash.
                        for (size_t i = 0; i < values.size(); i += 3) values[i] = nasty[(i / 3 + size_t(number)) % 9];
                        Buffer<float> input(random_values(size_t(2) * channels * size[0] * size[1], -1, 1));
                        Buffer<float> grid(values);
                        Buffer<float> output(std::vector<float>(points * size_t(channels), -7.0f));
                        expect(course_grid_sampler_host(input.host(), grid.host(), output.host(), kCourseFloat32, 2, channels,
                                                        size[0], size[1], out[0], out[1], interpolation, padding,
                                                        align) == kCourseOk,
                               "grid_sampler status", number);
#ifdef COURSE_CUDA
                        expect(course_grid_sampler_cuda(input.device(), grid.device(), output.device(), kCourseFloat32,
                                                        kCourseFloat32, 2, channels, size[0], size[1], out[0], out[1],
                                                        interpolation, padding, align, nullptr) == 0,
                               "grid_sampler CUDA status", number);
                        if (padding != 2 && interpolation == 0)
                            compare(output, "grid_sampler on the GPU equals the host", number);
                        else
                            expect(cudaDeviceSynchronize() == cudaSuccess, "grid_sampler kernel", number);
#endif
                    }
                }
            }
        }
    }
}

void non_max_suppression_cases() {
    long number = 0;
    for (int32_t count : {0, 1, 7, 64, 65, 300}) {
        for (int32_t classes : {1, 3}) {
            for (int64_t limit : {0, 1, 5, 1000}) {
                for (int32_t center : {0, 1}) {
                    ++number;
                    const int32_t batch = 2;
                    std::vector<float> box_values = random_values(size_t(batch) * count * 4, 0, 20);
                    std::vector<float> score_values = random_values(size_t(batch) * classes * count, 0, 1);
                    for (float& score : score_values) score = floorf(score * 8) / 8;  // many ties
                    for (size_t i = 0; i + 5 < box_values.size(); i += 11) box_values[i] = i % 2 ? kNan : kInf;
                    for (size_t i = 0; i < score_values.size(); i += 13) score_values[i] = i % 2 ? kNan : kInf;
                    const int64_t kept = limit < count ? limit : count;
                    const size_t rows = size_t(batch) * size_t(classes) * size_t(kept);
                    Buffer<float> boxes(box_values);
                    Buffer<float> scores(score_values);
                    Buffer<int64_t> selected(std::vector<int64_t>(rows * 3, -9));
                    int64_t written = -1;
                    const double threshold = number % 3 ? 0.2 : double(kNan);
                    expect(course_non_max_suppression_host(boxes.host(), scores.host(), selected.host(), &written,
                                                           kCourseFloat32, batch, classes, count, limit, 0.4, threshold,
                                                           center, 0) == kCourseOk,
                           "non_max_suppression status", number);
                    expect(written >= 0 && size_t(written) <= rows, "non_max_suppression count", number);
#ifdef COURSE_CUDA
                    Buffer<int32_t> device_selected(std::vector<int32_t>(rows * 3, -9));
                    Buffer<char> workspace(
                        std::vector<char>(course_non_max_suppression_workspace(batch, classes, count, limit), 1));
                    expect(course_non_max_suppression_cuda(boxes.device(), scores.device(), device_selected.device(),
                                                           workspace.device(), kCourseFloat32, batch, classes, count, limit,
                                                           0.4, threshold, center, 0, nullptr) == 0,
                           "non_max_suppression CUDA status", number);
                    const std::vector<int32_t> got = device_selected.fetch();
                    bool same = true;
                    for (size_t i = 0; i < rows * 3; ++i)
                        same &= got[i] == (i < size_t(written) * 3 ? int32_t(selected.host()[i]) : -1);
                    expect(same, "non_max_suppression on the GPU equals the host", number);
#endif
                }
            }
        }
    }
}

void scatter_nd_cases() {
    const int64_t dims[] = {4, 3, 5};
    const int64_t bad_index = 4000000;
    for (int32_t depth : {1, 2, 3}) {
        for (int32_t bad : {0, 1}) {
            int64_t slice = 1;
            for (int32_t d = depth; d < 3; ++d) slice *= dims[d];
            std::vector<int64_t> index_values;
            for (int64_t r = 0; r < 3; ++r)  // distinct rows: the last element twice would leave the order open
                for (int32_t d = 0; d < depth; ++d) index_values.push_back(d == 0 ? r - 4 : dims[d] - 1);
            if (bad) index_values[0] = bad_index;
            Buffer<float> data(random_values(60, -1, 1));
            Buffer<int64_t> indices(index_values);
            Buffer<float> updates(random_values(size_t(3 * slice), 5, 6));
            Buffer<float> output(std::vector<float>(60, -7.0f));
            const int32_t status = course_scatter_nd_host(data.host(), indices.host(), updates.host(), output.host(),
                                                          kCourseFloat32, kCourseInt64, dims, 3, 3, depth);
            expect(status == (bad ? kCourseIndexOutOfRange : kCourseOk), "scatter_nd status", depth);
#ifdef COURSE_CUDA
            expect(course_scatter_nd_cuda(data.device(), indices.device(), updates.device(), output.device(), kCourseFloat32,
                                          kCourseInt64, dims, 3, 3, depth, nullptr) == 0,
                   "scatter_nd CUDA status", depth);
            if (!bad) compare(output, "scatter_nd on the GPU equals the host", depth);
            expect(cudaDeviceSynchronize() == cudaSuccess, "scatter_nd kernel", depth);
#endif
        }
    }
}

}  // namespace

int main() {
    roi_align_cases();
    multi_level_cases();
    grid_sampler_cases();
    non_max_suppression_cases();
    scatter_nd_cases();
#ifdef COURSE_CUDA
    expect(cudaDeviceSynchronize() == cudaSuccess, "all kernels ran", 0);
#endif
    printf(failures ? "%d failures\n" : "edge cases: all as expected\n", failures);
    return failures > 100 ? 100 : failures;
}
