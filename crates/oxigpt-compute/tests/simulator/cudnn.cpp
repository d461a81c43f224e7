// NVIDIA's cuDNN, as far as src/cuda calls its backend interface, on a machine without a GPU.
//
// A descriptor keeps what is set on it. A plan is its graph, and executing it interprets the operations one after the
// other, in double, on whole tensors; what a graph keeps between two operations is rounded to its type. Where the real
// one matches patterns, this one does any graph of the operations below, but refuses heads 40 wide, so that a refusal can
// be seen.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

typedef void* Handle;

/// Of libraries.cpp: does it, or keeps it for later if the stream is being recorded.
int put(Handle stream, std::function<void()> work);

enum { SUCCESS = 0, BAD = 2000, UNSUPPORTED = 3000 };

enum { F32 = 0, I32 = 4, BF16 = 9, BOOL = 11 };

struct Descriptor {
    int kind;
    bool is_final = false;
    std::map<int, std::vector<char>> attributes;

    template <class T> std::vector<T> all(int attribute) const {
        const auto found = attributes.find(attribute);
        if (found == attributes.end()) return {};
        const T* first = reinterpret_cast<const T*>(found->second.data());
        return std::vector<T>(first, first + found->second.size() / sizeof(T));
    }

    template <class T> T one(int attribute) const {
        const std::vector<T> values = all<T>(attribute);
        return values.empty() ? T() : values[0];
    }

    const Descriptor* other(int attribute) const { return one<const Descriptor*>(attribute); }
};

API size_t cudnnGetVersion() { return 91900; }

API size_t cudnnGetCudartVersion() { return 13000; }

API const char* cudnnGetErrorString(int status) { return status == UNSUPPORTED ? "NOT_SUPPORTED" : "BAD_PARAM"; }

API void cudnnGetLastErrorString(char* text, size_t bytes) { strncpy(text, "the simulator refuses it", bytes); }

/// A handle is the stream that it works on.
API int cudnnCreate(Handle* handle) { return *handle = new Handle(nullptr), SUCCESS; }

API int cudnnDestroy(Handle handle) { return delete static_cast<Handle*>(handle), SUCCESS; }

API int cudnnSetStream(Handle handle, Handle stream) { return *static_cast<Handle*>(handle) = stream, SUCCESS; }

API int cudnnBackendCreateDescriptor(int kind, Handle* descriptor) {
    return *descriptor = new Descriptor{kind, false, {}}, SUCCESS;
}

API int cudnnBackendDestroyDescriptor(Handle descriptor) {
    return delete static_cast<Descriptor*>(descriptor), SUCCESS;
}

/// Bytes of a value of a type, by the type's number.
static size_t size_of(int type) {
    switch (type) {
        case 1: case 8: case 14: case 18: return 4;
        case 2: return 1;
        case 0: case 3: case 6: case 15: return 8;
        default: return 0;
    }
}

API int cudnnBackendSetAttribute(Handle handle, int attribute, int type, int64_t count, const void* values) {
    Descriptor* descriptor = static_cast<Descriptor*>(handle);
    if (descriptor->is_final || count < 1 || !size_of(type)) return BAD;
    const char* first = static_cast<const char*>(values);
    if (type == 15) {
        for (int64_t i = 0; i < count; i++) {
            const Descriptor* other = static_cast<Descriptor* const*>(values)[i];
            // A configuration is made by the heuristics.
            if (!other->is_final && other->kind != 3) return BAD;
        }
    }
    descriptor->attributes[attribute] = {first, first + count * size_of(type)};
    return SUCCESS;
}

// ---- tensors ----

struct Tensor {
    const Descriptor& descriptor;
    std::vector<int64_t> dims = descriptor.all<int64_t>(902), strides = descriptor.all<int64_t>(903);
    int64_t uid = descriptor.one<int64_t>(906);
    int type = descriptor.one<int>(901);
    bool is_virtual = descriptor.one<bool>(907), is_value = descriptor.one<bool>(908);

    int64_t count() const { return dims[0] * dims[1] * dims[2] * dims[3]; }

    /// Calls with the place among the elements and in memory.
    template <class Call> void each(const Call& call) const {
        int64_t at = 0;
        for (int64_t a = 0; a < dims[0]; a++)
            for (int64_t b = 0; b < dims[1]; b++)
                for (int64_t c = 0; c < dims[2]; c++)
                    for (int64_t d = 0; d < dims[3]; d++)
                        call(at++, a * strides[0] + b * strides[1] + c * strides[2] + d * strides[3]);
    }
};

static float rounded_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    if (!std::isnan(value)) memcpy(&value, &bits, 4);
    return value;
}

static double kept(int type, double value) {
    if (type == BF16) return rounded_to_bf16((float)value);
    return type == F32 ? (double)(float)value : value;
}

static double load(int type, const void* memory, int64_t at) {
    if (type == F32) return static_cast<const float*>(memory)[at];
    const uint32_t bits = (uint32_t)static_cast<const uint16_t*>(memory)[at] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static void store(int type, void* memory, int64_t at, double value) {
    if (type == F32) {
        static_cast<float*>(memory)[at] = (float)value;
        return;
    }
    const float rounded = rounded_to_bf16((float)value);
    uint32_t bits;
    memcpy(&bits, &rounded, 4);
    static_cast<uint16_t*>(memory)[at] = (uint16_t)(bits >> 16);
}

// ---- graphs ----

/// The elements of all tensors so far, and where those in memory are.
struct Run {
    std::map<int64_t, void*> pointers;
    std::map<int64_t, std::vector<double>> elements;

    const std::vector<double>& read(const Tensor& tensor) {
        std::vector<double>& values = elements[tensor.uid];
        if (!values.empty() || tensor.is_virtual) return values;
        values.resize(tensor.count());
        const void* memory = pointers.at(tensor.uid);
        tensor.each([&](int64_t at, int64_t in_memory) { values[at] = load(tensor.type, memory, in_memory); });
        return values;
    }

    void write(const Tensor& tensor, std::vector<double> values) {
        for (double& value : values) value = kept(tensor.type, value);
        if (!tensor.is_virtual) {
            void* memory = pointers.at(tensor.uid);
            tensor.each([&](int64_t at, int64_t in_memory) { store(tensor.type, memory, in_memory, values[at]); });
        }
        elements[tensor.uid] = std::move(values);
    }
};

/// The place in a tensor that may be repeated along some dimensions.
static int64_t repeated(const Tensor& tensor, const std::vector<int64_t>& dims, int64_t at) {
    int64_t place = 0, step = 1;
    for (int i = 3; i >= 0; i--) {
        if (tensor.dims[i] != 1) place += at % dims[i] * step;
        step *= tensor.dims[i];
        at /= dims[i];
    }
    return place;
}

static double apply(int mode, double x, double b, bool t) {
    switch (mode) {
        case 0: return x + b;
        case 1: return x * b;
        case 6: return x / b;
        case 9: return x - b;
        case 13: return std::exp(x);
        case 15: return std::log(x);
        case 21: return x;
        case 303: return x >= b;
        default: return t ? x : b;
    }
}

static void pointwise(const Descriptor& op, Run& run) {
    const Descriptor& what = *op.other(750);
    const int mode = what.one<int>(0);
    const Tensor out{*op.other(753)};
    std::vector<double> result(out.count());
    if (mode == 501) {
        int64_t step = 1;
        const int64_t axis = what.one<int64_t>(9);
        for (int i = 3; i > axis; i--) step *= out.dims[i];
        for (int64_t at = 0; at < out.count(); at++) result[at] = (double)(at / step % out.dims[axis]);
        return run.write(out, std::move(result));
    }
    std::vector<Tensor> tensors;
    for (const int attribute : {751, 752, 758}) {
        if (op.other(attribute)) tensors.push_back(Tensor{*op.other(attribute)});
    }
    std::vector<const std::vector<double>*> inputs;
    for (const Tensor& tensor : tensors) inputs.push_back(&run.read(tensor));
    for (int64_t at = 0; at < out.count(); at++) {
        double x[3] = {};
        for (size_t i = 0; i < tensors.size(); i++) x[i] = (*inputs[i])[repeated(tensors[i], out.dims, at)];
        result[at] = apply(mode, x[0], x[1], x[2] != 0.0);
    }
    run.write(out, std::move(result));
}

static void matmul(const Descriptor& op, Run& run) {
    const Tensor a{*op.other(1520)}, b{*op.other(1521)}, out{*op.other(1522)};
    const std::vector<double>&left = run.read(a), &right = run.read(b);
    const int64_t m = out.dims[2], n = out.dims[3], depth = a.dims[3];
    std::vector<double> result(out.count());
    for (int64_t matrix = 0; matrix < out.dims[0] * out.dims[1]; matrix++) {
        for (int64_t i = 0; i < m; i++) {
            for (int64_t k = 0; k < depth; k++) {
                const double factor = left[(matrix * m + i) * depth + k];
                for (int64_t j = 0; j < n; j++) {
                    result[(matrix * m + i) * n + j] += factor * right[(matrix * depth + k) * n + j];
                }
            }
        }
    }
    run.write(out, std::move(result));
}

static void reduction(const Descriptor& op, Run& run) {
    const Tensor x{*op.other(1610)}, out{*op.other(1611)};
    const bool is_max = op.other(1612)->one<int>(1600) == 3;
    const std::vector<double>& values = run.read(x);
    std::vector<double> result(out.count(), is_max ? -INFINITY : 0.0);
    for (int64_t at = 0; at < x.count(); at++) {
        double& sum = result[repeated(out, x.dims, at)];
        sum = is_max ? std::max(sum, values[at]) : sum + values[at];
    }
    run.write(out, std::move(result));
}

/// What lies at the same place in memory.
static void reshape(const Descriptor& op, Run& run) {
    const Tensor x{*op.other(2200)}, out{*op.other(2201)};
    const std::vector<double>& values = run.read(x);
    std::map<int64_t, double> in_memory;
    x.each([&](int64_t at, int64_t place) { in_memory[place] = values[at]; });
    std::vector<double> result(out.count());
    out.each([&](int64_t at, int64_t place) { result[at] = in_memory.at(place); });
    run.write(out, std::move(result));
}

static std::vector<Tensor> operands(const Descriptor& op) {
    std::vector<Tensor> tensors;
    for (const int attribute : {751, 752, 758, 753, 1520, 1521, 1522, 1610, 1611, 2200, 2201}) {
        if (op.other(attribute)) tensors.push_back(Tensor{*op.other(attribute)});
    }
    return tensors;
}

/// Whether a graph can be done; one with heads 40 wide cannot.
static int graph_status(const Descriptor& graph) {
    for (const Descriptor* op : graph.all<const Descriptor*>(801)) {
        for (const Tensor& tensor : operands(*op)) {
            if (tensor.dims.size() != 4 || tensor.strides.size() != 4 || tensor.uid == 0) return BAD;
            if (tensor.dims[3] == 40) return UNSUPPORTED;
        }
        if (op->kind == 19) {
            const Tensor a{*op->other(1520)}, b{*op->other(1521)}, out{*op->other(1522)};
            if (a.dims[3] != b.dims[2] || a.dims[2] != out.dims[2] || b.dims[3] != out.dims[3]) return BAD;
        }
        if (op->kind == 31) {
            const Tensor x{*op->other(2200)}, out{*op->other(2201)};
            if (x.count() != out.count()) return BAD;
        }
    }
    return SUCCESS;
}

/// What an adjoint takes: two bytes for each pair, unless it has memory of its own for its sums, which it rounds at the end.
static int64_t workspace_bytes(const Descriptor& graph) {
    int64_t pairs = 0;
    bool has_sums = false;
    for (const Descriptor* op : graph.all<const Descriptor*>(801)) {
        if (op->kind == 31) pairs = std::max(pairs, Tensor{*op->other(2201)}.count());
        if (op->kind == 13 && op->other(750)->one<int>(0) == 21) has_sums = true;
    }
    return 128 + (has_sums ? 0 : 2 * pairs);
}

API int cudnnBackendFinalize(Handle handle) {
    Descriptor* descriptor = static_cast<Descriptor*>(handle);
    if (descriptor->is_final) return BAD;
    descriptor->is_final = true;
    if (descriptor->kind == 15) return descriptor->one<Handle>(800) ? graph_status(*descriptor) : BAD;
    if (descriptor->kind == 5) return descriptor->one<Handle>(400) && descriptor->other(401) ? SUCCESS : BAD;
    return SUCCESS;
}

API int cudnnBackendGetAttribute(Handle handle, int attribute, int type, int64_t room, int64_t* count, void* values) {
    Descriptor* descriptor = static_cast<Descriptor*>(handle);
    if (!descriptor->is_final || room < 1) return BAD;
    *count = 1;
    if (descriptor->kind == 4 && attribute == 202 && type == 15) {
        // A configuration knows its graph.
        Descriptor* configuration = *static_cast<Descriptor**>(values);
        configuration->attributes[201] = descriptor->attributes[201];
        configuration->is_final = true;
        return SUCCESS;
    }
    if (descriptor->kind == 5 && attribute == 402 && type == 3) {
        *static_cast<int64_t*>(values) = workspace_bytes(*descriptor->other(401)->other(201));
        return SUCCESS;
    }
    return BAD;
}

API int cudnnBackendExecute(Handle handle, Handle plan_handle, Handle pack_handle) {
    const Descriptor &plan = *static_cast<Descriptor*>(plan_handle), &pack = *static_cast<Descriptor*>(pack_handle);
    const Descriptor* graph = plan.other(401)->other(201);
    const auto uids = pack.all<int64_t>(1000);
    const auto pointers = pack.all<void*>(1001);
    if (uids.size() != pointers.size()) return BAD;
    std::map<int64_t, void*> places;
    for (size_t i = 0; i < uids.size(); i++) places[uids[i]] = pointers[i];
    Run run{places, {}};
    for (const Descriptor* op : graph->all<const Descriptor*>(801)) {
        for (const Tensor& tensor : operands(*op)) {
            if (tensor.is_virtual) continue;
            const auto found = places.find(tensor.uid);
            if (found == places.end()) return BAD;
            // Single numbers are read now, because they are the caller's.
            if (tensor.is_value) run.read(tensor);
            else if (reinterpret_cast<uint64_t>(found->second) % tensor.descriptor.one<int64_t>(900)) return BAD;
        }
    }
    char* workspace = pack.one<char*>(1003);
    return put(*static_cast<Handle*>(handle), [=]() mutable {
        memset(workspace, 0xff, workspace_bytes(*graph));
        Run own = run;
        for (const Descriptor* op : graph->all<const Descriptor*>(801)) {
            switch (op->kind) {
                case 13: pointwise(*op, own); break;
                case 19: matmul(*op, own); break;
                case 22: reduction(*op, own); break;
                case 31: reshape(*op, own); break;
            }
        }
    });
}
