// What an operator tells about itself, whatever TensorRT's version; plugin_v2.h and plugin_v3.h turn it into a plugin class.
//
//   struct Operator {
//       struct Parameters {...};                       // trivially copyable: serialized as bytes
//       static constexpr const char* kAttributes[];    // what the parser reads from the node
//       static const char* name();                     // the ONNX node's type: what the parser looks up
//       static Parameters parse(const Fields&);        // throws PluginError
//       static void check(const Parameters&);          // throws PluginError; also run on what was deserialized
//       static int32_t inputs(const Parameters&);      // how many there must be
//       static void check_shapes(const Parameters&, const Shapes& inputs);  // throws PluginError
//       static Output output(const Parameters&);       // there is one output, of four dimensions
//       static bool supports(int32_t position, const DataType* types);  // looks at types[0] to types[position] only
//       static DataType output_type(const DataType* inputs);
//       static int32_t enqueue(const Parameters&, const PluginTensorDesc* descs, const void* const* inputs, void* output,
//                              void* stream);          // a cudaError_t
//   };
//
// Shapes are checked wherever TensorRT shows them: in the network (what is constant there), when a profile is set up, and
// for every run before its launch, so that a kernel is never given a tensor that is smaller than it reads.
#pragma once

#include <NvInferRuntime.h>
#include <string.h>

#include <array>
#include <exception>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "../common/host_device.h"

namespace course {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::IExprBuilder;
using nvinfer1::PluginTensorDesc;

// What a user did wrong, in one sentence that starts with the operator's name.
class PluginError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

inline PluginError refusal(const char* operator_name, const std::string& what) {
    return PluginError(std::string(operator_name) + ": " + what);
}

// To TensorRT's own logger, or to stderr where there is none yet.
void report_error(const char* message) noexcept;

// Every function that TensorRT calls is noexcept, and what can throw in it (PluginError, or std::bad_alloc from a string or
// a new object) runs in here: the error is reported, and `refused` is what TensorRT gets.
template <typename Result, typename Function>
Result guarded(const Result& refused, Function function) noexcept {
    try {
        return function();
    } catch (const std::exception& error) {
        report_error(error.what());
        return refused;
    }
}

// The attributes of a node as the parser hands them over.
class Fields {
public:
    Fields(const char* operator_name, const nvinfer1::PluginFieldCollection* collection)
        : operator_(operator_name), collection_(collection) {}

    const nvinfer1::PluginField* find(const char* name) const {
        for (int32_t i = 0; collection_ && i < collection_->nbFields; ++i)
            if (collection_->fields[i].name && strcmp(collection_->fields[i].name, name) == 0) return &collection_->fields[i];
        return nullptr;
    }

    int32_t integer(const char* name) const { return integer_of(required(name)); }
    int32_t integer(const char* name, int32_t otherwise) const {
        const auto* field = find(name);
        return field ? integer_of(*field) : otherwise;
    }
    float number(const char* name) const { return numbers_of(required(name), 1, 1)[0]; }
    float number(const char* name, float otherwise) const {
        const auto* field = find(name);
        return field ? numbers_of(*field, 1, 1)[0] : otherwise;
    }
    std::vector<float> numbers(const char* name, size_t most) const { return numbers_of(required(name), 1, most); }
    std::string text(const char* name, const char* otherwise) const {
        const auto* field = find(name);
        if (!field) return otherwise;
        if (field->type != nvinfer1::PluginFieldType::kCHAR || !field->data) throw wrong(*field, "is not a string");
        // Some parsers count the terminating zero.
        std::string value(static_cast<const char*>(field->data), size_t(field->length > 0 ? field->length : 0));
        while (!value.empty() && value.back() == '\0') value.pop_back();
        return value;
    }

private:
    // Not in the enumeration of TensorRT 8; its value from 10 on.
    static constexpr int32_t kInt64Field = 10;

    const nvinfer1::PluginField& required(const char* name) const {
        const auto* field = find(name);
        if (!field) throw refusal(operator_, std::string("the attribute '") + name + "' is missing");
        return *field;
    }
    PluginError wrong(const nvinfer1::PluginField& field, const std::string& what) const {
        return refusal(operator_, std::string("the attribute '") + field.name + "' " + what);
    }
    int32_t integer_of(const nvinfer1::PluginField& field) const {
        if (!field.data || field.length != 1) throw wrong(field, "is not one integer");
        if (field.type == nvinfer1::PluginFieldType::kINT32) return *static_cast<const int32_t*>(field.data);
        if (int32_t(field.type) == kInt64Field) {
            const int64_t value = *static_cast<const int64_t*>(field.data);
            if (value < INT32_MIN || value > INT32_MAX) throw wrong(field, "is " + std::to_string(value) + ", beyond 32 bits");
            return int32_t(value);
        }
        throw wrong(field, "is not one integer");
    }
    std::vector<float> numbers_of(const nvinfer1::PluginField& field, size_t least, size_t most) const {
        const size_t count = field.length > 0 ? size_t(field.length) : 0;
        if (!field.data || count < least || count > most)
            throw wrong(field, most == 1 ? "is not one number" : "has " + std::to_string(count) + " values, not " +
                                                                     std::to_string(least) + " to " + std::to_string(most));
        std::vector<float> values(count);
        for (size_t i = 0; i < count; ++i) {
            if (field.type == nvinfer1::PluginFieldType::kFLOAT32)
                values[i] = static_cast<const float*>(field.data)[i];
            else if (field.type == nvinfer1::PluginFieldType::kFLOAT64)
                values[i] = float(static_cast<const double*>(field.data)[i]);
            else
                throw wrong(field, "is not of floating point");
        }
        return values;
    }

    const char* operator_;
    const nvinfer1::PluginFieldCollection* collection_;
};

// --- shapes and types ---

constexpr int32_t kMaxTensors = 16;  // of one node; MultiLevelRoIAlign has the most, 8 levels, the RoIs and the output
constexpr int64_t kUnknown = -1;     // a dimension that TensorRT does not know yet

struct Shape {
    int32_t rank;
    int64_t d[nvinfer1::Dims::MAX_DIMS];
};

// The inputs' shapes.
class Shapes {
public:
    explicit Shapes(int32_t count) : count_(count) {}
    int32_t count() const { return count_; }
    Shape& operator[](int32_t i) { return at_[size_t(i)]; }
    const Shape& operator[](int32_t i) const { return at_[size_t(i)]; }

private:
    int32_t count_;
    std::array<Shape, kMaxTensors> at_{};
};

inline Shape shape_of(const nvinfer1::Dims& dims) {
    Shape shape{dims.nbDims, {}};
    for (int32_t d = 0; d < dims.nbDims; ++d) shape.d[d] = dims.d[d] < 0 ? kUnknown : dims.d[d];
    return shape;
}
inline Shape shape_of(const PluginTensorDesc& tensor) { return shape_of(tensor.dims); }
inline Shape shape_of(const DimsExprs& dims) {
    Shape shape{dims.nbDims, {}};
    for (int32_t d = 0; d < dims.nbDims; ++d) shape.d[d] = dims.d[d]->isConstant() ? dims.d[d]->getConstantValue() : kUnknown;
    return shape;
}
// A dimension that a profile leaves open is known where its bounds meet.
inline Shape shape_of(const nvinfer1::DynamicPluginTensorDesc& tensor) {
    Shape shape = shape_of(tensor.desc);
    for (int32_t d = 0; d < shape.rank; ++d)
        if (shape.d[d] == kUnknown && tensor.min.d[d] == tensor.max.d[d] && tensor.min.d[d] >= 0) shape.d[d] = tensor.min.d[d];
    return shape;
}

inline void expect_rank(const char* operator_name, const std::string& tensor, const Shape& shape, int32_t wanted) {
    if (shape.rank != wanted)
        throw refusal(operator_name, "'" + tensor + "' has " + std::to_string(shape.rank) + " dimensions, not " +
                                         std::to_string(wanted));
}

// `got` must be `wanted`, as far as both are known.
inline void expect_size(const char* operator_name, const std::string& what, int64_t got, int64_t wanted) {
    if (got != wanted && got != kUnknown && wanted != kUnknown)
        throw refusal(operator_name, what + " is " + std::to_string(got) + ", not " + std::to_string(wanted));
}

inline void expect_range(const char* operator_name, const char* attribute, double value, double low, double high) {
    if (value >= low && value <= high) return;
    throw refusal(operator_name, std::string("the attribute '") + attribute + "' is " + std::to_string(value) + ", not from " +
                                     std::to_string(low) + " to " + std::to_string(high));
}

inline bool is_floating(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; }

// Coordinates may stay in float beside half-precision values; half-precision coordinates beside float values make no sense
// and are not compiled.
inline bool coordinates_fit(DataType coordinates, DataType values) {
    return coordinates == DataType::kFLOAT || (coordinates == DataType::kHALF && values == DataType::kHALF);
}

// Of a type that supports() lets through.
inline int32_t course_type(const PluginTensorDesc& tensor) {
    return tensor.type == DataType::kHALF ? kCourseFloat16 : kCourseFloat32;
}

// Dims::d is 32-bit up to TensorRT 8 and 64-bit from 10 on; check_inputs() has refused what the kernels' sizes cannot hold.
inline int32_t dim(const PluginTensorDesc& tensor, int32_t axis) { return int32_t(tensor.dims.d[axis]); }

// The output's dimensions: each is a dimension of an input, or a constant.
struct OutputDim {
    int32_t input;  // -1: the constant
    int32_t axis;
    int64_t constant;
};
using Output = std::array<OutputDim, 4>;
constexpr OutputDim same_as(int32_t input, int32_t axis) { return {input, axis, 0}; }
constexpr OutputDim constant(int64_t value) { return {-1, 0, value}; }

// --- what the plugin classes of all versions do the same way ---

inline const char* version() { return "1"; }

// Reads count tensors into shapes, and refuses all that the operator does not take.
template <typename Operator, typename Tensor>
Shapes check_inputs(const typename Operator::Parameters& parameters, const Tensor* tensors, int32_t count) {
    const int32_t wanted = Operator::inputs(parameters);
    if (count != wanted)
        throw refusal(Operator::name(), "has " + std::to_string(count) + " inputs, not " + std::to_string(wanted));
    Shapes shapes(count);
    for (int32_t i = 0; i < count; ++i) {
        shapes[i] = shape_of(tensors[i]);
        for (int32_t d = 0; d < shapes[i].rank; ++d)
            if (shapes[i].d[d] > INT32_MAX) throw refusal(Operator::name(), "a dimension of an input exceeds 2^31 - 1");
    }
    Operator::check_shapes(parameters, shapes);
    return shapes;
}

template <typename Operator>
DimsExprs output_dimensions(const typename Operator::Parameters& parameters, const DimsExprs* inputs, int32_t count,
                            IExprBuilder& builder) {
    check_inputs<Operator>(parameters, inputs, count);
    DimsExprs dims{};
    for (const OutputDim& from : Operator::output(parameters))
        dims.d[dims.nbDims++] = from.input < 0 ? builder.constant(from.constant) : inputs[from.input].d[from.axis];
    return dims;
}

inline bool is_linear(const PluginTensorDesc& tensor) { return tensor.format == nvinfer1::TensorFormat::kLINEAR; }

// `tensor(i)`: the description of input i, the outputs after the inputs; those after `position` are not looked at.
template <typename Operator, typename Tensors>
bool supports(int32_t position, const Tensors& tensor) noexcept {
    if (position < 0 || position >= kMaxTensors || !is_linear(tensor(position))) return false;
    DataType types[kMaxTensors] = {};
    for (int32_t i = 0; i <= position; ++i) types[i] = tensor(i).type;
    return Operator::supports(position, types);
}

template <typename Operator>
int32_t enqueue(const typename Operator::Parameters& parameters, const PluginTensorDesc* input_descs,
                const PluginTensorDesc* output_descs, const void* const* inputs, void* const* outputs,
                void* stream) noexcept {
    return guarded(int32_t(kCourseBadArgument), [&] {
        const int32_t count = Operator::inputs(parameters);
        const Shapes shapes = check_inputs<Operator>(parameters, input_descs, count);
        const auto tensor = [&](int32_t i) -> const PluginTensorDesc& { return i < count ? input_descs[i] : output_descs[0]; };
        for (int32_t i = 0; i <= count; ++i)
            if (!supports<Operator>(i, tensor)) throw refusal(Operator::name(), "does not take tensors of these types and formats");
        const Shape output = shape_of(output_descs[0]);
        expect_rank(Operator::name(), "output", output, 4);
        int32_t axis = 0;
        for (const OutputDim& from : Operator::output(parameters)) {
            const int64_t wanted = from.input < 0 ? from.constant : shapes[from.input].d[from.axis];
            expect_size(Operator::name(), "dimension " + std::to_string(axis) + " of the output", output.d[axis], wanted);
            ++axis;
        }
        const int32_t status = Operator::enqueue(parameters, input_descs, inputs, outputs[0], stream);
        if (status != 0) throw refusal(Operator::name(), "the kernel returned CUDA error " + std::to_string(status));
        return status;
    });
}

// What an engine holds of a plugin: whose parameters they are, and of which layout; then the parameters.
template <typename Operator>
struct Stored {
    using Parameters = typename Operator::Parameters;
    static_assert(std::is_trivially_copyable<Parameters>::value, "parameters are stored as bytes");

    char name[32];
    uint32_t layout;
    uint32_t size;
    Parameters parameters;

    explicit Stored(const Parameters& p) noexcept : name{}, layout(1), size(sizeof(Parameters)), parameters(p) {
        strncpy(name, Operator::name(), sizeof(name) - 1);
    }
    // Throws PluginError for what is no such plugin.
    static Parameters read(const void* data, size_t length) {
        if (data && length == sizeof(Stored)) {
            Stored stored{Parameters{}};
            const Stored expected{Parameters{}};
            memcpy(&stored, data, sizeof(Stored));
            if (memcmp(stored.name, expected.name, sizeof(expected.name)) == 0 && stored.layout == expected.layout &&
                stored.size == expected.size) {
                Operator::check(stored.parameters);
                return stored.parameters;
            }
        }
        throw refusal(Operator::name(), "the engine holds no such plugin, or one of another version: build the engine again");
    }
};

// The names of an operator's attributes, as a creator has to hand them out.
template <typename Operator>
class FieldNames {
public:
    FieldNames() noexcept {
        for (size_t i = 0; i < fields_.size(); ++i) fields_[i] = nvinfer1::PluginField(Operator::kAttributes[i]);
        collection_.nbFields = int32_t(fields_.size());
        collection_.fields = fields_.data();
    }
    FieldNames(const FieldNames&) = delete;
    const nvinfer1::PluginFieldCollection* get() const noexcept { return &collection_; }

private:
    std::array<nvinfer1::PluginField, std::size(Operator::kAttributes)> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace course
