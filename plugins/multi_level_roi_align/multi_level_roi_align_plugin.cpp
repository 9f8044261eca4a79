#include "../roi_align/roi_align_attributes.h"
#include "../tensorrt/plugin.h"
#include "multi_level_roi_align.h"

namespace course {
namespace {

// Inputs: rois, then the feature maps from the finest to the coarsest.
struct MultiLevelRoiAlignOperator {
    struct Parameters {
        RoiAlignOptions options;
        float finest_scale;
        int32_t levels;
        float strides[kCourseMaxLevels];
    };
    static constexpr const char* kAttributes[] = {"output_height",  "output_width", "strides", "finest_scale",
                                                  "sampling_ratio", "mode",         "aligned"};
    static const char* name() { return "MultiLevelRoIAlign"; }
    static Parameters parse(const Fields& fields) {
        Parameters p{};
        p.options = parse_options(name(), fields);
        p.finest_scale = fields.number("finest_scale", 56.0f);  // mmdet's default
        const std::vector<float> strides = fields.numbers("strides", kCourseMaxLevels);
        p.levels = int32_t(strides.size());
        for (int32_t l = 0; l < p.levels; ++l) p.strides[l] = strides[size_t(l)];
        return p;
    }
    static void check(const Parameters& p) {
        check_options(name(), p.options);
        check_scale(name(), "finest_scale", p.finest_scale);
        expect_range(name(), "strides", p.levels, 1, kCourseMaxLevels);
        for (int32_t l = 0; l < p.levels; ++l) check_scale(name(), "strides", p.strides[l]);
    }
    static int32_t inputs(const Parameters& p) { return 1 + p.levels; }  // one feature map for each stride
    static void check_shapes(const Parameters& p, const Shapes& inputs) {
        check_rois(name(), inputs[0]);
        for (int32_t l = 0; l < p.levels; ++l) {
            const std::string level = "level " + std::to_string(l);
            expect_rank(name(), level, inputs[1 + l], 4);
            // One batch and one channel count hold for all levels.
            expect_size(name(), "the batch of " + level, inputs[1 + l].d[0], inputs[1].d[0]);
            expect_size(name(), "the number of channels of " + level, inputs[1 + l].d[1], inputs[1].d[1]);
        }
    }
    static Output output(const Parameters& p) {
        return {same_as(0, 0), same_as(1, 1), constant(p.options.output_height), constant(p.options.output_width)};
    }
    static DataType output_type(const DataType* inputs) { return inputs[1]; }
    static bool supports(int32_t position, const DataType* types) {
        if (position == 0) return is_floating(types[0]);
        return position == 1 ? is_floating(types[1]) && coordinates_fit(types[0], types[1]) : types[position] == types[1];
    }
    static int32_t enqueue(const Parameters& p, const PluginTensorDesc* descs, const void* const* inputs, void* output,
                           void* stream) {
        const auto& rois = descs[0];
        const PluginTensorDesc* maps = descs + 1;
        int32_t heights[kCourseMaxLevels], widths[kCourseMaxLevels];
        double scales[kCourseMaxLevels];
        for (int32_t l = 0; l < p.levels; ++l) {
            heights[l] = dim(maps[l], 2);
            widths[l] = dim(maps[l], 3);
            scales[l] = 1.0 / double(p.strides[l]);
        }
        return course_multi_level_roi_align_cuda(inputs + 1, inputs[0], output, course_type(maps[0]), course_type(rois),
                                                 p.levels, dim(maps[0], 0), dim(maps[0], 1), heights, widths, scales,
                                                 double(p.finest_scale), dim(rois, 0), p.options.output_height,
                                                 p.options.output_width, p.options.sampling_ratio, p.options.mode,
                                                 p.options.aligned, stream);
    }
};

}  // namespace

CreatorInterface& multi_level_roi_align_creator() noexcept {
    static Creator<MultiLevelRoiAlignOperator> creator;
    return creator;
}

}  // namespace course
