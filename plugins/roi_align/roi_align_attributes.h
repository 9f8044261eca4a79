// The attributes that MMCVRoiAlign and MultiLevelRoIAlign have in common, and what both ask of their RoIs.
#pragma once

#include "../tensorrt/operator.h"
#include "roi_align_options.h"

namespace course {

inline RoiAlignOptions parse_options(const char* operator_name, const Fields& fields) {
    RoiAlignOptions options{};
    options.output_height = fields.integer("output_height");
    options.output_width = fields.integer("output_width");
    // mmcv's own defaults.
    options.sampling_ratio = fields.integer("sampling_ratio", 0);
    options.aligned = fields.integer("aligned", 1);
    const std::string mode = fields.text("mode", "avg");
    if (mode != "avg" && mode != "max")
        throw refusal(operator_name, "the attribute 'mode' is '" + mode + "', not 'avg' or 'max'");
    options.mode = mode == "max" ? kRoiAlignMax : kRoiAlignAverage;
    return options;
}

inline void check_options(const char* operator_name, const RoiAlignOptions& options) {
    expect_range(operator_name, "output_height", options.output_height, 1, kMaxBins);
    expect_range(operator_name, "output_width", options.output_width, 1, kMaxBins / options.output_height);
    expect_range(operator_name, "sampling_ratio", options.sampling_ratio, 0, kMaxGrid);
    expect_range(operator_name, "mode", options.mode, kRoiAlignMax, kRoiAlignAverage);
    expect_range(operator_name, "aligned", options.aligned, 0, 1);
}

inline void check_scale(const char* operator_name, const char* attribute, float value) {
    expect_range(operator_name, attribute, double(value), 1e-9, 1e9);
}

inline void check_rois(const char* operator_name, const Shape& rois) {
    expect_rank(operator_name, "rois", rois, 2);
    expect_size(operator_name, "the second dimension of 'rois' (batch index, x1, y1, x2, y2)", rois.d[1], 5);
}

}  // namespace course
