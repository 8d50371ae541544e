// Optimizers whose state has 8 bits a number, in blocks of 256 numbers of the flattened array with
// one float32 each: 1.016 bytes where there were 4.
//
// A number is its block's largest magnitude times the fourth power of a code over the largest code:
//
//   first moments    int8    scale sign(c) (|c| / 127)^4     the nearest code
//   second moments   uint8   scale (c / 255)^4               one of its two neighbours, by chance
//
// Codes of a power lie evenly in the fourth root, so the relative error of sqrt(v) is at most 1/c:
// 0.4 % for a block's largest v, 4 % for a ten-thousandth of it, and the smallest v that is not 0
// is 2e-10 of the largest. The dynamic tree codes of arXiv:2110.02861 (bitsandbytes, torchao) have
// 0.2
// %, 14 % and 5e-7; for first moments the two are alike. What is 0 in v but not in m divides m by
// eps alone: here a v above 0 never becomes 0.
//
// By chance, because a second moment moves by 1 - beta2 of itself a step, which is less than half
// of the distance of two codes: the nearest code would stay where it is. Codes are chosen so that
// the expected value is v itself. The chance is a function of the element's place and the step: the
// same in each run, whatever the number of threads.
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
