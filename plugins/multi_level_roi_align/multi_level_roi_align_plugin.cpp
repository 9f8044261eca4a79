#include "../roi_align/roi_align_math.h"
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
    static const char* name() { return "MultiLevelRoIAlign"; }
    static std::vector<const char*> attributes() {
        return {"output_height", "output_width", "strides", "finest_scale", "sampling_ratio", "mode", "aligned"};
    }
    static Parameters parse(const Fields& fields) {
        Parameters p{};
        p.options.output_height = fields.integer("output_height");
        p.options.output_width = fields.integer("output_width");
        p.options.sampling_ratio = fields.integer("sampling_ratio", 0);
        p.options.aligned = fields.integer("aligned", 1);
        p.finest_scale = fields.number("finest_scale", 56.0f);  // mmdet's default
        const std::string mode = fields.text("mode", "avg");
        if (mode != "avg" && mode != "max")
            throw PluginError(std::string(name()) + ": the attribute 'mode' is '" + mode + "', not 'avg' or 'max'");
        p.options.mode = mode == "max" ? kRoiAlignMax : kRoiAlignAverage;
        const std::vector<float> strides = fields.numbers("strides", kCourseMaxLevels);
        p.levels = int32_t(strides.size());
        for (int32_t l = 0; l < p.levels; ++l) p.strides[l] = strides[size_t(l)];
        return p;
    }
    static void check(const Parameters& p) {
        expect_range(name(), "output_height", p.options.output_height, 1, 65536);
        expect_range(name(), "output_width", p.options.output_width, 1, 65536);
        expect_range(name(), "finest_scale", p.finest_scale, 1e-9, 1e9);
        expect_range(name(), "sampling_ratio", p.options.sampling_ratio, 0, kMaxGrid);
        expect_range(name(), "aligned", p.options.aligned, 0, 1);
        expect_range(name(), "mode", p.options.mode, 0, 1);
        expect_range(name(), "strides", p.levels, 1, kCourseMaxLevels);
        for (int32_t l = 0; l < p.levels; ++l) expect_range(name(), "strides", p.strides[l], 1e-9, 1e9);
    }
    static void check_inputs(const Parameters& p, int32_t inputs, const Ranks& ranks) {
        expect_inputs(name(), inputs, 1 + p.levels, 1 + p.levels);  // one feature map for each stride
        expect_rank(name(), "rois", ranks[0], 2);
        for (size_t i = 1; i < ranks.size(); ++i) expect_rank(name(), "features", ranks[i], 4);
    }
    static DimsExprs output_dimensions(const Parameters& p, const DimsExprs* inputs, IExprBuilder& builder) {
        DimsExprs output{};
        output.nbDims = 4;
        output.d[0] = inputs[0].d[0];
        output.d[1] = inputs[1].d[1];
        output.d[2] = builder.constant(p.options.output_height);
        output.d[3] = builder.constant(p.options.output_width);
        return output;
    }
    static DataType output_type(const DataType* inputs) { return inputs[1]; }
    static bool supports(int32_t position, const PluginTensorDesc* tensors, int32_t) {
        const DataType type = tensors[position].type;
        if (position == 0) return is_floating(type);
        // Half-precision RoIs beside float features make no sense and are not compiled.
        if (position == 1) return type == DataType::kHALF || (type == DataType::kFLOAT && tensors[0].type == DataType::kFLOAT);
        return type == tensors[1].type;
    }
    static size_t workspace(const Parameters&, const PluginTensorDesc*) { return 0; }
    static int32_t enqueue(const Parameters& p, const PluginTensorDesc* descs, const void* const* inputs, void* const* outputs,
                           void*, void* stream) {
        int32_t heights[kCourseMaxLevels], widths[kCourseMaxLevels];
        double scales[kCourseMaxLevels];
        for (int32_t l = 0; l < p.levels; ++l) {
            heights[l] = dim(descs[1 + l], 2);
            widths[l] = dim(descs[1 + l], 3);
            scales[l] = 1.0 / double(p.strides[l]);
        }
        return course_multi_level_roi_align_cuda(inputs + 1, inputs[0], outputs[0], course_type(descs[1].type),
                                                 course_type(descs[0].type), p.levels, dim(descs[1], 0), dim(descs[1], 1),
                                                 heights, widths, scales, double(p.finest_scale), dim(descs[0], 0),
                                                 p.options.output_height, p.options.output_width, p.options.sampling_ratio,
                                                 p.options.mode, p.options.aligned, stream);
    }
};

}  // namespace

nvinfer1::IPluginCreator& multi_level_roi_align_creator() {
    static Creator<MultiLevelRoiAlignOperator> creator;
    return creator;
}

}  // namespace course
