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

// Arguments that no launch may follow: on either side the answer is "bad argument", before a buffer is touched. (That RoIs
// have five columns, and levels one batch and one channel count, the C interface takes for granted: it is not told.)
struct RoiAlignCall {
    int32_t levels = 1, batch = 1, channels = 2, height = 4, width = 5, count = 1, bins = 3, ratio = 0, mode = 1, aligned = 1;
    double scale = 0.5, finest_scale = 14;
    bool features = true, rois = true, output = true, sizes = true;
    bool one_level = true;  // also a call of roi_align
};

void refused_roi_align(const RoiAlignCall& c, int32_t wanted, long number) {
    Buffer<float> features(random_values(40, -1, 1)), rois({0, 0, 0, 5, 5}), output(std::vector<float>(18, -7.0f));
    const int32_t heights[16] = {c.height, 4, 4, 4, 4, 4, 4, 4, 4}, widths[16] = {c.width, 5, 5, 5, 5, 5, 5, 5, 5};
    double scales[16] = {c.scale, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5};
    const void* maps[16];
    for (const void*& map : maps) map = c.features ? features.host() : nullptr;
    if (c.one_level)
        expect(course_roi_align_host(maps[0], c.rois ? rois.host() : nullptr, c.output ? output.host() : nullptr, kCourseFloat32,
                                     c.batch, c.channels, c.height, c.width, c.count, c.bins, c.bins, c.scale, c.ratio, c.mode,
                                     c.aligned) == wanted,
               "roi_align refuses", number);
    expect(course_multi_level_roi_align_host(maps, c.rois ? rois.host() : nullptr, c.output ? output.host() : nullptr,
                                             kCourseFloat32, c.levels, c.batch, c.channels, c.sizes ? heights : nullptr, widths,
                                             scales, c.finest_scale, c.count, c.bins, c.bins, c.ratio, c.mode,
                                             c.aligned) == wanted,
           "multi_level_roi_align refuses", number);
#ifdef COURSE_CUDA
    for (const void*& map : maps) map = c.features ? features.device() : nullptr;
    if (c.one_level)
        expect(course_roi_align_cuda(maps[0], c.rois ? rois.device() : nullptr, c.output ? output.device() : nullptr,
                                     kCourseFloat32, kCourseFloat32, c.batch, c.channels, c.height, c.width, c.count, c.bins,
                                     c.bins, c.scale, c.ratio, c.mode, c.aligned, nullptr) == wanted,
               "roi_align refuses on the GPU", number);
    expect(course_multi_level_roi_align_cuda(maps, c.rois ? rois.device() : nullptr, c.output ? output.device() : nullptr,
                                             kCourseFloat32, kCourseFloat32, c.levels, c.batch, c.channels,
                                             c.sizes ? heights : nullptr, widths, scales, c.finest_scale, c.count, c.bins,
                                             c.bins, c.ratio, c.mode, c.aligned, nullptr) == wanted,
           "multi_level_roi_align refuses on the GPU", number);
#endif
    for (size_t i = 0; wanted != kCourseOk && i < output.count(); ++i)
        expect(output.host()[i] == -7.0f, "what is refused writes nothing", number);
}

template <typename Change>
RoiAlignCall with(Change change) {
    RoiAlignCall call;
    change(call);
    return call;
}

void refusals() {
    using Call = RoiAlignCall;
    refused_roi_align(Call(), kCourseOk, 0);
    const RoiAlignCall bad[] = {
        with([](Call& c) { c.batch = -1; }), with([](Call& c) { c.channels = -1; }), with([](Call& c) { c.count = -1; }),
        with([](Call& c) { c.height = 0; }), with([](Call& c) { c.width = -5; }),
        with([](Call& c) { c.height = c.width = 1 << 16; }), with([](Call& c) { c.bins = 0; }),
        with([](Call& c) { c.bins = 5000; }), with([](Call& c) { c.ratio = -1; }), with([](Call& c) { c.ratio = 5000; }),
        with([](Call& c) { c.mode = 2; }), with([](Call& c) { c.aligned = 2; }), with([](Call& c) { c.scale = 0; }),
        with([](Call& c) { c.scale = double(kNan); }), with([](Call& c) { c.scale = double(kInf); }),
        with([](Call& c) { c.features = false; }), with([](Call& c) { c.rois = false; }),
        with([](Call& c) { c.output = false; }),
    };
    const RoiAlignCall bad_levels[] = {
        with([](Call& c) { c.finest_scale = 0; }), with([](Call& c) { c.finest_scale = double(kNan); }),
        with([](Call& c) { c.finest_scale = double(kInf); }), with([](Call& c) { c.levels = 0; }),
        with([](Call& c) { c.levels = 9; }), with([](Call& c) { c.sizes = false; }),
    };
    long number = 0;
    for (const RoiAlignCall& call : bad) refused_roi_align(call, kCourseBadArgument, ++number);
    for (RoiAlignCall call : bad_levels) {
        call.one_level = false;
        refused_roi_align(call, kCourseBadArgument, ++number);
    }
    // Without RoIs there is nothing to read, whatever the pointers are.
    refused_roi_align(with([](Call& c) { c.count = 0, c.features = c.rois = c.output = false; }), kCourseOk, ++number);

    Buffer<float> pictures(random_values(40, -1, 1)), grid(random_values(12, -1, 1)), output(std::vector<float>(12, -7.0f));
    const struct {
        int32_t batch, channels, height, width, out, interpolation, padding;
        bool there;
    } grids[] = {{-1, 2, 4, 5, 3, 0, 0, true}, {1, 2, 0, 5, 3, 0, 0, true},  {1, 2, 4, 5, -3, 0, 0, true},
                 {1, 2, 4, 5, 3, 3, 0, true},  {1, 2, 4, 5, 3, 0, -1, true}, {1, 2, 4, 5, 3, 0, 0, false}};
    for (const auto& g : grids) {
        ++number;
        expect(course_grid_sampler_host(g.there ? pictures.host() : nullptr, grid.host(), output.host(), kCourseFloat32, g.batch,
                                        g.channels, g.height, g.width, g.out, 2, g.interpolation, g.padding,
                                        0) == kCourseBadArgument,
               "grid_sampler refuses", number);
#ifdef COURSE_CUDA
        expect(course_grid_sampler_cuda(g.there ? pictures.device() : nullptr, grid.device(), output.device(), kCourseFloat32,
                                        kCourseFloat32, g.batch, g.channels, g.height, g.width, g.out, 2, g.interpolation,
                                        g.padding, 0, nullptr) == kCourseBadArgument,
               "grid_sampler refuses on the GPU", number);
#endif
    }
}

// A RoI of a picture that is not in the batch, or without an answer otherwise: its output is 0.
void rois_of_no_picture() {
    Buffer<float> features(std::vector<float>(2 * 6 * 6, 1.0f));
    Buffer<float> rois({-1, 0, 0, 5, 5, 2, 0, 0, 5, 5, kNan, 0, 0, 5, 5, 1e20f, 0, 0, 5, 5, 1, 0, 0, 5, 5});
    Buffer<float> output(std::vector<float>(5, -7.0f));
    const int32_t size = 6;
    const double scale = 1;
    const void* maps[] = {features.host()};
    for (int32_t multi : {0, 1}) {
        const int32_t status =
            multi ? course_multi_level_roi_align_host(maps, rois.host(), output.host(), kCourseFloat32, 1, 2, 1, &size, &size,
                                                      &scale, 14, 5, 1, 1, 0, 1, 1)
                  : course_roi_align_host(features.host(), rois.host(), output.host(), kCourseFloat32, 2, 1, 6, 6, 5, 1, 1, 1,
                                          0, 1, 1);
        expect(status == kCourseOk, "RoIs of no picture", multi);
        for (size_t i = 0; i < 5; ++i) expect(output.host()[i] == (i == 4 ? 1.0f : 0.0f), "0 for RoIs of no picture", long(i));
    }
}

}  // namespace

int main() {
    refusals();
    rois_of_no_picture();
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
