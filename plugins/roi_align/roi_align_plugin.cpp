#include "../tensorrt/plugin.h"
#include "roi_align.h"
#include "roi_align_math.h"

namespace course {
namespace {

struct RoiAlignOperator {
    struct Parameters {
        RoiAlignOptions options;
        float spatial_scale;
    };
    static const char* name() { return "MMCVRoiAlign"; }
    static std::vector<const char*> attributes() {
        return {"output_height", "output_width", "spatial_scale", "sampling_ratio", "mode", "aligned"};
    }
    static Parameters parse(const Fields& fields) {
        Parameters p{};
        p.options.output_height = fields.integer("output_height");
        p.options.output_width = fields.integer("output_width");
        p.spatial_scale = fields.number("spatial_scale");
        // mmcv's own defaults.
        p.options.sampling_ratio = fields.integer("sampling_ratio", 0);
        p.options.aligned = fields.integer("aligned", 1);
        const std::string mode = fields.text("mode", "avg");
        if (mode != "avg" && mode != "max")
            throw PluginError(std::string(name()) + ": the attribute 'mode' is '" + mode + "', not 'avg' or 'max'");
        p.options.mode = mode == "max" ? kRoiAlignMax : kRoiAlignAverage;
        return p;
    }
    static void check(const Parameters& p) {
        expect_range(name(), "output_height", p.options.output_height, 1, 65536);
        expect_range(name(), "output_width", p.options.output_width, 1, 65536);
        expect_range(name(), "spatial_scale", p.spatial_scale, 1e-9, 1e9);
        expect_range(name(), "sampling_ratio", p.options.sampling_ratio, 0, kMaxGrid);
        expect_range(name(), "aligned", p.options.aligned, 0, 1);
        expect_range(name(), "mode", p.options.mode, 0, 1);
    }
    static void check_inputs(const Parameters&, int32_t inputs, const Ranks& ranks) {
        expect_inputs(name(), inputs, 2, 2);
        expect_rank(name(), "features", ranks[0], 4);
        expect_rank(name(), "rois", ranks[1], 2);
    }
    static DimsExprs output_dimensions(const Parameters& p, const DimsExprs* inputs, IExprBuilder& builder) {
        DimsExprs output{};
        output.nbDims = 4;
        output.d[0] = inputs[1].d[0];
        output.d[1] = inputs[0].d[1];
        output.d[2] = builder.constant(p.options.output_height);
        output.d[3] = builder.constant(p.options.output_width);
        return output;
    }
    static DataType output_type(const DataType* inputs) { return inputs[0]; }
    // The RoIs may stay in float beside half-precision features.
    static bool supports(int32_t position, const PluginTensorDesc* tensors, int32_t) {
        const DataType type = tensors[position].type;
        if (position == 0) return is_floating(type);
        if (position == 1) return type == DataType::kFLOAT || type == tensors[0].type;
        return type == tensors[0].type;
    }
    static size_t workspace(const Parameters&, const PluginTensorDesc*) { return 0; }
    static int32_t enqueue(const Parameters& p, const PluginTensorDesc* descs, const void* const* inputs, void* const* outputs,
                           void*, void* stream) {
        const auto& features = descs[0];
        return course_roi_align_cuda(inputs[0], inputs[1], outputs[0], course_type(features.type), course_type(descs[1].type),
                                     dim(features, 0), dim(features, 1), dim(features, 2), dim(features, 3), dim(descs[1], 0),
                                     p.options.output_height, p.options.output_width, double(p.spatial_scale),
                                     p.options.sampling_ratio, p.options.mode, p.options.aligned, stream);
    }
};

}  // namespace

nvinfer1::IPluginCreator& roi_align_creator() {
    static Creator<RoiAlignOperator> creator;
    return creator;
}

}  // namespace course
