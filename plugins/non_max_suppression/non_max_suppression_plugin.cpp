// For TensorRT 8.4 and older, whose parser has no NonMaxSuppression of its own. The thresholds are attributes here and
// inputs in ONNX: a plugin's output shape may depend on attributes only (helpers/plugin_graph.py moves them).
//
// The output has a fixed number of rows, batch * classes * min(max_output_boxes_per_class, boxes); rows after the last
// selected one are (-1, -1, -1), as in mmcv's plugin. Whoever reads it must filter them.
#include "../tensorrt/plugin.h"
#include "non_max_suppression.h"

namespace course {
namespace {

struct NonMaxSuppressionOperator {
    struct Parameters {
        int32_t center_point_box;
        int32_t max_output_boxes_per_class;
        float iou_threshold;
        float score_threshold;
        int32_t offset;
    };
    static const char* name() { return "NonMaxSuppression"; }
    static std::vector<const char*> attributes() {
        return {"center_point_box", "max_output_boxes_per_class", "iou_threshold", "score_threshold", "offset"};
    }
    static Parameters parse(const Fields& fields) {
        return {fields.integer("center_point_box", 0), fields.integer("max_output_boxes_per_class"),
                fields.number("iou_threshold"), fields.number("score_threshold", 0.0f), fields.integer("offset", 0)};
    }
    static void check(const Parameters& p) {
        expect_range(name(), "center_point_box", p.center_point_box, 0, 1);
        expect_range(name(), "max_output_boxes_per_class", p.max_output_boxes_per_class, 1, INT32_MAX);
        expect_range(name(), "iou_threshold", double(p.iou_threshold), 0, 1);
        expect_range(name(), "offset", p.offset, 0, 1);
    }
    static void check_inputs(const Parameters&, int32_t inputs, const Ranks& ranks) {
        if (inputs > 2)
            throw PluginError(
                "NonMaxSuppression: the thresholds are inputs of the node; move them into attributes first "
                "(helpers.plugin_graph.thresholds_to_attributes)");
        expect_inputs(name(), inputs, 2, 2);
        expect_rank(name(), "boxes", ranks[0], 3);
        expect_rank(name(), "scores", ranks[1], 3);
    }
    static DimsExprs output_dimensions(const Parameters& p, const DimsExprs* inputs, IExprBuilder& builder) {
        using nvinfer1::DimensionOperation;
        const auto* kept =
            builder.operation(DimensionOperation::kMIN, *inputs[0].d[1], *builder.constant(p.max_output_boxes_per_class));
        const auto* segments = builder.operation(DimensionOperation::kPROD, *inputs[1].d[0], *inputs[1].d[1]);
        DimsExprs output{};
        output.nbDims = 2;
        output.d[0] = builder.operation(DimensionOperation::kPROD, *segments, *kept);
        output.d[1] = builder.constant(3);
        return output;
    }
    static DataType output_type(const DataType*) { return DataType::kINT32; }
    static bool supports(int32_t position, const PluginTensorDesc* tensors, int32_t) {
        const DataType type = tensors[position].type;
        if (position == 0) return is_floating(type);
        if (position == 1) return type == tensors[0].type;
        return type == DataType::kINT32;
    }
    static size_t workspace(const Parameters& p, const PluginTensorDesc* inputs) {
        return course_non_max_suppression_workspace(dim(inputs[1], 0), dim(inputs[1], 1), dim(inputs[1], 2),
                                                    p.max_output_boxes_per_class);
    }
    static int32_t enqueue(const Parameters& p, const PluginTensorDesc* descs, const void* const* inputs, void* const* outputs,
                           void* workspace, void* stream) {
        return course_non_max_suppression_cuda(inputs[0], inputs[1], static_cast<int32_t*>(outputs[0]), workspace,
                                               course_type(descs[0].type), dim(descs[1], 0), dim(descs[1], 1),
                                               dim(descs[1], 2), p.max_output_boxes_per_class, double(p.iou_threshold),
                                               double(p.score_threshold), p.center_point_box, p.offset, stream);
    }
};

}  // namespace

nvinfer1::IPluginCreator& non_max_suppression_creator() {
    static Creator<NonMaxSuppressionOperator> creator;
    return creator;
}

}  // namespace course
