// What the machine can do, measured, for fractions of it.
#pragma once

#include <string>

namespace lmxlab::cli {

/// "Intel(R) Xeon(R) ...", "Apple M2", ... or "unknown".
std::string chip_name();
/// Bytes a second that all threads (on a GPU: a sum) read from memory: the best of a few passes,
/// about half a second.
double read_bandwidth();
/// FLOP/s of a float32 matrix product of MLX: the best of a few, about half a second.
double matmul_flops();

}  // namespace lmxlab::cli
