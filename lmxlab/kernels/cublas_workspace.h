// What cuBLASLt takes beside the output of a product on an NVIDIA card: where it splits the inner
// axis its parts lie in a workspace. Only the library knows when, so that it is asked as MLX does.
#pragma once

#include <mlx/array.h>

#include <optional>
#include <vector>

namespace lmxlab::kernels {

/// A product of matrices as it reaches cuBLASLt: rows x inner by inner x columns, `batch` times.
struct CublasProduct {
  mlx::core::Dtype dtype = mlx::core::float32;
  struct Side {
    bool transposed = false;
    int64_t leading = 0, batch_stride = 0;
  };
  uint64_t rows = 0, columns = 0, inner = 0;
  Side a, b;
  std::optional<Side> c;  // what is added, if it is a matrix
  int32_t batch = 1;
  bool by_pointers = false;  // batches that do not follow each other at one stride
  bool bias = false;         // a row is added
};

/// Whether a product reads a matrix as it lies, in rows or in columns; others are copied first.
bool lies_as_matrix(const mlx::core::array& x);

/// The product that MLX's `Matmul` (a, b) or `AddMM` (a, b, c) asks for; nothing where a kernel
/// of MLX's own multiplies by a vector. From shapes and strides: no value is read.
std::optional<CublasProduct> cublas_product(const std::vector<mlx::core::array>& inputs,
                                            const mlx::core::array& out);

/// Whether float32 is multiplied as TF32, which MLX does unless MLX_ENABLE_TF32 is 0. Said before
/// the first question.
void set_tf32(bool on);

/// Bytes of the workspace, 0 where the library is not loaded or refuses. About 10 us the first
/// time.
size_t cublas_workspace(const CublasProduct& product);

}  // namespace lmxlab::kernels
