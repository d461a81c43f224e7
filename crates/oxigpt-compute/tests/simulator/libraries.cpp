// NVIDIA's driver, NVRTC and cuBLASLt, as far as src/cuda calls them, on a machine without a GPU. (cuDNN: cudnn.cpp.)
//
// One library stands under all three names. Device memory is the process's own; NVRTC hands a kernel's source to the
// C++ compiler of the machine, after machine.h; a product is three loops. A stream that is being recorded keeps what is
// put on it, as a graph.
//
// A stream does its work as late as it may: when someone waits for it. Of two streams, what no event orders therefore
// happens in an order that shows, and differs between the two devices: on the first, the second of a GPU's two streams does its
// work at once. Memory that was allocated for the host is read when its copy is done, other memory when it is asked for.
//
// There are two devices also because nothing may hang on the order in which threads take turns: on the second it is
// reversed.
//
// Compiled with -DCOMPILER="c++ ..." and -DMACHINE="...machine.h" and -DSCRATCH="directory".

#include "machine.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

typedef void* Handle;

enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, COMPILATION = 6 };

// ---- streams and graphs ----

typedef std::vector<std::function<void()>> Work;

struct Stream {
    Work* recording = nullptr;
    /// Does its work at once.
    bool eager = false;
    std::deque<std::function<void()>> waiting;
};

/// How often it has been put on a stream, and how often that has come to pass.
struct Event {
    Stream* on = nullptr;
    unsigned recorded = 0, happened = 0;
};

static bool advance(Stream* stream) {
    if (stream->waiting.empty()) return false;
    const auto work = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    work();
    return true;
}

/// Does all work of a stream.
static int drain(Stream* stream) {
    while (advance(stream)) {
    }
    return SUCCESS;
}

/// Does the work of a stream up to an event.
static int reach(Event* event, unsigned record) {
    while (event->happened < record && advance(event->on)) {
    }
    return event->happened < record ? INVALID : SUCCESS;
}

/// Has it done in its turn, or keeps it for later if the stream is being recorded.
int put(Handle handle, std::function<void()> work) {
    Stream* stream = static_cast<Stream*>(handle);
    if (stream->recording) {
        stream->recording->push_back(std::move(work));
        return SUCCESS;
    }
    stream->waiting.push_back(std::move(work));
    return stream->eager ? drain(stream) : SUCCESS;
}

/// A context is its device's number, plus one.
static thread_local Handle current_context;

static bool is_reversed() { return current_context == reinterpret_cast<Handle>(2); }

/// A GPU is opened with two streams, for work and for copies.
API int cuStreamCreate(Handle* stream, unsigned) {
    static thread_local bool is_second = true;
    is_second = !is_second;
    *stream = new Stream{nullptr, is_second && !is_reversed(), {}};
    return SUCCESS;
}

API int cuStreamDestroy_v2(Handle stream) { return delete static_cast<Stream*>(stream), SUCCESS; }

API int cuStreamSynchronize(Handle stream) { return drain(static_cast<Stream*>(stream)); }

API int cuStreamWaitEvent(Handle stream, Handle handle, unsigned) {
    Event* event = static_cast<Event*>(handle);
    return put(stream, [=, record = event->recorded] { reach(event, record); });
}

API int cuStreamBeginCapture_v2(Handle stream, int) {
    static_cast<Stream*>(stream)->recording = new Work;
    return SUCCESS;
}

API int cuStreamEndCapture(Handle stream, Handle* graph) {
    Stream* on = static_cast<Stream*>(stream);
    *graph = on->recording;
    on->recording = nullptr;
    return SUCCESS;
}

API int cuGraphInstantiateWithFlags(Handle* executable, Handle graph, unsigned long long) {
    *executable = new Work(*static_cast<Work*>(graph));
    return SUCCESS;
}

API int cuGraphDestroy(Handle graph) { return delete static_cast<Work*>(graph), SUCCESS; }

API int cuGraphExecDestroy(Handle executable) { return delete static_cast<Work*>(executable), SUCCESS; }

API int cuGraphLaunch(Handle executable, Handle stream) {
    return put(stream, [=] {
        for (const auto& work : *static_cast<Work*>(executable)) work();
    });
}

// ---- events: no time passes ----

API int cuEventCreate(Handle* event, unsigned) { return *event = new Event, SUCCESS; }

API int cuEventDestroy_v2(Handle event) { return delete static_cast<Event*>(event), SUCCESS; }

API int cuEventRecord(Handle handle, Handle stream) {
    Event* event = static_cast<Event*>(handle);
    event->on = static_cast<Stream*>(stream);
    return put(stream, [=, record = ++event->recorded] { event->happened = record; });
}

API int cuEventSynchronize(Handle handle) {
    Event* event = static_cast<Event*>(handle);
    return reach(event, event->recorded);
}

API int cuEventElapsedTime(float* ms, Handle, Handle) { return *ms = 1.0f, SUCCESS; }

// ---- the device ----

static const size_t MEMORY = size_t(8) << 30, LARGE = 1 << 20, PAGE = 4096;

API int cuInit(unsigned) { return SUCCESS; }

API int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }

API int cuGetErrorName(int, const char** text) { return *text = "SIMULATED", SUCCESS; }

API int cuGetErrorString(int, const char** text) { return *text = "an error of the simulator", SUCCESS; }

API int cuDeviceGetCount(int* count) { return *count = 2, SUCCESS; }

API int cuDeviceGet(int* device, int index) { return *device = index, SUCCESS; }

API int cuDeviceGetName(char* name, int bytes, int) { return snprintf(name, bytes, "simulated GPU"), SUCCESS; }

API int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = MEMORY, SUCCESS; }

API int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 16: return *value = 1, SUCCESS;
        case 75: return *value = 9, SUCCESS;
        case 76: return *value = 0, SUCCESS;
        // 227 KiB are all that a block of Hopper can have.
        case 97: return *value = 227 << 10, SUCCESS;
        default: return INVALID;
    }
}

API int cuDevicePrimaryCtxRetain(Handle* context, int device) {
    return *context = reinterpret_cast<Handle>((intptr_t)device + 1), SUCCESS;
}

API int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }

API int cuCtxSetCurrent(Handle context) { return current_context = context, SUCCESS; }

API int cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = *total = MEMORY, SUCCESS; }

/// Memory begins at multiples of 256 bytes, like a GPU's, and large pieces at whole pages.
API int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    if (bytes > MEMORY) return OUT_OF_MEMORY;
    const size_t alignment = bytes < LARGE ? 256 : PAGE;
    void* memory = aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (!memory) return OUT_OF_MEMORY;
    *address = reinterpret_cast<uint64_t>(memory);
    return SUCCESS;
}

API int cuMemFree_v2(uint64_t address) { return free(reinterpret_cast<void*>(address)), SUCCESS; }

API int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, Handle stream) {
    return put(stream, [=] {
        char* memory = reinterpret_cast<char*>(address);
        size_t done = 0;
        // Whole pages that are given back come again as zeros, once someone needs them.
        if (value == 0 && bytes >= LARGE && address % PAGE == 0) {
            done = bytes / PAGE * PAGE;
            if (madvise(memory, done, MADV_DONTNEED) != 0) done = 0;
        }
        memset(memory + done, value, bytes - done);
    });
}

/// Memory of the host that a device reads itself: where it begins, and ends.
static std::mutex pinned_guard;
static std::map<const char*, const char*> pinned;

API int cuMemAllocHost_v2(void** memory, size_t bytes) {
    *memory = malloc(bytes);
    const std::lock_guard<std::mutex> lock(pinned_guard);
    pinned[static_cast<char*>(*memory)] = static_cast<char*>(*memory) + bytes;
    return SUCCESS;
}

API int cuMemFreeHost(void* memory) {
    const std::lock_guard<std::mutex> lock(pinned_guard);
    pinned.erase(static_cast<char*>(memory));
    return free(memory), SUCCESS;
}

static bool is_pinned(const char* from) {
    const std::lock_guard<std::mutex> lock(pinned_guard);
    const auto after = pinned.upper_bound(from);
    return after != pinned.begin() && from < std::prev(after)->second;
}

API int cuMemcpyHtoDAsync_v2(uint64_t to, const void* source, size_t bytes, Handle stream) {
    const char* from = static_cast<const char*>(source);
    if (is_pinned(from)) return put(stream, [=] { memcpy(reinterpret_cast<void*>(to), from, bytes); });
    return put(stream, [=, staged = std::vector<char>(from, from + bytes)] {
        memcpy(reinterpret_cast<void*>(to), staged.data(), bytes);
    });
}

API int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Handle stream) {
    return put(stream, [=] { memcpy(to, reinterpret_cast<void*>(from), bytes); });
}

API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Handle stream) {
    return put(stream, [=] { memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes); });
}

// ---- kernels ----

/// The kernels of one library share what they declare as shared memory, so they take turns.
struct Module {
    void* library;
    std::mutex* turn;
};

struct Function {
    machine::Kernel kernel;
    std::mutex* turn;
    int shared_bytes = 48 << 10;
};

API int cuModuleLoadData(Handle* module, const void* cubin) {
    void* library = dlopen(static_cast<const char*>(cubin), RTLD_NOW | RTLD_LOCAL);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), INVALID;
    static std::mutex guard;
    static std::map<void*, std::mutex> turns;
    const std::lock_guard<std::mutex> lock(guard);
    return *module = new Module{library, &turns[library]}, SUCCESS;
}

/// Kernels stay: a recorded graph may hold them.
API int cuModuleUnload(Handle) { return SUCCESS; }

API int cuModuleGetFunction(Handle* function, Handle handle, const char* name) {
    const Module* module = static_cast<Module*>(handle);
    const std::string symbol = std::string("kernel_") + name;
    const auto kernel = reinterpret_cast<machine::Kernel (*)()>(dlsym(module->library, symbol.c_str()));
    if (!kernel) return NOT_FOUND;
    return *function = new Function{kernel(), module->turn}, SUCCESS;
}

/// What a kernel declares itself lies beside what it is launched with.
API int cuFuncGetAttribute(int* value, int attribute, Handle) { return *value = 0, attribute == 1 ? SUCCESS : INVALID; }

API int cuFuncSetAttribute(Handle function, int attribute, int value) {
    if (attribute != 8 || value > 227 << 10) return INVALID;
    static_cast<Function*>(function)->shared_bytes = value;
    return SUCCESS;
}

API int cuLaunchKernel(Handle handle, unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned by, unsigned bz,
                       unsigned shared_bytes, Handle stream, void** parameters, void**) {
    const Function* function = static_cast<Function*>(handle);
    if (!gx || !gy || !gz || !threads || by != 1 || bz != 1 || gy > 65535 || gz > 65535 || (int)shared_bytes > function->shared_bytes) {
        return INVALID;
    }
    const bool reverse = is_reversed();
    // Values are copied now, as the driver does. Eight bytes are the longest.
    std::vector<uint64_t> values;
    for (int i = 0; i < function->kernel.parameters; i++) values.push_back(*static_cast<uint64_t*>(parameters[i]));
    return put(stream, [=]() mutable {
        const std::lock_guard<std::mutex> turn(*function->turn);
        std::vector<void*> pointers;
        for (uint64_t& value : values) pointers.push_back(&value);
        machine::launch(function->kernel, {gx, gy, gz}, threads, shared_bytes, pointers.data(), reverse);
    });
}

// ---- NVRTC ----

struct Program {
    std::string source, output, log;
};

API int nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, SUCCESS; }

API const char* nvrtcGetErrorString(int) { return "an error of the simulator"; }

API int nvrtcGetNumSupportedArchs(int* count) { return *count = 1, SUCCESS; }

API int nvrtcGetSupportedArchs(int* architectures) { return *architectures = 90, SUCCESS; }

API int nvrtcCreateProgram(Handle* program, const char* source, const char*, int, const char* const*,
                           const char* const*) {
    return *program = new Program{source, "", ""}, SUCCESS;
}

API int nvrtcDestroyProgram(Handle* program) { return delete static_cast<Program*>(*program), SUCCESS; }

static std::string contents(const std::string& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

/// The source of a library with the kernels of a program, which are found by how they begin.
static std::string with_list(const std::string& source) {
    std::string text = "#include \"" MACHINE "\"\n" + source + "\n";
    const std::regex kernel(R"re(extern "C" __global__ void (?:__launch_bounds__\([^)]*\))?\s*(\w+)\()re");
    for (std::sregex_iterator it(source.begin(), source.end(), kernel), end; it != end; ++it) {
        text += "KERNEL(" + (*it)[1].str() + ")\n";
    }
    return text;
}

/// Compiles a library to `output`, unless it is there. Gives what the compiler said of a failure.
static bool compile(std::string command, const std::string& text, const std::string& output, std::string& log) {
    if (access(output.c_str(), R_OK) == 0) return true;
    std::ostringstream name;
    name << output << "." << getpid() << "." << &log;
    const std::string own = name.str();
    std::ofstream(own + ".cpp") << text;
    command += " -o " + own + ".so " + own + ".cpp 2>" + own + ".log";
    const bool compiled = system(command.c_str()) == 0 && rename((own + ".so").c_str(), output.c_str()) == 0;
    log = contents(own + ".log");
    unlink((own + ".log").c_str());
    unlink((own + ".cpp").c_str());
    return compiled;
}

/// The cubin is the name of a shared library.
API int nvrtcCompileProgram(Handle handle, int n, const char* const* options) {
    static std::mutex guard;
    static std::map<std::string, std::string> outputs;
    Program* program = static_cast<Program*>(handle);
    std::string command = COMPILER " -shared";
    for (int i = 0; i < n; i++) {
        if (!strncmp(options[i], "-D", 2)) command += std::string(" ") + options[i];
    }
    const std::string key = command + program->source;
    {
        const std::lock_guard<std::mutex> lock(guard);
        const auto known = outputs.find(key);
        if (known != outputs.end()) return program->output = known->second, SUCCESS;
    }
    const std::string text = with_list(program->source);
    std::ostringstream name;
    name << SCRATCH "/" << std::hex << std::hash<std::string>()(command + text + contents(MACHINE)) << ".so";
    program->output = name.str();
    if (!compile(command, text, program->output, program->log)) return COMPILATION;
    const std::lock_guard<std::mutex> lock(guard);
    return outputs[key] = program->output, SUCCESS;
}

API int nvrtcGetProgramLogSize(Handle program, size_t* bytes) {
    return *bytes = static_cast<Program*>(program)->log.size() + 1, SUCCESS;
}

API int nvrtcGetProgramLog(Handle program, char* log) {
    return strcpy(log, static_cast<Program*>(program)->log.c_str()), SUCCESS;
}

API int nvrtcGetCUBINSize(Handle program, size_t* bytes) {
    return *bytes = static_cast<Program*>(program)->output.size() + 1, SUCCESS;
}

API int nvrtcGetCUBIN(Handle program, char* cubin) {
    return strcpy(cubin, static_cast<Program*>(program)->output.c_str()), SUCCESS;
}

// ---- cuBLASLt ----

/// A column-major matrix.
struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
};

struct Matmul {
    int transpose_a = 0, transpose_b = 0, epilogue = 1;
    uint64_t bias = 0, aux = 0;
    int64_t aux_ld = 0;
};

enum { FLOAT = 0, BF16 = 14, WITH_BIAS = 4, GELU_AUX = 160, GELU_AUX_BIAS = 164, DGELU = 192 };

static float get(int type, const void* matrix, size_t at) {
    if (type == FLOAT) return static_cast<const float*>(matrix)[at];
    const uint32_t bits = (uint32_t)static_cast<const uint16_t*>(matrix)[at] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static void set(int type, void* matrix, size_t at, float value) {
    if (type == FLOAT) {
        static_cast<float*>(matrix)[at] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint32_t rounded = std::isnan(value) ? 0x7fff0000 : bits + 0x7fff + (bits >> 16 & 1);
    static_cast<uint16_t*>(matrix)[at] = (uint16_t)(rounded >> 16);
}

API size_t cublasLtGetVersion() { return 130100; }

API const char* cublasLtGetStatusString(int) { return "an error of the simulator"; }

API int cublasLtCreate(Handle* handle) { return *handle = reinterpret_cast<Handle>(1), SUCCESS; }

API int cublasLtDestroy(Handle) { return SUCCESS; }

API int cublasLtMatmulDescCreate(Handle* desc, int, int) { return *desc = new Matmul, SUCCESS; }

API int cublasLtMatmulDescDestroy(Handle desc) { return delete static_cast<Matmul*>(desc), SUCCESS; }

API int cublasLtMatmulDescSetAttribute(Handle handle, int attribute, const void* value, size_t bytes) {
    Matmul* desc = static_cast<Matmul*>(handle);
    const auto copy = [&](auto& field) {
        if (bytes != sizeof field) return INVALID;
        memcpy(&field, value, bytes);
        return SUCCESS;
    };
    switch (attribute) {
        case 3: return copy(desc->transpose_a);
        case 4: return copy(desc->transpose_b);
        case 7: return copy(desc->epilogue);
        case 8: return copy(desc->bias);
        case 11: return copy(desc->aux);
        case 12: return copy(desc->aux_ld);
        default: return INVALID;
    }
}

API int cublasLtMatrixLayoutCreate(Handle* layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    return *layout = new Layout{type, rows, cols, ld}, SUCCESS;
}

API int cublasLtMatrixLayoutDestroy(Handle layout) { return delete static_cast<Layout*>(layout), SUCCESS; }

API int cublasLtMatmulPreferenceCreate(Handle* preference) { return *preference = new int, SUCCESS; }

API int cublasLtMatmulPreferenceSetAttribute(Handle, int, const void*, size_t) { return SUCCESS; }

API int cublasLtMatmulPreferenceDestroy(Handle preference) { return delete static_cast<int*>(preference), SUCCESS; }

struct Proposal {
    uint64_t algorithm[8];
    size_t workspace_bytes;
    int status;
    float waves;
    int reserved[4];
};

/// One algorithm; none where the real library has none: bfloat16 in rows that are not of whole 16 bytes with an
/// epilogue that keeps its operand.
API int cublasLtMatmulAlgoGetHeuristic(Handle, Handle desc, Handle, Handle, Handle, Handle d, Handle, int wanted,
                                       Proposal* proposals, int* count) {
    const bool keeps = static_cast<Matmul*>(desc)->epilogue >= GELU_AUX;
    const bool can = !keeps || static_cast<Layout*>(d)->ld % 8 == 0;
    *count = can ? std::min(wanted, 2) : 0;
    for (int i = 0; i < *count; i++) proposals[i] = Proposal{{(uint64_t)i + 1}, 0, SUCCESS, 1.0f, {}};
    return can ? SUCCESS : 15;
}

/// A matrix, or its transpose, column by column.
static std::vector<double> widened(const Layout& layout, const void* matrix, bool transposed) {
    std::vector<double> wide(layout.rows * layout.cols);
    for (size_t column = 0; column < layout.cols; column++) {
        for (size_t row = 0; row < layout.rows; row++) {
            const size_t to = transposed ? row * layout.cols + column : column * layout.rows + row;
            wide[to] = get(layout.type, matrix, column * layout.ld + row);
        }
    }
    return wide;
}

/// The tanh that the approximate GELU is made of.
static float tanh_of_gelu(float x) { return std::tanh(0.79788456f * (x + 0.044715f * x * x * x)); }

/// Writes one number of a product, after all that happens to it.
static void finish(const Matmul& desc, const Layout& layout, float sum, float keep, const void* c, void* d, size_t i,
                   size_t j) {
    const size_t at = j * layout.ld + i;
    sum += keep == 0.0f ? 0.0f : keep * get(layout.type, c, at);
    if (desc.epilogue == WITH_BIAS || desc.epilogue == GELU_AUX_BIAS) {
        sum += get(layout.type, reinterpret_cast<void*>(desc.bias), i);
    }
    void* const aux = reinterpret_cast<void*>(desc.aux);
    const size_t aux_at = j * desc.aux_ld + i;
    if (desc.epilogue == GELU_AUX || desc.epilogue == GELU_AUX_BIAS) {
        set(layout.type, aux, aux_at, sum);
        sum *= 0.5f * (1.0f + tanh_of_gelu(sum));
    } else if (desc.epilogue == DGELU) {
        const float x = get(layout.type, aux, aux_at), tanh = tanh_of_gelu(x);
        sum *= 0.5f * (1.0f + tanh + x * (1.0f - tanh * tanh) * 0.79788456f * (1.0f + 3.0f * 0.044715f * x * x));
    }
    set(layout.type, d, at, sum);
}

API int cublasLtMatmul(Handle, Handle desc_handle, const void* alpha, const void* a, Handle a_layout, const void* b,
                       Handle b_layout, const void* beta, const void* c, Handle, void* d, Handle d_layout, const void*,
                       void*, size_t, Handle stream) {
    const Matmul desc = *static_cast<Matmul*>(desc_handle);
    const Layout la = *static_cast<Layout*>(a_layout), lb = *static_cast<Layout*>(b_layout);
    const Layout ld = *static_cast<Layout*>(d_layout);
    const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
    const size_t depth = desc.transpose_a ? la.rows : la.cols;
    if (depth != (desc.transpose_b ? lb.cols : lb.rows)) return 7;
    // Products that only measure how fast they are would take minutes.
    if ((double)ld.rows * ld.cols * depth > 1e10) return SUCCESS;
    return put(stream, [=] {
        const std::vector<double> wide_a = widened(la, a, desc.transpose_a), wide_b = widened(lb, b, !desc.transpose_b);
        std::vector<double> sums(ld.rows);
        for (size_t j = 0; j < ld.cols; j++) {
            // In double, because one long chain of float32 errs more than the tiles of a GPU do.
            std::fill(sums.begin(), sums.end(), 0.0);
            for (size_t k = 0; k < depth; k++) {
                const double factor = wide_b[k * ld.cols + j];
                const double* column = &wide_a[k * ld.rows];
                for (size_t i = 0; i < ld.rows; i++) sums[i] += column[i] * factor;
            }
            for (size_t i = 0; i < ld.rows; i++) finish(desc, ld, scale * (float)sums[i], keep, c, d, i, j);
        }
    });
}
