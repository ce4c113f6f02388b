// What stands between a Phi block's matrix products, on a CPU. Eager twins: engine/kernels/phi.py.
//
// Numbers are stored as float32 or bfloat16 and computed in float32, rounded once at the end.
// Every row is computed alone and in one order of operations, so a result never depends on the batch around it.
// Legend: R rows or continuations, N tokens, G prefixes, H heads, E head dimension (a multiple of 8).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// Vectors of 8 are one register of AVX2 and half of one of AVX-512; LANES in phi.py is the same number.
constexpr int64_t W = 8;
typedef float Vec __attribute__((vector_size(W * sizeof(float))));
// As numbers lie in PyTorch's memory: aligned to one number only.
typedef float Stored __attribute__((vector_size(W * sizeof(float)), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(W * sizeof(int32_t))));

typedef uint16_t Half;  // bfloat16: the upper half of a float32
typedef Half Halves __attribute__((vector_size(W * sizeof(Half)), aligned(2), may_alias));

inline Vec load(const float* at) { return *reinterpret_cast<const Stored*>(at); }

inline Vec load(const Half* at) {
  return reinterpret_cast<Vec>(__builtin_convertvector(*reinterpret_cast<const Halves*>(at), Ints) << 16);
}

inline void store(float* at, Vec x) { *reinterpret_cast<Stored*>(at) = x; }

// Rounds to nearest, ties to even.
inline void store(Half* at, Vec x) {
  const Ints bits = reinterpret_cast<Ints>(x);
  *reinterpret_cast<Halves*>(at) = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);
}

inline float value(float x) { return x; }

inline float value(Half x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

inline Vec all(float x) { return Vec{x, x, x, x, x, x, x, x}; }

// A fixed tree: the order of the additions decides the last bits.
inline float sum(Vec x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

// 2^round(x / ln 2) times a polynomial of the rest (Cephes' coefficients); 2 ulp between -87 and 88.
inline Vec exponential(Vec x) {
  // Outside, the exponent bits below would leave float32. Minus infinity becomes e^-87, which is nothing beside e^0.
  x = x < all(-87.0f) ? all(-87.0f) : x;
  x = x > all(88.0f) ? all(88.0f) : x;
  const Vec magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  Vec whole = (x * all(1.44269504f) + magic) - magic;
  // ln 2 in two parts: the first is exact in few bits, so that its product with a whole number is, too.
  Vec rest = x - whole * all(0.693359375f) + whole * all(2.12194440e-4f);
  Vec y = all(1.9875691500e-4f);
  y = y * rest + all(1.3981999507e-3f);
  y = y * rest + all(8.3334519073e-3f);
  y = y * rest + all(4.1665795894e-2f);
  y = y * rest + all(1.6666665459e-1f);
  y = y * rest + all(5.0000001201e-1f);
  y = y * rest * rest + rest + all(1.0f);
  return y * reinterpret_cast<Vec>((__builtin_convertvector(whole, Ints) + 127) << 23);
}

template <class T, class Out>
inline void norm_row(const T* x, const T* weight, const T* bias, float eps, int64_t size, Out* out) {
  Vec total = all(0.0f);
  for (int64_t i = 0; i < size; i += W) total += load(x + i);
  const Vec mean = all(sum(total) / size);
  // Two passes: the mean of squares minus the square of the mean would cancel.
  Vec squares = all(0.0f);
  for (int64_t i = 0; i < size; i += W) {
    const Vec away = load(x + i) - mean;
    squares += away * away;
  }
  const Vec scale = all(1.0f / std::sqrt(sum(squares) / size + eps));
  for (int64_t i = 0; i < size; i += W)
    store(out + i, (load(x + i) - mean) * scale * load(weight + i) + load(bias + i));
}

inline void rotate_row(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; i++) {
    const float low = x[i], high = x[half + i];
    x[i] = low * cos[i] - high * sin[i];
    x[half + i] = high * cos[half + i] + low * sin[half + i];
  }
}

template <class T>
inline void head_row(const T* x, const T* weight, const T* bias, float eps, int64_t size, const float* cos,
                     const float* sin, int64_t rotary, float* scratch, T* out) {
  norm_row(x, weight, bias, eps, size, scratch);
  rotate_row(scratch, cos, sin, rotary / 2);
  for (int64_t i = 0; i < size; i += W) store(out + i, load(scratch + i));
}

// Scores of `BLOCKS` blocks of keys: sums of `PARTS` interleaved parts, so that enough products are under way.
template <int BLOCKS, int PARTS, class T>
inline void score_blocks(const T* q, const T* keys, int64_t block, int64_t size, float scale, float* scores) {
  Vec sums[BLOCKS][PARTS];
  for (auto& of_block : sums)
    for (Vec& one : of_block) one = all(0.0f);
  for (int64_t e = 0; e < size; e += PARTS)
    for (int p = 0; p < PARTS; p++) {
      const Vec x = all(value(q[e + p]));
      for (int b = 0; b < BLOCKS; b++) sums[b][p] += x * load(keys + b * block + (e + p) * W);
    }
  for (int b = 0; b < BLOCKS; b++) {
    for (int p = 1; p < PARTS; p++) sums[b][0] += sums[b][p];
    store(scores + b * W, sums[b][0] * scale);
  }
}

// scores[t] = scale * sum_e q[e] * key_t[e] for `count` tokens, rounded up to whole blocks. Keys lie in blocks of W
// tokens, [E, W] each and `block` apart: a query meets W keys at once without adding across a vector.
template <class T>
inline void score(const T* q, const T* keys, int64_t block, int64_t count, int64_t size, float scale,
                  float* scores) {
  const int64_t blocks = (count + W - 1) / W;
  // A product takes about 4 cycles and two start in each: 8 sums under way keep the units busy.
  int64_t b = 0;
  for (; b + 4 <= blocks; b += 4) score_blocks<4, 2>(q, keys + b * block, block, size, scale, scores + b * W);
  for (; b + 2 <= blocks; b += 2) score_blocks<2, 4>(q, keys + b * block, block, size, scale, scores + b * W);
  if (b < blocks) score_blocks<1, 8>(q, keys + b * block, block, size, scale, scores + b * W);
}

// out[e] += sum_t weights[t] * value_t[e] for `VECS` vectors of e, even and odd tokens apart.
template <int VECS, class T>
inline void gather_vecs(const float* weights, const T* values, int64_t block, int64_t count, int64_t size,
                        float* out) {
  Vec even[VECS], odd[VECS];
  for (int i = 0; i < VECS; i++) even[i] = load(out + i * W), odd[i] = all(0.0f);
  for (int64_t start = 0; start < count; start += W, values += block) {
    const int64_t here = std::min(W, count - start);
    int64_t t = 0;
    for (; t + 2 <= here; t += 2) {
      const Vec x = all(weights[start + t]), y = all(weights[start + t + 1]);
      for (int i = 0; i < VECS; i++) {
        even[i] += x * load(values + t * size + i * W);
        odd[i] += y * load(values + (t + 1) * size + i * W);
      }
    }
    if (t < here)
      for (int i = 0; i < VECS; i++) even[i] += all(weights[start + t]) * load(values + t * size + i * W);
  }
  for (int i = 0; i < VECS; i++) store(out + i * W, even[i] + odd[i]);
}

// out[e] += sum_t weights[t] * value_t[e]; values lie in blocks of W tokens, [W, E] each and `block` apart.
template <class T>
inline void gather(const float* weights, const T* values, int64_t block, int64_t count, int64_t size, float* out) {
  int64_t e = 0;
  for (; e + 4 * W <= size; e += 4 * W) gather_vecs<4>(weights, values + e, block, count, size, out + e);
  for (; e < size; e += W) gather_vecs<1>(weights, values + e, block, count, size, out + e);
}

// exp(scores - largest) in place; returns their sum. Lanes past `count` become 0.
inline float soften(float* scores, int64_t count) {
  const int64_t whole = (count + W - 1) / W * W;
  for (int64_t t = count; t < whole; t++) scores[t] = -INFINITY;
  Vec largest = load(scores);
  for (int64_t t = W; t < whole; t += W) {
    const Vec x = load(scores + t);
    largest = x > largest ? x : largest;
  }
  float top = largest[0];
  for (int64_t i = 1; i < W; i++) top = std::max(top, largest[i]);
  Vec total = all(0.0f);
  for (int64_t t = 0; t < whole; t += W) {
    Vec x = exponential(load(scores + t) - all(top));
    // The clamp above made e^-87 of minus infinity; past the end it is to be nothing at all.
    if (t + W > count)
      for (int64_t i = count - t; i < W; i++) x[i] = 0.0f;
    store(scores + t, x);
    total += x;
  }
  return sum(total);
}

// x [count] = tanh-GELU of x: x * sigmoid(2 u), u = sqrt(2 / pi) * (x + 0.044715 x^3).
template <class T>
void gelu(T* x, int64_t count, int threads) {
  // 4 KiB of float32: a part stays in the first cache between its load and its store.
  const int64_t part = 1024, parts = (count + part - 1) / part;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t p = 0; p < parts; p++) {
    const int64_t stop = std::min(count, (p + 1) * part);
    for (int64_t i = p * part; i < stop; i += W) {
      const Vec v = load(x + i);
      const Vec u = v * (all(-1.5957691216f) + v * v * all(-0.0713548163f));
      store(x + i, v / (all(1.0f) + exponential(u)));
    }
  }
}

// q and k [R, H, E] of qkv [R, 3, H, E]: LayerNorm over E, then rotation of the first `rotary` dimensions.
// Row r takes row r % tables of cos and sin [tables, rotary].
template <class T>
void heads(const T* qkv, const T* q_weight, const T* q_bias, const T* k_weight, const T* k_bias, float eps,
           const float* cos, const float* sin, int64_t tables, int64_t rows, int64_t heads, int64_t size,
           int64_t rotary, T* q, T* k, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scratch(size);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
      const float *c = cos + (r % tables) * rotary, *s = sin + (r % tables) * rotary;
      const T* from = qkv + r * 3 * heads * size;
      for (int64_t h = 0; h < heads; h++) {
        const int64_t at = (r * heads + h) * size;
        head_row(from + h * size, q_weight, q_bias, eps, size, c, s, rotary, scratch.data(), q + at);
        head_row(from + (heads + h) * size, k_weight, k_bias, eps, size, c, s, rotary, scratch.data(), k + at);
      }
    }
  }
}

// out [N, H, E]: N new tokens, each against its continuation's prefix and the continuation's own tokens.
// Prefixes: keys [G, H, blocks, E, W], values [G, H, blocks, W, E], of which `prefix` tokens count.
// Continuations: keys [room, R, H, E, W], values [room, R, H, W, E], block by block, so that few tokens of many
// continuations lie together.
// Token i is stored as number place[i] of continuation[i]; of its own continuation it sees the tokens below
// shared[i], and those from first[i] to itself.
template <class T>
void continuation_attention(const T* q, const T* k, const T* v, int64_t v_stride, const T* prefix_keys,
                            const T* prefix_values, T* own_keys, T* own_values, const int64_t* prefix_of,
                            const int64_t* continuation, const int64_t* place, const int64_t* shared,
                            const int64_t* first, int64_t tokens, int64_t heads, int64_t size, int64_t prefix,
                            int64_t prefix_blocks, int64_t continuations, int64_t blocks, float scale, T* out,
                            int threads) {
  // Own scores start on a whole block behind the prefix's: vectors of the two never overlap.
  const int64_t own_at = (prefix + W - 1) / W * W, block = size * W, apart = continuations * heads * block;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scores(own_at + blocks * W), found(size);
    // All keys and values first: a new token may see others of the same call. The loop's end is a barrier.
#pragma omp for schedule(static)
    for (int64_t i = 0; i < tokens; i++) {
      for (int64_t h = 0; h < heads; h++) {
        const int64_t at = place[i] / W * apart + (continuation[i] * heads + h) * block, lane = place[i] % W;
        for (int64_t e = 0; e < size; e++) own_keys[at + e * W + lane] = k[(i * heads + h) * size + e];
        std::memcpy(own_values + at + lane * size, v + i * v_stride + h * size, size * sizeof(T));
      }
    }
    // Token by token, as their own blocks lie; a prefix stays in the cache for all its continuations.
#pragma omp for collapse(2) schedule(static)
    for (int64_t i = 0; i < tokens; i++) {
      for (int64_t h = 0; h < heads; h++) {
        const int64_t at = (i * heads + h) * size, used = place[i] + 1;
        const int64_t own = (continuation[i] * heads + h) * block;
        const int64_t of_prefix = (prefix_of[continuation[i]] * heads + h) * prefix_blocks * block;
        score(q + at, prefix_keys + of_prefix, block, prefix, size, scale, scores.data());
        // What fills the prefix's last block counts for nothing, and neither do other choices of a question.
        for (int64_t t = prefix; t < own_at; t++) scores[t] = -INFINITY;
        score(q + at, own_keys + own, apart, used, size, scale, scores.data() + own_at);
        for (int64_t t = shared[i]; t < first[i]; t++) scores[own_at + t] = -INFINITY;
        // One softmax over both parts; the division comes last, once for each number of the output.
        const Vec total = all(soften(scores.data(), own_at + used));
        std::fill(found.begin(), found.end(), 0.0f);
        gather(scores.data(), prefix_values + of_prefix, block, prefix, size, found.data());
        gather(scores.data() + own_at, own_values + own, apart, used, size, found.data());
        for (int64_t e = 0; e < size; e += W) store(out + at + e, load(found.data() + e) / total);
      }
    }
  }
}

}  // namespace

extern "C" {

// ctypes finds functions by name: one of each kernel for each type of number.
#define HERMES_KERNELS(T, NAME)                                                                                    \
  void hermes_gelu_##NAME(T* x, int64_t count, int threads) { gelu(x, count, threads); }                           \
  void hermes_heads_##NAME(const T* qkv, const T* q_weight, const T* q_bias, const T* k_weight, const T* k_bias,   \
                           float eps, const float* cos, const float* sin, int64_t tables, int64_t rows,            \
                           int64_t count, int64_t size, int64_t rotary, T* q, T* k, int threads) {                 \
    heads(qkv, q_weight, q_bias, k_weight, k_bias, eps, cos, sin, tables, rows, count, size, rotary, q, k,         \
          threads);                                                                                                \
  }                                                                                                                \
  void hermes_continuation_attention_##NAME(                                                                       \
      const T* q, const T* k, const T* v, int64_t v_stride, const T* prefix_keys, const T* prefix_values,          \
      T* own_keys, T* own_values, const int64_t* prefix_of, const int64_t* continuation, const int64_t* place,     \
      const int64_t* shared, const int64_t* first, int64_t tokens, int64_t count, int64_t size, int64_t prefix,    \
      int64_t prefix_blocks, int64_t continuations, int64_t blocks, float scale, T* out, int threads) {            \
    continuation_attention(q, k, v, v_stride, prefix_keys, prefix_values, own_keys, own_values, prefix_of,         \
                           continuation, place, shared, first, tokens, count, size, prefix, prefix_blocks,         \
                           continuations, blocks, scale, out, threads);                                            \
  }

HERMES_KERNELS(float, float32)
HERMES_KERNELS(Half, bfloat16)

}  // extern "C"
