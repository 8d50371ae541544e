// Linear layers on quantized weights, which stay as they lie in memory or in a mapped file.
//
// On the CPU products are bound by the weights' bytes. Few rows of x are quantized themselves, in
// blocks of 32 with a scale each, and multiplied as integers; many rows are multiplied with panels
// of dequantized weights. Elsewhere MLX's own quantized_matmul runs for the affine format; other
// formats are dequantized on the CPU, which is slow.
#pragma once

#include <mlx/array.h>

#include <memory>
#include <optional>
#include <vector>

#include "lmxlab/kernels/quant_formats.h"

namespace lmxlab::kernels {

/// MLX's formats of small floats (OCP microscaling, and NVIDIA's): elements of 4 or 8 bits with a
/// scale of 8 bits a group and no offset. Products of them are MLX's own.
enum class FloatFormat : uint8_t { none, mxfp4, nvfp4, mxfp8 };
struct FloatGroups {
  const char* name;  // MLX's
  int group, bits;
};
FloatGroups float_groups(FloatFormat format);

struct Resident;  // the memory of a weight that is evaluated

/// A quantized matrix [out, in].
struct QuantizedWeight {
  QuantFormat format;
  int out, in;
  mlx::core::array
      packed;  // affine, floats: uint32 [out, in * bits / 32]; else uint8 [out, bytes of a row]
  std::optional<mlx::core::array> scales = {};  // [out, in / group]; affine: a float; floats: uint8
  std::optional<mlx::core::array> biases = {};  // affine: as scales; tiles may have none
  int group = 0, bits = 0;                      // affine
  bool interleaved = false;                     // affine: see QuantView
  FloatFormat floats = FloatFormat::none;       // if not none, format says nothing
  std::shared_ptr<const Resident> resident = {};  // of at_hand
};

/// The same with its memory looked up, if it is evaluated: products then need not do it each time.
QuantizedWeight at_hand(QuantizedWeight w);

/// MLX's format: what mx::quantize(w, group, bits) gives.
/// @throws Error(usage) unless shapes and dtypes agree, bits are 2, 3, 4, 5, 6 or 8 and the group
///         is 32, 64 or 128; and unless interleaved rows are a multiple of kTileRows.
/// @param biases  interleaved weights may have none: each is symmetric_bias(bits) times its scale.
QuantizedWeight affine_weight(mlx::core::array packed, mlx::core::array scales,
                              std::optional<mlx::core::array> biases, int group, int bits,
                              bool interleaved = false);
/// What mx::quantize(w, mode) gives for one of MLX's formats of small floats.
/// @throws Error(usage) unless shapes and dtypes agree.
QuantizedWeight float_weight(FloatFormat format, mlx::core::array packed, mlx::core::array scales);

/// Bits of the affine form of a format of blocks (groups of 32); 0 if it has none.
int affine_bits(QuantFormat format);
/// Whether their weights are scale * (q - 2^(bits - 1)).
bool is_symmetric(QuantFormat format);
/// A weight's affine form as tiles have it; bits are 0 if it has none.
struct AffineForm {
  int bits = 0, group = 0;
  bool has_biases = false;
};
AffineForm affine_form(const QuantizedWeight& w);
/// The same numbers in the affine format, but for the order of rounding. Evaluates the blocks.
/// @throws Error(usage) for a format that has no such form.
QuantizedWeight to_affine(const QuantizedWeight& w);
/// Of the affine form's scales and biases: float16 as a block has them, or float32 where a product
/// of one leaves its range. Evaluates the blocks.
mlx::core::Dtype affine_dtype(const QuantizedWeight& w);
/// Rows [first, last), as views.
QuantizedWeight some_rows(const QuantizedWeight& w, int first, int last);
/// The same matrix with its rows interleaved, or apart again: a permutation of each array, but for
/// biases that their scales say. Blocks go through their affine form. Evaluates blocks and 5 bits.
/// @throws Error(usage) unless it has that form and `out` is a multiple of kTileRows.
QuantizedWeight interleave(const QuantizedWeight& w);
QuantizedWeight separate(const QuantizedWeight& w);
/// Whether this machine multiplies it faster interleaved: affine of 2, 4, 5 or 8 bits, or blocks
/// with such a form, where a register of AVX-512 holds a word of each of 16 rows, so that no lane
/// waits and none is summed up.
bool faster_interleaved(const QuantizedWeight& w);

/// Blocks of a GGUF file, uint8 [out, bytes of a row]; an array over mapped memory will do.
/// @throws Error(usage) if the bytes are no whole blocks.
QuantizedWeight block_weight(QuantFormat format, mlx::core::array bytes);

/// How precisely rows of x enter the product. Few rows, with m the largest |x| of a block: every
/// element is off by at most m / 254 (int8: what llama.cpp does), m / 65024 (int16: 8 times finer
/// than float16), or nothing. Many rows (more than 8) meet weights turned into numbers: int8 and
/// bf16 round both to bfloat16, each element off by at most 1/512 of itself, where the processor
/// multiplies that (twice as fast); int16 and float32 do not. bf16 takes few rows as int16.
enum class Activations : uint8_t { int8, bf16, int16, float32 };

/// What products that this thread builds from now on use where they are not told: int16, or that of
/// the WithActivations that is alive.
Activations default_activations();
class WithActivations {
 public:
  explicit WithActivations(Activations activations);
  ~WithActivations();
  WithActivations(const WithActivations&) = delete;
  WithActivations& operator=(const WithActivations&) = delete;

 private:
  Activations before_;
};

/// x W^T: x [..., in] float32, bfloat16 or float16 -> [..., out] of the same dtype; sums are
/// float32. Gradients flow to x alone (on the CPU; MLX's own also gives those of scales and
/// biases). A row of x that holds a NaN or an infinity gives a row of NaN.
/// @throws Error(usage) if the last axis of x is not `in`.
/// @cost  up to 8 rows: the weights' bytes at memory speed.
mlx::core::array quantized_linear(const mlx::core::array& x, const QuantizedWeight& w,
                                  Activations activations = default_activations());

/// Several of them with one x, which is quantized once: queries, keys and values, or a gated
/// layer's two. In one step of the graph, so that small matrices cost less beside it.
std::vector<mlx::core::array> quantized_linears(const mlx::core::array& x,
                                                const std::vector<QuantizedWeight>& weights,
                                                Activations activations = default_activations());

/// Rows of the matrix: ids [...] of any integer type -> [..., in] of `dtype`.
mlx::core::array dequantize_rows(const QuantizedWeight& w, const mlx::core::array& ids,
                                 mlx::core::Dtype dtype);

}  // namespace lmxlab::kernels
