#include "../tensorrt/plugin.h"
#include "grid_sampler.h"

namespace course {
namespace {

// Inputs: the pictures, the grid.
struct GridSamplerOperator {
    struct Parameters {
        int32_t interpolation;
        int32_t padding;
        int32_t align_corners;
    };
    static constexpr const char* kAttributes[] = {"interpolation_mode", "padding_mode", "align_corners"};
    static const char* name() { return "grid_sampler"; }
    static Parameters parse(const Fields& fields) {
        // PyTorch's defaults.
        return {fields.integer("interpolation_mode", 0), fields.integer("padding_mode", 0), fields.integer("align_corners", 0)};
    }
    static void check(const Parameters& p) {
        expect_range(name(), "interpolation_mode", p.interpolation, 0, 2);
        expect_range(name(), "padding_mode", p.padding, 0, 2);
        expect_range(name(), "align_corners", p.align_corners, 0, 1);
    }
    static int32_t inputs(const Parameters&) { return 2; }
    static void check_shapes(const Parameters&, const Shapes& inputs) {
        if (inputs[0].rank == 5) throw refusal(name(), "the input is a volume (5-D); this plugin samples pictures (4-D)");
        expect_rank(name(), "input", inputs[0], 4);
        expect_rank(name(), "grid", inputs[1], 4);
        expect_size(name(), "the batch of 'grid'", inputs[1].d[0], inputs[0].d[0]);
        expect_size(name(), "the last dimension of 'grid' (x, y)", inputs[1].d[3], 2);
    }
    static Output output(const Parameters&) { return {same_as(0, 0), same_as(0, 1), same_as(1, 1), same_as(1, 2)}; }
    static DataType output_type(const DataType* inputs) { return inputs[0]; }
    static bool supports(int32_t position, const DataType* types) {
        if (position == 0) return is_floating(types[0]);
        return position == 1 ? coordinates_fit(types[1], types[0]) : types[position] == types[0];
    }
    static int32_t enqueue(const Parameters& p, const PluginTensorDesc* descs, const void* const* inputs, void* output,
                           void* stream) {
        const auto& pictures = descs[0];
        const auto& grid = descs[1];
        return course_grid_sampler_cuda(inputs[0], inputs[1], output, course_type(pictures), course_type(grid),
                                        dim(pictures, 0), dim(pictures, 1), dim(pictures, 2), dim(pictures, 3), dim(grid, 1),
                                        dim(grid, 2), p.interpolation, p.padding, p.align_corners, stream);
    }
};

}  // namespace

CreatorInterface& grid_sampler_creator() noexcept {
    static Creator<GridSamplerOperator> creator;
    return creator;
}

}  // namespace course
