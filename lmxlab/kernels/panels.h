// What the engine's parts share: panels of float32 (panels.cpp), of bfloat16 on x86
// (panels_bf16.cpp), products with few rows (gemm_small.cpp).
#pragma once

#include "lmxlab/kernels/gemm.h"

namespace lmxlab::kernels::panels {

/// A strip of a as the float32 kernel reads it: element (i, k) at data[i * row + k * column], one
/// of the strides 1.
struct Strip {
  const float* data;
  int64_t row, column;
};

/// One strip of a with all strips of b: c [m <= mr, n].
void multiply_f32(const Strip& a, const float* b, int64_t m, int64_t n, int64_t k, float* c,
                  int64_t ld, bool add);
Format format_f32(Order order);
void pack_a_f32(const Format& f, MatrixView a, int64_t m, int64_t k, float* to);
void pack_b_f32(const Format& f, MatrixView b, int64_t k, int64_t n, float* to);

/// No format (mr = 0) where the instruction set in use has no products of bfloat16.
Format format_bf16();
void pack_a_bf16(const Format& f, MatrixView a, int64_t m, int64_t k, uint16_t* to);
void pack_b_bf16(const Format& f, MatrixView b, int64_t k, int64_t n, uint16_t* to);
/// m <= mr.
void multiply_bf16(const Format& f, const uint16_t* a, const uint16_t* b, int64_t m, int64_t n,
                   int64_t k, float* c, int64_t ld, bool add);
/// AMX: eight tiles of 16 rows of 64 bytes on this thread, from now on. Nobody else may configure
/// or release them, or the next product is an illegal instruction.
void configure_tiles();
/// Whether rows of bfloat16 can be read as they lie, and that product: of one strip, m <= mr.
bool reads_rows_bf16(MatrixView a, int64_t m, int64_t k);
void multiply_rows_bf16(MatrixView a, const uint16_t* b, int64_t m, int64_t n, int64_t k, float* c,
                        int64_t ld, bool add);

/// Whether a product of so few rows is computed without packing, and that product. c as in gemm.
bool is_small(int64_t m, int64_t k, MatrixView b);
void gemm_small(int64_t m, int64_t n, int64_t k, MatrixView a, MatrixView b, MatrixOut c, bool add);

/// c = acc (or += acc): m rows of n float32 into any type.
void write_tile(const float* acc, int64_t acc_ld, int64_t m, int64_t n, MatrixOut c, bool add);

/// Element (i, j) as another view's (0, 0).
inline MatrixView at(const MatrixView& v, int64_t i, int64_t j) {
  return {static_cast<const char*>(v.data) + (i * v.row + j * v.column) * size_of(v.type), v.type,
          v.row, v.column};
}
inline MatrixOut at(const MatrixOut& c, int64_t i, int64_t j) {
  return {static_cast<char*>(c.data) + (i * c.ld + j) * size_of(c.type), c.type, c.ld};
}

}  // namespace lmxlab::kernels::panels
