// How a score becomes an attention weight, and how that differentiates: all that distinguishes the kinds.
//
// Compiled with
//   -DHEAD=D         width of a head
//   -DKIND=0..7      0 softmax, 1 gaussian, 2 gaussian-poly-N, pointwise: 3 gelu (erf), 4 relu, 5 sigmoid,
//                    6 square, 7 relu-square
//   -DPOLY=N         squarings of gaussian-poly-N (0 for other kinds)
//   -DCLAMP=0|1      gaussian-poly-N: a weight is 0 where 1 + z / 2^N is negative
//   -DBY_POSITION=0|1  pointwise kinds: whether query i's weights are divided by i + 1
//   -DDROPOUT=0|1    whether weights are dropped (0 for decoding)

#define SOFTMAX 0
#define GAUSSIAN 1
#define GAUSSIAN_POLY 2
#define POINTWISE_GELU 3
#define POINTWISE_RELU 4
#define POINTWISE_SIGMOID 5
#define POINTWISE_SQUARE 6
#define POINTWISE_RELU_SQUARE 7

/// Whether scores are distances, -|q - k|^2 / (2 sqrt D), instead of products, q . k / sqrt D.
#define DISTANCE (KIND == GAUSSIAN || KIND == GAUSSIAN_POLY)

#ifndef BY_POSITION
#define BY_POSITION 0
#endif

#define LOG2_E 1.44269504f
#define LN_2 0.69314718f

/// The score of a pair. Squared norms are used by distances only, whose three terms may cancel to less than nothing.
__device__ __forceinline__ float score(float dot, float q_squared, float k_squared, float scale) {
#if DISTANCE
    return -0.5f * scale * fmaxf(q_squared + k_squared - 2.0f * dot, 0.0f);
#else
    return scale * dot;
#endif
}

/// The weight of a score and its derivative there, for every kind but softmax, whose weights depend on each other.
__device__ __forceinline__ float weight_with_slope(float z, float& slope) {
#if KIND == GAUSSIAN
    return slope = expf(z);
#elif KIND == GAUSSIAN_POLY
    // (1 + z / n)^n for n = 2^POLY, by squaring; the factors on the way make up (1 + z / n)^(n - 1). Squaring doubles
    // relative errors, so most squarings are of 1 + x as x -> 2x + x^2, which keeps what a small x says; the last few,
    // where powers may be far below 1, are of the power itself.
    float x = z / (float)(1 << POLY);
    if (CLAMP && x < -1.0f) return slope = 0.0f;
    slope = 1.0f;
#pragma unroll
    for (int i = 3; i < POLY; i++) {
        slope = fmaf(slope, x, slope);
        x = fmaf(x, x, x + x);
    }
    float power = 1.0f + x;
#pragma unroll
    for (int i = 0; i < min(POLY, 3); i++) {
        slope *= power;
        power *= power;
    }
    return power;
#elif KIND == POINTWISE_GELU
    return gelu_with_derivative(z, GELU_ERF, slope);
#elif KIND == POINTWISE_RELU
    slope = z > 0.0f ? 1.0f : 0.0f;
    return fmaxf(z, 0.0f);
#elif KIND == POINTWISE_SIGMOID
    const float weight = 1.0f / (1.0f + expf(-z));
    slope = weight * (1.0f - weight);
    return weight;
#elif KIND == POINTWISE_SQUARE
    slope = 2.0f * z;
    return z * z;
#elif KIND == POINTWISE_RELU_SQUARE
    slope = 2.0f * fmaxf(z, 0.0f);
    return z > 0.0f ? z * z : 0.0f;
#else
    return slope = 0.0f;
#endif
}

/// Where a block works: head `head` of sequence `batch`.
struct Place {
    int batch, head, t, heads;

    __device__ __forceinline__ int width() const { return heads * HEAD; }

    /// Row 0 of part 0 (q), 1 (k), 2 (v) of this head in qkv [B, T, 3C]; rows are 3C apart.
    template <class T> __device__ __forceinline__ T* in_qkv(T* qkv, int part) const {
        return qkv + ((size_t)batch * t * 3 + part) * width() + head * HEAD;
    }

    /// Row 0 of this head in a tensor [B, T, C]; rows are C apart.
    template <class T> __device__ __forceinline__ T* in_out(T* out) const {
        return out + (size_t)batch * t * width() + head * HEAD;
    }

    /// Element 0 of this head in a tensor [B, H, T].
    template <class T> __device__ __forceinline__ T* in_stats(T* stats) const {
        return stats + ((size_t)batch * heads + head) * t;
    }
};

__device__ __forceinline__ Place place_of(int t, int heads) {
    return Place{(int)blockIdx.z, (int)blockIdx.y, t, heads};
}

/// What the weights of query `i` are multiplied by; softmax has its own sum.
__device__ __forceinline__ float weight_scale(float out_scale, int i) {
    return BY_POSITION ? 1.0f / (float)(i + 1) : out_scale;
}

/// What a polynomial tells about one row of scores: how many were below its range (-2^N, where the power begins to
/// grow again), and the lowest.
struct Range {
    float below, lowest;

    __device__ __forceinline__ void see(float z) {
        below += z < -(float)(1 << POLY) ? 1.0f : 0.0f;
        lowest = fminf(lowest, z);
    }
};

/// Writes what is told about row `i`: the logarithm of its sum of exponentials, or what a polynomial tells.
__device__ __forceinline__ void write_stats(float* stats, const Place& place, int i, float lse, const Range& range) {
    if (KIND == SOFTMAX) place.in_stats(stats)[i] = lse;
    if (KIND == GAUSSIAN_POLY && stats) place.in_stats((float2*)stats)[i] = make_float2(range.below, range.lowest);
}

/// What a pair of query and key needs beside its dot products.
struct Pair {
    bool seen;
    float lse, delta, q_squared, k_squared, out_scale, factor;
};

/// From the dot products s = q . k and dp = dout . v of a pair: s becomes the weight that v was multiplied by, dp the
/// gradient of the score. `softmax` is the weight of a pair that is seen, for the one kind that has it.
__device__ __forceinline__ void weight_and_gradient(float& s, float& dp, float scale, const Pair& pair, float softmax) {
    const float dropped = DROPOUT ? pair.factor : 1.0f;
#if KIND == SOFTMAX
    const float weight = pair.seen ? softmax : 0.0f;
    dp = weight * (dropped * dp - pair.delta);
#else
    float slope, weight = weight_with_slope(score(s, pair.q_squared, pair.k_squared, scale), slope);
    weight = pair.seen ? weight * pair.out_scale : 0.0f;
    dp = pair.seen ? slope * dropped * pair.out_scale * dp : 0.0f;
#endif
    s = dropped * weight;
}

/// The row of dropout's mask that belongs to the weights of query `i` of a head.
__device__ __forceinline__ u32 mask_row(const u32* rng, int batch, int heads, int head, int t, int i) {
    return ((rng[3] + (u32)batch) * (u32)heads + (u32)head) * (u32)t + (u32)i;
}
