// NOT TensorRT. The few declarations of its plugin interface that plugins/tensorrt/plugin.h uses, written for the tests so
// that the plugin classes can be compiled and driven on a machine without TensorRT and without CUDA. It proves what the
// classes do when they are called as the documentation says; that TensorRT calls them so, only TensorRT can prove.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define COURSE_FAKE_TENSORRT 1

struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4 };
enum class TensorFormat : int32_t { kLINEAR = 0, kCHW2 = 1 };
enum class DimensionOperation : int32_t { kSUM = 0, kPROD = 1, kMAX = 2, kMIN = 3 };

// 64-bit dimensions, as from version 10 on: narrowing must be explicit.
struct Dims64 {
    int32_t nbDims;
    int64_t d[8];
};
using Dims = Dims64;

struct PluginTensorDesc {
    Dims dims;
    DataType type;
    TensorFormat format;
    float scale;
};
struct DynamicPluginTensorDesc {
    PluginTensorDesc desc;
    Dims min, max;
};

class IDimensionExpr {
public:
    virtual ~IDimensionExpr() = default;
    virtual bool isConstant() const noexcept = 0;
    virtual int64_t getConstantValue() const noexcept = 0;
};
class IExprBuilder {
public:
    virtual ~IExprBuilder() = default;
    virtual const IDimensionExpr* constant(int64_t value) noexcept = 0;
    virtual const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& first,
                                            const IDimensionExpr& second) noexcept = 0;
};
struct DimsExprs {
    int32_t nbDims;
    const IDimensionExpr* d[8];
};

enum class PluginFieldType : int32_t { kFLOAT16 = 0, kFLOAT32 = 1, kFLOAT64 = 2, kINT8 = 3, kINT16 = 4, kINT32 = 5, kCHAR = 6 };
struct PluginField {
    const char* name;
    const void* data;
    PluginFieldType type;
    int32_t length;
    PluginField(const char* name_ = nullptr, const void* data_ = nullptr, PluginFieldType type_ = PluginFieldType::kCHAR,
                int32_t length_ = 0)
        : name(name_), data(data_), type(type_), length(length_) {}
};
struct PluginFieldCollection {
    int32_t nbFields;
    const PluginField* fields;
};

class IPluginV2 {
public:
    virtual ~IPluginV2() = default;
    virtual const char* getPluginType() const noexcept = 0;
    virtual const char* getPluginVersion() const noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
    virtual int32_t initialize() noexcept = 0;
    virtual void terminate() noexcept = 0;
    virtual size_t getSerializationSize() const noexcept = 0;
    virtual void serialize(void* buffer) const noexcept = 0;
    virtual void destroy() noexcept = 0;
    virtual IPluginV2* clone() const noexcept = 0;
    virtual void setPluginNamespace(const char* name) noexcept = 0;
    virtual const char* getPluginNamespace() const noexcept = 0;
};
class IPluginV2DynamicExt : public IPluginV2 {
public:
    virtual DataType getOutputDataType(int32_t index, const DataType* inputs, int32_t count) const noexcept = 0;
    IPluginV2DynamicExt* clone() const noexcept override = 0;
    virtual DimsExprs getOutputDimensions(int32_t index, const DimsExprs* inputs, int32_t count,
                                          IExprBuilder& builder) noexcept = 0;
    virtual bool supportsFormatCombination(int32_t position, const PluginTensorDesc* tensors, int32_t inputs,
                                           int32_t outputs) noexcept = 0;
    virtual void configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc* out,
                                 int32_t outputs) noexcept = 0;
    virtual size_t getWorkspaceSize(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc* out,
                                    int32_t outputs) const noexcept = 0;
    virtual int32_t enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
                            void* const* outputs, void* workspace, cudaStream_t stream) noexcept = 0;
};
class IPluginCreator {
public:
    virtual ~IPluginCreator() = default;
    virtual const char* getPluginName() const noexcept = 0;
    virtual const char* getPluginVersion() const noexcept = 0;
    virtual const PluginFieldCollection* getFieldNames() noexcept = 0;
    virtual IPluginV2* createPlugin(const char* name, const PluginFieldCollection* fields) noexcept = 0;
    virtual IPluginV2* deserializePlugin(const char* name, const void* data, size_t length) noexcept = 0;
    virtual void setPluginNamespace(const char* name) noexcept = 0;
    virtual const char* getPluginNamespace() const noexcept = 0;
};
class IPluginRegistry {
public:
    virtual ~IPluginRegistry() = default;
    virtual bool registerCreator(IPluginCreator& creator, const char* name_space) noexcept = 0;
};
class ILogger {
public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1 };
    virtual ~ILogger() = default;
    virtual void log(Severity severity, const char* message) noexcept = 0;
};

}  // namespace nvinfer1

extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept;
extern "C" nvinfer1::ILogger* getLogger() noexcept;
