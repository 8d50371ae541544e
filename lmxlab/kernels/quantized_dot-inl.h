// Products of quantized weights with quantized activations, block by block, for one instruction
// set. Included inside an unnamed namespace that has
//   block_dot<precise, wide>(v, x, sums)  the products of 32 weights v with a block of activations:
//                                         those of the first 16 summed up in lanes 0 to 3, those of
//                                         the last in lanes 4 to 7;
//   kShift                                by which weights with kWide are shifted up in block_dot;
//   LMXLAB_TARGET                         the target attribute.
// Readers turn a format's bytes into v: read<j>(p) is block j of those at p.
//
// Lanes are the compilers' own vectors: eight floats are one register of AVX2 and two of NEON.

using Ints = int32_t __attribute__((vector_size(32)));
using Floats = float __attribute__((vector_size(32)));
#define LMXLAB_INLINE LMXLAB_TARGET __attribute__((always_inline)) inline

// What a reader is: kBlocks blocks lie in kBytes; kStep and kWide are the format's.
template <int blocks, int size, int step = 32, bool wide = false, bool in_place = true>
struct InPlace {
  static constexpr int kBlocks = blocks, kBytes = size, kStep = step;
  static constexpr bool kWide = wide, kInPlace = in_place;
  static constexpr Order kOrder{1, {0, 1}};
};
template <bool wide, int step = 32>
using Unpacked32 = InPlace<1, 32, step, wide, false>;

LMXLAB_INLINE void load_floats(const float* p, Floats& v) {
  __builtin_memcpy(&v, p, sizeof(v));
}

LMXLAB_INLINE float sum_of(const Floats& v) {
  using Four = float __attribute__((vector_size(16)));
  const Four a =
      __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
  const Four b = a + __builtin_shufflevector(a, a, 2, 3, 0, 1);
  return b[0] + b[1];
}

// The scales of both sides multiplied; the offsets' share of the product is added to `sums`. Reads
// and writes whole vectors: the arrays have room.
template <bool wide>
LMXLAB_INLINE void join_scales(const float* scale, const float* offset, const ActivationRow& x,
                               int64_t steps, float* to, Floats& sums) {
  constexpr Ints kLane = {0, 1, 2, 3, 4, 5, 6, 7};
  for (int64_t i = 0; i < steps; i += 8) {
    Floats s, o, xs, xsum;
    load_floats(scale + i, s);
    load_floats(offset + i, o);
    load_floats(x.scale + i, xs);
    load_floats(x.sum + i, xsum);
    const Floats both = s * xs;
    __builtin_memcpy(to + i, &both, sizeof(both));
    if (wide) o -= kShift * s;
    Floats part = o * xsum;
    if (i + 8 > steps) part = (Floats)((Ints)part & (kLane < static_cast<int32_t>(steps - i)));
    sums += part;
  }
}

template <class Reader, bool precise, int j>
LMXLAB_INLINE void add_block(const uint8_t* p, const int8_t* x, const float* scale, Floats& sum) {
  Ints d;
  block_dot<precise, Reader::kWide>(Reader::template read<j>(p), x + j * (precise ? 64 : 32), d);
  const Floats f = __builtin_convertvector(d, Floats);
  if constexpr (Reader::kStep == 32) {
    sum += f * scale[j];
  } else {
    const float a = scale[2 * j], b = scale[2 * j + 1];
    sum += f * Floats{a, a, a, a, b, b, b, b};
  }
}

template <class Reader, bool precise, int... j>
LMXLAB_INLINE void add_blocks(const uint8_t* p, const int8_t* x, const float* scale, Floats& even,
                              Floats& odd, std::integer_sequence<int, j...>) {
  (add_block<Reader, precise, j>(p, x, scale, j % 2 ? odd : even), ...);
}

template <class Reader, bool precise>
LMXLAB_TARGET void dot_row(const WeightRows& w, int64_t rows, int64_t blocks,
                           const ActivationRow& x, float* out, bool add) {
  constexpr int kBlocks = Reader::kBlocks;
  constexpr int64_t kSteps = kBlocks * kBlock / Reader::kStep, kX = kBlocks * (precise ? 64 : 32);
  constexpr std::make_integer_sequence<int, kBlocks> all;
  const int64_t steps = blocks * kBlock / Reader::kStep, units = blocks / kBlocks;
  // The scales of the next chunk are read in one go, so its lines are on their way before that.
  constexpr int64_t kAhead = Reader::kInPlace ? (kChunkBlocks + 128) * Reader::kBytes / kBlocks : 0;
  for (int64_t r = 0; r < rows; r++) {
    const uint8_t* p = w.q + r * w.stride;
    float scale[2 * kChunkBlocks + 8];
    Floats a = {}, b = {};
    join_scales<Reader::kWide>(w.scale + r * steps, w.offset + r * steps, x, steps, scale, b);
    const int8_t* xq = x.q;
    const float* s = scale;
    int64_t i = 0;
    for (; i + 2 <= units; i += 2, p += 2 * Reader::kBytes, xq += 2 * kX, s += 2 * kSteps) {
      for (int line = 0; kAhead > 0 && line < 2 * Reader::kBytes; line += 64) {
        __builtin_prefetch(p + kAhead + line, 0, 2);
      }
      add_blocks<Reader, precise>(p, xq, s, a, b, all);
      add_blocks<Reader, precise>(p + Reader::kBytes, xq + kX, s + kSteps, b, a, all);
    }
    if (i < units) {
      add_blocks<Reader, precise>(p, xq, s, a, b, all);
      p += Reader::kBytes;
    }
    out[r] = (add ? out[r] : 0) + sum_of(a + b);
  }
}

template <class Reader, bool precise>
void dot(const WeightRows& w, int64_t rows, int64_t blocks, const DotRows& to, bool add) {
  for (int64_t i = 0; i < to.count; i++) {
    dot_row<Reader, precise>(w, rows, blocks, to.x[i], to.out + i * to.ld, add);
  }
}

template <class Reader>
DotKernel kernel(bool precise, Cells cells) {
  return {{cells, 1, Reader::kOrder},
          Reader::kInPlace,
          precise ? dot<Reader, true> : dot<Reader, false>};
}
#undef LMXLAB_INLINE
