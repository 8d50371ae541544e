// Optimizers whose state has 8 bits a number, in blocks of 256 numbers of the flattened array with
// one float32 each: 1.016 bytes where there were 4.
//
// A number is its block's largest magnitude times the fourth power of a code over the largest code:
//
//   first moments    int8    scale sign(c) (|c| / 127)^4     the nearest code
//   second moments   uint8   scale (c / 255)^4               one of its two neighbours, by chance
//
// Codes lie evenly in the fourth root, so that of sqrt(v), which divides the update, one step of a
// code c is 2/c: 0.8 % for a block's largest v, 8 % for a ten-thousandth of it, and the smallest v
// above 0 is 2e-10 of the largest. The dynamic tree codes of arXiv:2110.02861 (bitsandbytes,
// torchao) have 0.4 to 4 % in the first decade, 28 % for a ten-thousandth, and 3e-7; of first
// moments the rms error is a quarter less than theirs. Where v is 0 but m is not, eps alone
// divides: here a v above 0 stays above 0. docs/log.md has the figures. No table either.
//
// By chance, because a second moment moves by 1 - beta2 of itself a step, which is less than half
// of a code: the nearest code would never move. The expected value is v itself. The chance is a
// hash of the element's place and the step: the same in each run, whatever the number of threads.
#pragma once

#include <mlx/array.h>

#include "lmxlab/kernels/update.h"

namespace lmxlab::kernels {

constexpr int k8BitBlock = 256;

/// Scales of so many numbers.
constexpr int blocks_8bit(int64_t size) {
  return static_cast<int>((size + k8BitBlock - 1) / k8BitBlock);
}

/// As kernels::update, in one pass over each array too.
/// @param state  codes and scales of each state of each parameter: m0, its scales, v0, its scales,
/// m1, ... Codes int8 (m) or uint8 (AdamW's v) of the parameter's shape; scales float32
/// [blocks_8bit(size)]. Zeros are zeros.
void update_8bit(const Rule& rule, std::vector<mlx::core::array>& params,
                 const std::vector<mlx::core::array>& grads, std::vector<mlx::core::array>& state,
                 const std::vector<bool>& decays, const StepNumbers& numbers);

/// The numbers, float32, in ordinary ops.
mlx::core::array decode_8bit(const mlx::core::array& codes, const mlx::core::array& scales);

namespace plain {  // in ordinary ops
void update_8bit(const Rule& rule, std::vector<mlx::core::array>& params,
                 const std::vector<mlx::core::array>& grads, std::vector<mlx::core::array>& state,
                 const std::vector<bool>& decays, const StepNumbers& numbers);
}  // namespace plain

}  // namespace lmxlab::kernels
