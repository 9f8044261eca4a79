#include "../tensorrt/plugin.h"
#include "grid_sampler.h"

namespace course {
namespace {

struct GridSamplerOperator {
    struct Parameters {
        int32_t interpolation;
        int32_t padding;
        int32_t align_corners;
    };
    static const char* name() { return "grid_sampler"; }
    static std::vector<const char*> attributes() { return {"interpolation_mode", "padding_mode", "align_corners"}; }
    static Parameters parse(const Fields& fields) {
        // PyTorch's defaults.
        return {fields.integer("interpolation_mode", 0), fields.integer("padding_mode", 0), fields.integer("align_corners", 0)};
    }
    static void check(const Parameters& p) {
        expect_range(name(), "interpolation_mode", p.interpolation, 0, 2);
        expect_range(name(), "padding_mode", p.padding, 0, 2);
        expect_range(name(), "align_corners", p.align_corners, 0, 1);
    }
    static void check_inputs(const Parameters&, int32_t inputs, const Ranks& ranks) {
        expect_inputs(name(), inputs, 2, 2);
        if (ranks[0] == 5) throw PluginError("grid_sampler: the input is a volume (5-D); this plugin samples pictures (4-D)");
        expect_rank(name(), "input", ranks[0], 4);
        expect_rank(name(), "grid", ranks[1], 4);
    }
    static DimsExprs output_dimensions(const Parameters&, const DimsExprs* inputs, IExprBuilder&) {
        DimsExprs output{};
        output.nbDims = 4;
        output.d[0] = inputs[0].d[0];
        output.d[1] = inputs[0].d[1];
        output.d[2] = inputs[1].d[1];
        output.d[3] = inputs[1].d[2];
        return output;
    }
    static DataType output_type(const DataType* inputs) { return inputs[0]; }
    // The grid may stay in float beside half-precision masks.
    static bool supports(int32_t position, const PluginTensorDesc* tensors, int32_t) {
        const DataType type = tensors[position].type;
        if (position == 0) return is_floating(type);
        if (position == 1) return type == DataType::kFLOAT || type == tensors[0].type;
        return type == tensors[0].type;
    }
    static size_t workspace(const Parameters&, const PluginTensorDesc*) { return 0; }
    static int32_t enqueue(const Parameters& p, const PluginTensorDesc* descs, const void* const* inputs, void* const* outputs,
                           void*, void* stream) {
        return course_grid_sampler_cuda(inputs[0], inputs[1], outputs[0], course_type(descs[0].type),
                                        course_type(descs[1].type), dim(descs[0], 0), dim(descs[0], 1), dim(descs[0], 2),
                                        dim(descs[0], 3), dim(descs[1], 1), dim(descs[1], 2), p.interpolation, p.padding,
                                        p.align_corners, stream);
    }
};

}  // namespace

nvinfer1::IPluginCreator& grid_sampler_creator() {
    static Creator<GridSamplerOperator> creator;
    return creator;
}

}  // namespace course
