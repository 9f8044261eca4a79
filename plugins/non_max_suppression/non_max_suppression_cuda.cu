// Three kernels: rank, keep, write.
//
// rank   A box's place in its class is the number of candidates that precede it. Counting them takes N^2 comparisons, but
//        no sort, no temporary storage, and the order is the same in every run.
// keep   One block per picture and class walks the candidates in tiles of 64: all threads test the tile against the boxes
//        kept so far, then within the tile one thread resolves the 64 greedily from a bit matrix.
// write  Compacts the kept boxes of all classes into ONNX Runtime's order; the rest of the output is -1.
#include "non_max_suppression.h"

#include "../common/cuda_common.h"
#include "non_max_suppression_math.h"

namespace {

using course::Corners;

constexpr int32_t kThreads = 256;
constexpr int32_t kKeepThreads = 512;
constexpr int32_t kTile = 64;

struct Problem {
    int32_t classes, count, kept_per_class, center_point_box;
    float iou_threshold, score_threshold, offset;
};

struct Workspace {
    int32_t* order;       // (segments, count): candidate indices by rank
    int32_t* candidates;  // (segments): how many
    int32_t* kept;        // (segments, kept_per_class): indices of kept boxes
    int32_t* kept_count;  // (segments)
};

__device__ __forceinline__ bool is_candidate(float score, float threshold) {
    return score > threshold || (isnan(threshold) && !isnan(score));
}

template <typename Element>
__global__ void __launch_bounds__(kThreads) rank_kernel(const Element* __restrict__ scores, const Problem p,
                                                        const Workspace w) {
    __shared__ float tile[kThreads];
    const int32_t segment = blockIdx.y;
    const Element* segment_scores = scores + int64_t(segment) * p.count;
    const int32_t i = blockIdx.x * kThreads + threadIdx.x;
    const float mine = i < p.count ? course::to_arithmetic(segment_scores[i]) : 0.0f;
    const bool candidate = i < p.count && is_candidate(mine, p.score_threshold);
    int32_t rank = 0;
    for (int32_t base = 0; base < p.count; base += kThreads) {
        const int32_t j = base + threadIdx.x;
        __syncthreads();
        if (j < p.count) tile[threadIdx.x] = course::to_arithmetic(segment_scores[j]);
        __syncthreads();
        if (!candidate) continue;
        const int32_t end = course::smaller(kThreads, p.count - base);
        // Whoever precedes a candidate has at least its score, hence is one too: no second test.
        for (int32_t k = 0; k < end; ++k) rank += course::precedes(tile[k], base + k, mine, i);
    }
    if (candidate) {
        w.order[int64_t(segment) * p.count + rank] = i;
        atomicAdd(w.candidates + segment, 1);
    }
}

template <typename Element>
__device__ __forceinline__ Corners<float> load_corners(const Element* boxes, int32_t index, int32_t center_point_box) {
    float box[4];
#pragma unroll
    for (int32_t k = 0; k < 4; ++k) box[k] = course::to_arithmetic(boxes[int64_t(index) * 4 + k]);
    return course::corners(box, center_point_box);
}

template <typename Element>
__global__ void __launch_bounds__(kKeepThreads) keep_kernel(const Element* __restrict__ boxes, const Problem p,
                                                            const Workspace w) {
    __shared__ Corners<float> tile[kTile];
    __shared__ int32_t tile_index[kTile];
    __shared__ unsigned long long overlaps[kTile];  // bit j of word i: i suppresses j, i before j
    __shared__ unsigned long long dead;
    __shared__ int32_t kept_shared;

    const int32_t segment = blockIdx.x;
    const Element* picture_boxes = boxes + int64_t(segment / p.classes) * p.count * 4;
    const int32_t* order = w.order + int64_t(segment) * p.count;
    int32_t* kept = w.kept + int64_t(segment) * p.kept_per_class;
    const int32_t candidates = w.candidates[segment];
    int32_t kept_count = 0;

    for (int32_t base = 0; base < candidates && kept_count < p.kept_per_class; base += kTile) {
        const int32_t size = course::smaller(kTile, candidates - base);
        const int32_t t = threadIdx.x;
        if (t < kTile) {
            overlaps[t] = 0;
            if (t < size) {
                tile_index[t] = order[base + t];
                tile[t] = load_corners(picture_boxes, tile_index[t], p.center_point_box);
            }
        }
        if (t == 0) dead = 0;
        __syncthreads();
        // Against the boxes kept from earlier tiles. Threads of a warp share j's kept box and differ in the tile's.
        const int32_t mine = t % kTile;
        if (mine < size) {
            for (int32_t k = t / kTile; k < kept_count; k += kKeepThreads / kTile) {
                const Corners<float> earlier = load_corners(picture_boxes, kept[k], p.center_point_box);
                if (course::suppresses(earlier, tile[mine], p.offset, p.iou_threshold)) {
                    atomicOr(&dead, 1ull << mine);
                    break;
                }
            }
            for (int32_t i = t / kTile; i < mine; i += kKeepThreads / kTile)
                if (course::suppresses(tile[i], tile[mine], p.offset, p.iou_threshold))
                    atomicOr(&overlaps[i], 1ull << mine);
        }
        __syncthreads();
        if (t == 0) {
            unsigned long long gone = dead;
            int32_t total = kept_count;
            for (int32_t i = 0; i < size && total < p.kept_per_class; ++i) {
                if ((gone >> i) & 1ull) continue;
                gone |= overlaps[i];
                kept[total++] = tile_index[i];
            }
            kept_shared = total;
        }
        __syncthreads();
        kept_count = kept_shared;
    }
    if (threadIdx.x == 0) w.kept_count[segment] = kept_count;
}

__global__ void __launch_bounds__(kThreads) write_kernel(int32_t* __restrict__ selected, const Problem p,
                                                         const Workspace w, int32_t segments) {
    __shared__ int32_t first_row;
    __shared__ int32_t total_rows;
    const int32_t segment = blockIdx.x;
    if (threadIdx.x == 0) {
        int32_t before = 0, all = 0;
        for (int32_t s = 0; s < segments; ++s) {
            if (s == segment) before = all;
            all += w.kept_count[s];
        }
        first_row = before;
        total_rows = all;
    }
    __syncthreads();
    for (int32_t k = threadIdx.x; k < w.kept_count[segment]; k += kThreads) {
        int32_t* row = selected + (int64_t(first_row) + k) * 3;
        row[0] = segment / p.classes;
        row[1] = segment % p.classes;
        row[2] = w.kept[int64_t(segment) * p.kept_per_class + k];
    }
    // Each block pads its share of the rows after the last.
    const int64_t rows = int64_t(segments) * p.kept_per_class;
    for (int64_t i = total_rows + int64_t(segment) * kThreads + threadIdx.x; i < rows; i += int64_t(segments) * kThreads)
        for (int32_t k = 0; k < 3; ++k) selected[i * 3 + k] = -1;
}

int32_t kept_per_class(int32_t count, int64_t max_per_class) {
    return int32_t(course::smaller<int64_t>(count, max_per_class));
}

template <typename Element>
int32_t run(const void* boxes, const void* scores, int32_t* selected, const Workspace& w, const Problem& p,
            int32_t segments, cudaStream_t stream) {
    const cudaError_t status = cudaMemsetAsync(w.candidates, 0, sizeof(int32_t) * segments, stream);
    if (status != cudaSuccess) return int32_t(status);
    const dim3 ranks((p.count + kThreads - 1) / kThreads, segments);
    rank_kernel<<<ranks, kThreads, 0, stream>>>(static_cast<const Element*>(scores), p, w);
    if (const int32_t error = course::launch_status()) return error;
    keep_kernel<<<segments, kKeepThreads, 0, stream>>>(static_cast<const Element*>(boxes), p, w);
    if (const int32_t error = course::launch_status()) return error;
    write_kernel<<<segments, kThreads, 0, stream>>>(selected, p, w, segments);
    return course::launch_status();
}

}  // namespace

size_t course_non_max_suppression_workspace(int32_t batch, int32_t classes, int32_t count, int64_t max_per_class) {
    const size_t segments = size_t(batch) * classes;
    return segments * (size_t(count) + kept_per_class(count, max_per_class) + 2) * sizeof(int32_t);
}

int32_t course_non_max_suppression_cuda(const void* boxes, const void* scores, int32_t* selected, void* workspace,
                                        int32_t type, int32_t batch, int32_t classes, int32_t count,
                                        int64_t max_per_class, double iou_threshold, double score_threshold,
                                        int32_t center_point_box, int32_t offset, void* stream) {
    if (batch < 0 || classes < 0 || count < 0 || max_per_class < 0 || !(iou_threshold >= 0 && iou_threshold <= 1) ||
        (offset != 0 && offset != 1) || int64_t(batch) * classes > 65535)
        return kCourseBadArgument;
    const int32_t segments = batch * classes;
    const int32_t kept = kept_per_class(count, max_per_class);
    if (segments == 0 || kept == 0) return kCourseOk;
    if (!boxes || !scores || !selected || !workspace) return kCourseBadArgument;
    Workspace w;
    w.order = static_cast<int32_t*>(workspace);
    w.kept = w.order + int64_t(segments) * count;
    w.candidates = w.kept + int64_t(segments) * kept;
    w.kept_count = w.candidates + segments;
    const Problem p{classes, count, kept, center_point_box, float(iou_threshold), float(score_threshold), float(offset)};
    auto* cuda_stream = static_cast<cudaStream_t>(stream);
    if (type == kCourseFloat32) return run<float>(boxes, scores, selected, w, p, segments, cuda_stream);
    if (type == kCourseFloat16) return run<__half>(boxes, scores, selected, w, p, segments, cuda_stream);
    return kCourseBadArgument;
}
