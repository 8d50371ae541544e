// The small floats of MXFP4. Private.
#pragma once

namespace lmxlab::kernels {

/// Twice the value of each code: a sign, two bits of exponent, one of mantissa.
inline constexpr int kE2m1Twice[] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

}  // namespace lmxlab::kernels
