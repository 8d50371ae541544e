// What the processor can do at most, measured: the rates that reports are fractions of.
#pragma once

namespace lmxlab::kernels {

/// Operations a second of all threads() with isa(), on numbers that stay in registers or tiles. A
/// multiply-add counts as two.
struct Peaks {
  double f32 = 0;
  double bf16 = 0;  // products of bfloat16 summed in float32; 0 where the set has none
  double int8 = 0;  // products of int8 summed in int32; 0 where no kernel would use them
};

/// The best of a few runs each. @cost  about 0.3 s
Peaks measure_peaks();

/// Bytes a second that all threads() read from memory: the best of a few passes over a buffer
/// beyond any cache (512 MB, less where little memory is left). @cost  about 0.3 s
/// @throws std::bad_alloc
double measure_read_bandwidth();

}  // namespace lmxlab::kernels
