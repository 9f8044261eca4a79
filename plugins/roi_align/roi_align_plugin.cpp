#include "../tensorrt/plugin.h"
#include "roi_align.h"
#include "roi_align_attributes.h"

namespace course {
namespace {

// Inputs: features, rois.
struct RoiAlignOperator {
    struct Parameters {
        RoiAlignOptions options;
        float spatial_scale;
    };
    static constexpr const char* kAttributes[] = {"output_height",  "output_width", "spatial_scale",
                                                  "sampling_ratio", "mode",         "aligned"};
    static const char* name() { return "MMCVRoiAlign"; }
    static Parameters parse(const Fields& fields) {
        return {parse_options(name(), fields), fields.number("spatial_scale")};
    }
    static void check(const Parameters& p) {
        check_options(name(), p.options);
        check_scale(name(), "spatial_scale", p.spatial_scale);
    }
    static int32_t inputs(const Parameters&) { return 2; }
    static void check_shapes(const Parameters&, const Shapes& inputs) {
        expect_rank(name(), "features", inputs[0], 4);
        check_rois(name(), inputs[1]);
    }
    static Output output(const Parameters& p) {
        return {same_as(1, 0), same_as(0, 1), constant(p.options.output_height), constant(p.options.output_width)};
    }
    static DataType output_type(const DataType* inputs) { return inputs[0]; }
    static bool supports(int32_t position, const DataType* types) {
        if (position == 0) return is_floating(types[0]);
        return position == 1 ? coordinates_fit(types[1], types[0]) : types[position] == types[0];
    }
    static int32_t enqueue(const Parameters& p, const PluginTensorDesc* descs, const void* const* inputs, void* output,
                           void* stream) {
        const auto& features = descs[0];
        const auto& rois = descs[1];
        return course_roi_align_cuda(inputs[0], inputs[1], output, course_type(features), course_type(rois), dim(features, 0),
                                     dim(features, 1), dim(features, 2), dim(features, 3), dim(rois, 0),
                                     p.options.output_height, p.options.output_width, double(p.spatial_scale),
                                     p.options.sampling_ratio, p.options.mode, p.options.aligned, stream);
    }
};

}  // namespace

CreatorInterface& roi_align_creator() noexcept {
    static Creator<RoiAlignOperator> creator;
    return creator;
}

}  // namespace course
