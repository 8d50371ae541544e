// The K-quants' blocks of 256 from numbers. Private: see quantize_blocks.h.
#pragma once

#include <cstdint>

namespace lmxlab::kernels {

void make_q2_k(const float* x, uint8_t* to);
void make_q3_k(const float* x, uint8_t* to);
void make_q4_k(const float* x, uint8_t* to);
void make_q5_k(const float* x, uint8_t* to);
void make_q6_k(const float* x, uint8_t* to);

}  // namespace lmxlab::kernels
