// Every kernel on awkward shapes, on tensors that are exactly as large as they must be: an address sanitizer sees what
// reads or writes beside them. What kernels compute is the conformance suite's matter; here it only has to be the same
// bits whichever way round threads take their turns.
//
// Compiled with this text after machine.h and one file of kernels, whose name without ending is -DFILE_name, and with
// -fsanitize=address.

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

static unsigned seed = 1;

static unsigned draw() { return seed = seed * 1664525u + 1013904223u, seed >> 8; }

/// Memory of its own for `n` elements, which a launch may overwrite.
struct Tensor {
    size_t bytes = 0;
    std::shared_ptr<void> memory;

    template <class T> T* as() const { return static_cast<T*>(memory.get()); }

    static Tensor of(size_t n, size_t element) {
        Tensor tensor;
        tensor.bytes = n * element;
        tensor.memory.reset(malloc(tensor.bytes), free);
        return tensor;
    }

    template <class T> static Tensor reals(size_t n) {
        Tensor tensor = of(n, sizeof(T));
        for (size_t i = 0; i < n; i++) {
            const float x = (float)(draw() % 2001) / 1000.0f - 1.0f;
            if constexpr (sizeof(T) == 8) {
                tensor.as<T>()[i] = x;
            } else if constexpr (sizeof(T) == 1) {
                tensor.as<T>()[i] = (T)(127 * x);
            } else {
                put(tensor.as<T>() + i, x);
            }
        }
        return tensor;
    }

    static Tensor words(size_t n, u32 limit) {
        Tensor tensor = of(n, 4);
        for (size_t i = 0; i < n; i++) tensor.as<u32>()[i] = draw() % limit;
        return tensor;
    }

    static Tensor none() { return Tensor(); }
};

/// The arguments of a launch, in the order of the kernel's list.
struct Launch {
    std::vector<Tensor> tensors;
    std::vector<u64> values;

    Launch& operator<<(const Tensor& tensor) {
        tensors.push_back(tensor);
        values.push_back(reinterpret_cast<u64>(tensor.memory.get()));
        return *this;
    }

    template <class T> Launch& operator<<(T value) {
        u64 bits = 0;
        memcpy(&bits, &value, sizeof value);
        values.push_back(bits);
        return *this;
    }

    /// Runs it both ways round on the same input; what it leaves must be the same.
    void run(const machine::Kernel& kernel, Dim grid, unsigned threads, size_t shared_bytes = 0) {
        std::vector<std::vector<char>> before, after;
        const auto snapshot = [&](std::vector<std::vector<char>>& copies) {
            for (const Tensor& tensor : tensors) copies.emplace_back(tensor.as<char>(), tensor.as<char>() + tensor.bytes);
        };
        snapshot(before);
        for (int reverse = 0; reverse < 2; reverse++) {
            for (size_t i = 0; i < tensors.size(); i++) {
                if (tensors[i].bytes) memcpy(tensors[i].as<char>(), before[i].data(), before[i].size());
            }
            std::vector<void*> pointers;
            for (u64& value : values) pointers.push_back(&value);
            if (kernel.parameters != (int)pointers.size()) machine::fail(kernel.name);
            machine::launch(kernel, grid, threads, shared_bytes, pointers.data(), reverse);
            if (reverse == 0) {
                snapshot(after);
            } else {
                for (size_t i = 0; i < tensors.size(); i++) {
                    if (tensors[i].bytes && memcmp(tensors[i].as<char>(), after[i].data(), after[i].size())) {
                        machine::fail("the order of threads changes the result");
                    }
                }
            }
        }
    }
};

static unsigned blocks(size_t n, size_t each) { return (unsigned)((n + each - 1) / each); }

static Dim grid(unsigned x, unsigned y = 1, unsigned z = 1) { return Dim{x, y, z}; }

#if defined(FILE_embed)
static void run(int batch, int t, int c) {
    const int rows = batch * t, words = 11, positions = t + 2;
    const Tensor tokens = Tensor::words(rows, words);
    const Tensor wte = Tensor::reals<wgt>(words * c), scales = WGT == 2 ? Tensor::reals<float>(words) : Tensor::none();
    const Tensor dwte = Tensor::reals<float>(words * c), wpe = Tensor::reals<float>(positions * c);
    const Tensor dout = Tensor::reals<act>((size_t)rows * c), order = Tensor::words(rows, 1);
    (Launch() << Tensor::reals<act>((size_t)rows * c) << tokens << Tensor::words(rows, positions) << wte << scales << wpe << rows << t << c)
        .run(kernel_embed(), grid(blocks(rows, 8)), 256);
    (Launch() << order << tokens << rows).run(kernel_embed_order(), grid(blocks(rows, 256)), 256);
    (Launch() << dwte << dout << tokens << order << rows << c).run(kernel_embed_backward_wte(), grid(rows), 128);
    (Launch() << wpe << dout << batch << t << c << 0).run(kernel_embed_backward_wpe(), grid(positions), 128);
}
#elif defined(FILE_norm)
static void run(int batch, int t, int c) {
    const int rows = batch * t, padded = (c + 7) / 8 * 8, parts = min((int)blocks(rows, 8), 512);
    const int warps = max(1, min(8, 8192 / c)), column_parts = min((int)blocks(rows, 64), 128);
    const auto tensor = [&] { return Tensor::reals<act>((size_t)rows * c); };
    const Tensor weight = Tensor::reals<float>(c), bias = Tensor::reals<float>(c);
    const Tensor mean = Tensor::reals<float>(rows), rstd = Tensor::reals<float>(rows);
    for (const Tensor& delta : {Tensor::none(), tensor()}) {
        (Launch() << tensor() << mean << rstd << tensor() << delta << (delta.bytes ? tensor() : Tensor::none()) << weight
                  << (delta.bytes ? bias : Tensor::none()) << rows << c)
            .run(kernel_layer_norm(), grid(blocks(rows, warps)), 32 * warps, (size_t)4 * warps * padded);
        const Tensor partials = Tensor::reals<float>((size_t)parts * 2 * c);
        (Launch() << tensor() << partials << tensor() << delta << tensor() << weight << mean << rstd << rows << c)
            .run(kernel_layer_norm_backward(), grid(parts), 256, (size_t)8 * padded);
        (Launch() << weight << partials << parts << 2 * c << c << 1).run(kernel_reduce_parts(), grid(blocks(c, 32)), 256);
    }
    (Launch() << Tensor::reals<float>((size_t)column_parts * c) << tensor() << rows << c)
        .run(kernel_column_sums(), grid(blocks(c, 256), column_parts), 256);
}
#elif defined(FILE_elementwise)
static void run(int batch, int t, int c) {
    const long long rows = (long long)batch * t, n = rows * c;
    const auto tensor = [&] { return Tensor::reals<act>(n); };
    const Dim over = grid(blocks(n, 2048));
    const Tensor rng = Tensor::words(4, 9), bias = Tensor::reals<float>(c);
    (Launch() << tensor() << tensor() << tensor() << n).run(kernel_add(), over, 256);
    for (int gelu = 1; gelu < 3; gelu++) {
        (Launch() << tensor() << tensor() << n << gelu).run(kernel_gelu(), over, 256);
        (Launch() << tensor() << tensor() << tensor() << n << gelu).run(kernel_gelu_backward(), over, 256);
        (Launch() << tensor() << tensor() << bias << n << c << gelu).run(kernel_bias_gelu(), over, 256);
    }
    (Launch() << Tensor::none() << tensor() << bias << n << c << 0).run(kernel_bias_gelu(), over, 256);
    (Launch() << tensor() << tensor() << rng << rows << t << c << 3u << 0x40000000u << 1.5f)
        .run(kernel_dropout(), grid(blocks(rows * blocks(c, 8), 256)), 256);
    (Launch() << Tensor::reals<act>(batch * c) << tensor() << Tensor::words(1, t) << t << c)
        .run(kernel_select_row(), grid(blocks(c, 2048), batch), 256);
    (Launch() << Tensor::reals<float>(rows * c) << tensor() << tensor() << (int)rows << t << c << 1)
        .run(kernel_attention_delta(), grid(blocks(rows * c, 8)), 256);
    (Launch() << Tensor::reals<bf16>(n) << Tensor::reals<float>(n) << n).run(kernel_to_bf16(), over, 256);
    (Launch() << Tensor::reals<float>(n) << Tensor::reals<bf16>(n) << n).run(kernel_to_float(), over, 256);
    (Launch() << tensor() << tensor() << n << 0.5f).run(kernel_scale(), over, 256);
    (Launch() << tensor() << Tensor::reals<signed char>(n) << Tensor::reals<float>(rows) << n << c).run(kernel_widen(), over, 256);
    for (const Tensor& dx : {Tensor::none(), tensor()}) {
        (Launch() << dx << Tensor::reals<float>(rows) << tensor() << tensor() << (int)rows << c << 0.5f)
            .run(kernel_squared_error(), grid(blocks(rows, 8)), 256);
    }
}
#elif defined(FILE_classifier)
static void run(int batch, int t, int c) {
    const int rows = batch * t, padded = c + batch;
    for (int grad = 0; grad < 2; grad++) {
        (Launch() << Tensor::reals<act>((size_t)rows * padded) << Tensor::reals<float>(rows) << Tensor::words(rows, c) << c << padded
                  << 0.25f << grad)
            .run(kernel_cross_entropy(), grid(rows), min(512, (padded + 255) / 256 * 32));
    }
}
#elif defined(FILE_few_rows)
static void run(int batch, int t, int c) {
    const int rows = min(batch * t, 8), o = t;
    const auto out = [&] { return Tensor::reals<act>(rows * o); };
    const Tensor x = Tensor::reals<act>(rows * c), w = Tensor::reals<wgt>(c * o), bias = Tensor::reals<float>(o);
    const Tensor scales = WGT == 2 ? Tensor::reals<float>(o) : Tensor::none();
    for (const Tensor& before : {Tensor::none(), out()}) {
        const int gelu = before.bytes ? 1 : 0;
        const Tensor& own = before.bytes ? bias : before;
        (Launch() << out() << before << x << w << own << rows << c << o << gelu)
            .run(kernel_few_rows_in_out(), grid(blocks(o, 32)), 256);
        (Launch() << out() << before << x << w << own << rows << c << o << gelu << scales)
            .run(kernel_few_rows_out_in(), grid(blocks(o, 8)), 256);
    }
}
#elif defined(FILE_update)
static void run(int batch, int t, int c) {
    const size_t lens[2] = {(size_t)batch * t * c, 4097};
    std::vector<Tensor> held;
    const Tensor slots = Tensor::of(2, sizeof(Slot));
    std::vector<Chunk> list;
    for (u32 i = 0; i < 2; i++) {
        for (int k = 0; k < 4; k++) held.push_back(Tensor::reals<float>(lens[i]));
        float* const v = held.back().as<float>();
        for (size_t k = 0; k < lens[i]; k++) v[k] = fabsf(v[k]);
        held.push_back(Tensor::reals<bf16>(lens[i]));
        const Tensor* own = &held[5 * i];
        slots.as<Slot>()[i] = Slot{own[0].as<float>(), own[1].as<float>(), own[2].as<float>(), own[3].as<float>(),
                                   i ? own[4].as<bf16>() : nullptr, i};
        for (size_t start = 0; start < lens[i]; start += 4096) {
            list.push_back(Chunk{i, (u32)min(4096, (int)(lens[i] - start)), start});
        }
    }
    const Tensor chunks = Tensor::of(list.size(), sizeof(Chunk)), partials = Tensor::reals<double>(list.size());
    memcpy(chunks.as<char>(), list.data(), chunks.bytes);
    const Dim all = grid((unsigned)list.size());
    const Tensor norm = Tensor::reals<float>(1), schedule = Tensor::reals<float>(3);
    for (int i = 0; i < 3; i++) schedule.as<float>()[i] = 0.1f;
    (Launch() << partials << slots << chunks).run(kernel_squares(), all, 256);
    (Launch() << norm << partials << (int)list.size()).run(kernel_grad_norm(), grid(1), 1024);
    (Launch() << slots << chunks << norm << schedule << 0.9 << 0.99 << 1e-8 << 0.1 << 1.0).run(kernel_adamw(), all, 256);
    (Launch() << slots << chunks).run(kernel_copy_weights(), all, 256);
}
#elif defined(FILE_attention) || defined(FILE_attention_general)
static void run(int batch, int t, int) {
    const int heads = 2, c = heads * HEAD;
#if defined(FILE_attention)
    const size_t rows = 64, threads = 128, row_bytes = 2 * (DP + 8);
    const size_t forward = (64 + 4 * N) * row_bytes, of_kv = (128 + 4 * N) * row_bytes, of_q = of_kv;
#else
    const size_t rows = 32, threads = 256, two = 64 * HEAD + 64 * (HEAD + 1);
    const size_t forward = 4 * (32 * HEAD + 64 * (HEAD + 1) + 8 * 4 * 32);
    const size_t of_kv = 4 * (two + 8 * 8 * 32), of_q = 4 * (two + 8 * 4 * 32);
#endif
    const Dim tiles = grid(blocks(t, rows), heads, batch);
    const size_t pairs = (size_t)batch * t * c, stats = (size_t)batch * heads * t;
    const Tensor qkv = Tensor::reals<act>(3 * pairs), rng = DROPOUT ? Tensor::words(4, 9) : Tensor::none();
    const bool has_stats = KIND == SOFTMAX || KIND == GAUSSIAN_POLY;
    const Tensor kept = has_stats ? Tensor::reals<float>(KIND == SOFTMAX ? stats : 2 * stats) : Tensor::none();
    (Launch() << Tensor::reals<act>(pairs) << kept << qkv << t << heads << 0.3f << 1.0f << rng << 3u << 0x40000000u << 1.5f)
        .run(kernel_attention(), tiles, threads, forward);
    const Tensor dout = Tensor::reals<act>(pairs), dqkv = Tensor::reals<act>(3 * pairs);
    const Tensor lse = KIND == SOFTMAX ? kept : Tensor::none(), delta = KIND == SOFTMAX ? Tensor::reals<float>(stats) : Tensor::none();
    const auto backward = [&](const machine::Kernel& kernel, size_t shared) {
        (Launch() << dqkv << qkv << dout << lse << delta << t << heads << 0.3f << 1.0f << rng << 3u << 0x40000000u
                  << 1.5f)
            .run(kernel, tiles, threads, shared);
    };
    backward(kernel_attention_backward_kv(), of_kv);
    backward(kernel_attention_backward_q(), of_q);
}
#elif defined(FILE_decode)
static void run(int batch, int t, int) {
    const int heads = 2, c = heads * HEAD, s = t + 5;
    const size_t cached = (size_t)batch * s * c;
    const int rows = batch * t;
    const Tensor qkv = Tensor::reals<act>((size_t)rows * 3 * c), texts = Tensor::words(rows, batch + 1);
    const Tensor positions = Tensor::words(rows, s);
    const Tensor k = Tensor::reals<act>(cached), v = Tensor::reals<act>(cached);
    (Launch() << k << v << qkv << texts << positions << batch << s << c)
        .run(kernel_write_cache(), grid(blocks(c, 2048), (unsigned)rows), 256);
    (Launch() << Tensor::reals<act>((size_t)rows * c) << qkv << k << v << texts << positions << batch << s << heads << 0.3f
              << 1.0f << Tensor::none())
        .run(kernel_cached_attention(), grid((unsigned)rows, heads), 256, (size_t)4 * (s + 8 * HEAD));
}
#endif

int main() {
    const int shapes[][3] = {{1, 1, 1}, {1, 1, 65}, {1, 65, 3}, {3, 7, 24}, {2, 33, 257}, {1, 129, 16}};
    for (const auto& shape : shapes) run(shape[0], shape[1], shape[2]);
}
