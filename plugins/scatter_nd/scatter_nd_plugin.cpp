// For TensorRT 7 parsers, which have no ScatterND of their own; from 8.0 on the built-in layer is chosen.
#include "../tensorrt/plugin.h"
#include "scatter_nd.h"
#include "scatter_nd_math.h"

namespace course {
namespace {

struct ScatterNdOperator {
    struct Parameters {
        int32_t unused;  // the operator has no attributes
    };
    static const char* name() { return "ScatterND"; }
    static std::vector<const char*> attributes() { return {"reduction"}; }
    static Parameters parse(const Fields& fields) {
        const std::string reduction = fields.text("reduction", "none");
        if (reduction != "none")
            throw PluginError("ScatterND: the attribute 'reduction' is '" + reduction + "', and this plugin only replaces ('none')");
        return {0};
    }
    static void check(const Parameters&) {}
    static void check_inputs(const Parameters&, int32_t inputs, const Ranks& ranks) {
        expect_inputs(name(), inputs, 3, 3);
        if (ranks[0] < 1 || ranks[0] > kMaxScatterRank || ranks[1] < 1)
            throw PluginError("ScatterND: the input 'data' has " + std::to_string(ranks[0]) + " dimensions, not 1 to 8");
    }
    static DimsExprs output_dimensions(const Parameters&, const DimsExprs* inputs, IExprBuilder&) { return inputs[0]; }
    static DataType output_type(const DataType* inputs) { return inputs[0]; }
    static bool supports(int32_t position, const PluginTensorDesc* tensors, int32_t) {
        const DataType type = tensors[position].type;
        if (position == 0) return is_floating(type) || type == DataType::kINT32;
        if (position == 1) return type == DataType::kINT32;
        return type == tensors[0].type;
    }
    static size_t workspace(const Parameters&, const PluginTensorDesc*) { return 0; }
    static int32_t enqueue(const Parameters&, const PluginTensorDesc* descs, const void* const* inputs, void* const* outputs,
                           void*, void* stream) {
        int64_t dims[kMaxScatterRank];
        for (int32_t d = 0; d < descs[0].dims.nbDims; ++d) dims[d] = descs[0].dims.d[d];
        const int32_t last = descs[1].dims.nbDims - 1;
        int64_t rows = 1;
        for (int32_t d = 0; d < last; ++d) rows *= descs[1].dims.d[d];
        return course_scatter_nd_cuda(inputs[0], inputs[1], inputs[2], outputs[0], course_type(descs[0].type), kCourseInt32,
                                      dims, descs[0].dims.nbDims, rows, dim(descs[1], last), stream);
    }
};

}  // namespace

nvinfer1::IPluginCreator& scatter_nd_creator() {
    static Creator<ScatterNdOperator> creator;
    return creator;
}

}  // namespace course
