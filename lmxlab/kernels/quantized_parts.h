// What the parts of products with quantized weights share. A product of few rows runs on chunks:
// their scales become floats first; then integers, read from the format's bytes or from bytes
// unpacked before, meet quantized activations.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "lmxlab/kernels/activation.h"
#include "lmxlab/kernels/gemm.h"
#include "lmxlab/kernels/quant_formats.h"
#include "lmxlab/kernels/quantized.h"

namespace lmxlab::kernels {

constexpr int64_t kBlock = 32;         // weights and activations are cut into blocks of so many
constexpr int64_t kChunkBlocks = 256;  // unpacked at a time

/// Weight k of a chunk is scale[k / step] * q[k] + offset[k / step].
struct Unpacked {
  alignas(64) int8_t q[kChunkBlocks * kBlock];
  alignas(64) float scale[kChunkBlocks * 2 + 16], offset[kChunkBlocks * 2 + 16];
};

/// Weights that share a scale, at least: 16 or 32.
constexpr int step_of(QuantFormat format) {
  const bool fine =
      format == QuantFormat::q2_k || format == QuantFormat::q3_k || format == QuantFormat::q6_k;
  return fine ? 16 : 32;
}
/// Whether q takes all 8 bits; otherwise it lies in [0, 63].
inline bool is_wide(const QuantView& w) {
  return w.format == QuantFormat::q8_0 || (w.format == QuantFormat::affine && w.bits == 8);
}
/// Chunks begin at multiples of so many blocks, and hold whole ones.
inline int64_t blocks_together(const QuantView& w) {
  if (w.format == QuantFormat::affine) return w.group / kBlock;
  return block_format(w.format).weights / kBlock;
}

/// `count` <= kChunkBlocks blocks from block `first` on, counted over the whole matrix.
struct Unpacker {
  using Scales = void (*)(const QuantView& w, int64_t first, int64_t count, float* scale,
                          float* offset);
  using Values = void (*)(const QuantView& w, int64_t first, int64_t count, int8_t* q);
  Scales scales;  // may write a vector more than there are
  Values values;

  void operator()(const QuantView& w, int64_t first, int64_t count, Unpacked& to) const {
    scales(w, first, count, to.scale, to.offset);
    values(w, first, count, to.q);
  }
};
Unpacker unpacker(const QuantView& w);

/// How a group of blocks of activations lies in memory.
enum class Cells : uint8_t {
  float32,
  int8,
  int16,    // words; of a block elements 0 to 7, 16 to 23, 8 to 15, 24 to 31
  split16,  // all high bytes, then all low ones: 256 high + low, both signed
};
/// In which order, before that: elements whose index is 0 modulo `modulo`, then those of 1, ...;
/// of the result the pieces of 16, as piece[i] says.
struct Order {
  int modulo = 1;
  std::array<uint8_t, 8> piece = {0, 1, 2, 3, 4, 5, 6, 7};

  bool operator==(const Order&) const = default;
};
struct Layout {
  Cells cells = Cells::float32;
  int group = 1;  // blocks: 1 or 4. The last group of a row is filled up with zeros
  Order order = {};

  bool operator==(const Layout&) const = default;
  int64_t block_bytes() const {
    return cells == Cells::float32 ? 128 : cells == Cells::int8 ? 32 : 64;
  }
};

/// Activations from some block of a row on: x = scale * q, a scale for each step.
struct ActivationRow {
  const int8_t* q;
  const float* scale;
  const float* sum;  // of x over the step, as quantized
};

/// Weights of some rows, from some block of each on.
struct WeightRows {
  const uint8_t* q;             // bytes of the format, or unpacked
  int64_t stride;               // bytes from a row's to the next one's
  const float *scale, *offset;  // a float for each step, rows one after another
  const uint8_t* end;           // of the memory behind q
  const QuantView* view;        // for kernels that read scales themselves,
  int64_t first;                // those of the block counted over the whole matrix
};

/// Rows of x, and where their products go: row i's from out + i * ld on.
struct DotRows {
  const ActivationRow* x;
  int64_t count;
  float* out;
  int64_t ld;
};
/// out[i * ld + r] = (or +=) the product of weight row r with row i of x, for `rows` weight rows of
/// `blocks` blocks each. What a product is does not depend on the rows beside it.
using Dot = void (*)(const WeightRows& w, int64_t rows, int64_t blocks, const DotRows& to,
                     bool add);
struct DotKernel {
  Layout layout = {};     // that it wants of x
  bool in_place = false;  // reads the format's bytes
  Dot dot = nullptr;
  bool own_scales = false;  // reads them where they lie; x is then a whole row
};
/// For the instruction set in use.
DotKernel dot_kernel(const QuantView& w, Activations activations);
/// Its parts: products with float32 activations; no dot where the processor lacks what it takes.
Dot float_dot(int step);
DotKernel dot_kernel_avx2(const QuantView& w, bool precise);
DotKernel dot_kernel_avx512(const QuantView& w, bool precise);
DotKernel dot_kernel_interleaved(const QuantView& w, bool precise);

/// Quantizes `blocks` blocks of a row of activations, from the beginning of a group on.
/// @param q  of whole groups, layout.block_bytes() a block; scale, sum: a float for each step of
///           those.
void quantize_blocks(Type type, const void* x, int64_t blocks, int step, const Layout& layout,
                     int8_t* q, float* scale, float* sum);

/// The weights of a chunk as numbers.
void to_numbers(const Unpacked& w, int64_t blocks, int step, Type type, void* to);

/// Rows [first, last) and columns [begin, end) of w as numbers, one row after another. Columns are
/// cut between blocks_together.
void rows_to_numbers(const QuantView& w, int64_t first, int64_t last, int64_t begin, int64_t end,
                     Type type, void* to);

/// y [m, out] = x W^T for few rows, by dot products; x is shared by several.
struct FewProduct {
  QuantView w;
  DotKernel kernel;
  MatrixOut y;
};
/// @param room  few_room(products, m) bytes on a 64-byte line
void multiply_few(const std::vector<FewProduct>& products, int64_t m, Type type, const void* x,
                  char* room);
int64_t few_room(const std::vector<FewProduct>& products, int64_t m);
constexpr int64_t kFewRows = 8;

/// y [m, out] = down(act(gate x) * (up x)), or down(act(up x)), for few rows. The hidden values are
/// rounded to the type of x, as if each product and the activation stood alone.
struct FewMlp {
  std::vector<FewProduct> up;  // the gate first, if there is one; their y is not looked at
  Activation activation;
  FewProduct down;
};
void mlp_few(const FewMlp& mlp, int64_t m, Type type, const void* x, char* room);
/// Bytes of its room, which begins on a 64-byte line.
int64_t mlp_room(const FewMlp& mlp, int64_t m, Type type);

/// What rows of x become where they meet panels: rounding to bfloat16 is no loss where x came so,
/// and where int8 would do. Sums in one order take them as they are: a piece of a prompt that is
/// rounded is not the row that training has.
Type many_rows_type(Type x, Activations activations);
/// y [m, out] = x W^T, or with `across` y [m, in] = x W, for many rows: panels of weights as
/// numbers of the format's element type meet all rows.
void multiply_many(const QuantView& w, bool across, const panels::Format& format, int64_t m,
                   Type type, const void* x, MatrixOut y);
/// Bytes that it takes for itself.
size_t many_room(const QuantView& w, bool across, const panels::Format& format, int64_t m,
                 Type type);
/// The same in a part of the pool, where it runs on one thread.
size_t many_room_in_part(const QuantView& w, bool across, const panels::Format& format, int64_t m,
                         Type type);

}  // namespace lmxlab::kernels
