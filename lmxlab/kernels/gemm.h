// Matrix products: the engine behind every product of the house, on memory, without arrays.
//
// Two levels. `gemm` is one product of strided matrices, cut over the pool. `panels` are its parts,
// for kernels that keep a block packed and use it more than once (attention, quantized weights):
// operands are packed into strips that a register or AMX tile reads one after another.
//
// Products of float32 are float32 throughout. Where a is bfloat16 and b is no float16, both are
// rounded to bfloat16 and sums are float32, if the processor multiplies bfloat16 faster (see
// packs_bf16); otherwise they are widened and multiplied as float32: a float32 a is never rounded,
// whatever b is. Few rows are never rounded: a
// product with at most 8 rows and k to 65536 reads b as it lies (its rows or its columns without
// gaps) and multiplies as float32, and so does one with a single column and ld 1, by its transpose.
#pragma once

#include <cstdint>

#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels {

/// Element (i, j) is at data[i * row + j * column]; strides count elements, may be 0, and are not
/// negative.
struct MatrixView {
  const void* data;
  Type type;
  int64_t row, column;

  MatrixView transposed() const { return {data, type, column, row}; }
};

/// Where a product goes: rows of `ld` elements.
struct MatrixOut {
  void* data;
  Type type;
  int64_t ld;
};

/// c = a b, or c += a b with `add`;  a [m, k], b [k, n], c [m, n] apart from both.
/// The sums' order depends on the shapes, the types, threads(), isa() and one_order() only. k = 0
/// gives zeros.
/// From inside a part of the pool it runs on the caller's thread.
/// @throws Error(resource) if there is no memory for the packed operands (about 2 MB a thread, and
/// a slice of b).
/// @param counted  whether that memory is MLX's; else the thread keeps its own, for products that
///   nobody announces to a rehearsal.
void gemm(int64_t m, int64_t n, int64_t k, MatrixView a, MatrixView b, MatrixOut c,
          bool add = false, bool counted = true);

/// The same for `batch` products; strides count elements from one product to the next.
struct BatchStrides {
  int64_t a, b, c;
};
void gemm_batched(int64_t batch, BatchStrides strides, int64_t m, int64_t n, int64_t k,
                  MatrixView a, MatrixView b, MatrixOut c, bool add = false);

/// Bytes that it takes for itself, out of a part of the pool; batch 1: that `gemm` does.
size_t gemm_workspace(int64_t batch, int64_t m, int64_t n, int64_t k, MatrixView a, MatrixView b,
                      MatrixOut c);

namespace panels {

/// How the elements of `a` lie before they are packed. Any strides can be packed either way; it is
/// fast where this agrees.
enum class Order : uint8_t {
  rows,     // those of a row adjacent
  columns,  // those of a column adjacent: a transposed matrix
};

/// How operands are packed now: for this element type with this instruction set. A value to be
/// kept for a whole computation, since set_isa changes the answer.
struct Format {
  bool bf16;  // packed elements are bfloat16 (float32 otherwise)
  Order order;
  int mr, nr;  // rows of a strip of a, columns of a strip of b
  int kr;      // k is padded with zeros to a multiple of this

  int64_t padded_k(int64_t k) const { return (k + kr - 1) / kr * kr; }
  int64_t element() const { return bf16 ? 2 : 4; }
  /// Bytes of a strip: mr x k or k x nr.
  int64_t a_strip(int64_t k) const { return mr * padded_k(k) * element(); }
  int64_t b_strip(int64_t k) const { return nr * padded_k(k) * element(); }
  int64_t a_bytes(int64_t m, int64_t k) const { return (m + mr - 1) / mr * a_strip(k); }
  int64_t b_bytes(int64_t n, int64_t k) const { return (n + nr - 1) / nr * b_strip(k); }
};
Format format(Type type, Order order = Order::rows);

/// Packs all strips of a [m, k] (b [k, n]) one after another; the last strip is padded with zeros.
/// `to` lies on a 64-byte line. On the caller's thread, as everything here.
void pack_a(const Format& f, MatrixView a, int64_t m, int64_t k, void* to);
void pack_b(const Format& f, MatrixView b, int64_t k, int64_t n, void* to);

/// c [m, n] float32 = (or +=) the product of packed strips. With m, n no multiples of mr, nr only
/// the m x n corner is written.
void multiply(const Format& f, const void* a, const void* b, int64_t m, int64_t n, int64_t k,
              float* c, int64_t ld, bool add);

}  // namespace panels

/// Whether products of bfloat16 are multiplied as bfloat16 now.
bool packs_bf16();

}  // namespace lmxlab::kernels
