// Groups of a block share its float16 scale (and that of minima): a group's own are small integers.
// The layouts are those that quant_formats.cpp reads.
#include "lmxlab/kernels/quantize_k_blocks.h"

#include <mlx/types/half_types.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace lmxlab::kernels {
namespace {

constexpr int kBlock = 256;

// Rounds to float16, and gives what is read back.
float put_half(uint8_t* p, float v) {
  const mlx::core::float16_t h(v);
  std::memcpy(p, &h, 2);
  return static_cast<float>(h);
}
// To the nearest integer, without a call; of numbers from `from` to `to`, others are cut.
float whole(float v, float from, float to) {
  constexpr float kShift = 0x1.8p23f;  // behind which a float has no places for fractions
  v = v < from ? from : v > to ? to : v;
  return (v + kShift) - kShift;
}

int nearest(float v, int from, int to) {
  return static_cast<int>(whole(v, static_cast<float>(from), static_cast<float>(to)));
}

// Larger weights matter more: products sum them up.
void weigh(const float* x, int n, float* w) {
  float squares = 0;
  for (int i = 0; i < n; i++) squares += x[i] * x[i];
  const float rms = std::sqrt(squares / static_cast<float>(n));
  for (int i = 0; i < n; i++) w[i] = std::abs(x[i]) + rms;
}

struct Fit {
  float scale = 0, min = 0;
};

// x ~ scale q - min, q from 0 to `last`, both at least 0.
Fit fit_affine(const float* x, const float* w, int n, int last) {
  const float least = std::min(0.0f, *std::min_element(x, x + n));
  const float range = *std::max_element(x, x + n) - least;
  if (!(range > 0)) return {};
  double sum_w = 0, sum_x = 0;
  for (int i = 0; i < n; i++) sum_w += w[i], sum_x += static_cast<double>(w[i] * x[i]);
  Fit best{range / static_cast<float>(last), -least};
  double best_error = INFINITY;
  constexpr int kStarts = 9, kRounds = 3;
  for (int start = 0; start < kStarts; start++) {
    // A range cut short clips its ends and is finer between them.
    Fit f{range / (static_cast<float>(last) + 0.25f * static_cast<float>(start - 2)), -least};
    for (int round = 0; round <= kRounds; round++) {
      const float inverse = 1 / f.scale;
      double q1 = 0, q2 = 0, qx = 0, error = 0;
      for (int i = 0; i < n; i++) {
        const float q = whole((x[i] + f.min) * inverse, 0, static_cast<float>(last));
        const float off = f.scale * q - f.min - x[i];
        q1 += static_cast<double>(w[i] * q), q2 += static_cast<double>(w[i] * q * q);
        qx += static_cast<double>(w[i] * q * x[i]);
        error += static_cast<double>(w[i] * off * off);
      }
      if (error < best_error) best_error = error, best = f;
      const double det = sum_w * q2 - q1 * q1;
      if (!(det > 0)) break;
      double scale = (sum_w * qx - q1 * sum_x) / det, min = (q1 * qx - q2 * sum_x) / det;
      if (min < 0) min = 0, scale = qx / q2;
      if (!(scale > 0)) break;
      f = {static_cast<float>(scale), static_cast<float>(min)};
    }
  }
  return best;
}

// x ~ scale q, q from -half to half - 1; the scale has any sign.
float fit_symmetric(const float* x, const float* w, int n, int half) {
  float most = 0;
  for (int i = 0; i < n; i++)
    if (std::abs(x[i]) > std::abs(most)) most = x[i];
  if (most == 0) return 0;
  float best = -most / static_cast<float>(half);
  double best_gain = -1;
  constexpr int kSteps = 9;
  for (int step = -kSteps; step <= kSteps; step++) {
    float inverse = -(static_cast<float>(half) + 0.1f * static_cast<float>(step)) / most;
    for (int round = 0; round < 2; round++) {
      double q2 = 0, qx = 0;
      for (int i = 0; i < n; i++) {
        const float q =
            whole(x[i] * inverse, static_cast<float>(-half), static_cast<float>(half - 1));
        q2 += static_cast<double>(w[i] * q * q), qx += static_cast<double>(w[i] * q * x[i]);
      }
      if (!(q2 > 0) || qx == 0) break;
      const auto scale = static_cast<float>(qx / q2);
      if (qx * qx / q2 > best_gain) best_gain = qx * qx / q2, best = scale;
      inverse = 1 / scale;
    }
  }
  return best;
}

// Groups of `size` with a scale and a min each: integers up to `most`, times `d` and `least`.
struct Affine {
  int size, last, most;
  int scales[16] = {}, mins[16] = {}, q[kBlock] = {};
};
void solve(const float* x, uint8_t* d_at, uint8_t* least_at, Affine& a) {
  const int groups = kBlock / a.size;
  Fit fits[16];
  float scale = 0, min = 0, w[32];
  for (int g = 0; g < groups; g++) {
    weigh(x + g * a.size, a.size, w);
    fits[g] = fit_affine(x + g * a.size, w, a.size, a.last);
    scale = std::max(scale, fits[g].scale), min = std::max(min, fits[g].min);
  }
  const float d = put_half(d_at, scale / static_cast<float>(a.most));
  const float least = put_half(least_at, min / static_cast<float>(a.most));
  for (int g = 0; g < groups; g++) {
    a.scales[g] = d > 0 ? nearest(fits[g].scale / d, 0, a.most) : 0;
    a.mins[g] = least > 0 ? nearest(fits[g].min / least, 0, a.most) : 0;
    const float s = d * static_cast<float>(a.scales[g]), m = least * static_cast<float>(a.mins[g]);
    for (int k = g * a.size; k < (g + 1) * a.size; k++)
      a.q[k] = s > 0 ? nearest((x[k] + m) / s, 0, a.last) : 0;
  }
}

// 16 groups of 16 with a scale each, an integer from -most to most - 1; q counts from -half.
struct Symmetric {
  int half, most;
  int scales[16] = {}, q[kBlock] = {};
};
void solve(const float* x, uint8_t* d_at, Symmetric& a) {
  float fits[16], w[16], most = 0;
  for (int g = 0; g < 16; g++) {
    weigh(x + 16 * g, 16, w);
    fits[g] = fit_symmetric(x + 16 * g, w, 16, a.half);
    if (std::abs(fits[g]) > std::abs(most)) most = fits[g];
  }
  const float d = put_half(d_at, -most / static_cast<float>(a.most));
  for (int g = 0; g < 16; g++) {
    a.scales[g] = d != 0 ? nearest(fits[g] / d, -a.most, a.most - 1) : 0;
    const float s = d * static_cast<float>(a.scales[g]);
    for (int k = 16 * g; k < 16 * (g + 1); k++)
      a.q[k] = s != 0 ? nearest(x[k] / s, -a.half, a.half - 1) : 0;
  }
}

// Eight scales and eight minima of six bits in 12 bytes.
void pack_scales(const Affine& a, uint8_t* to) {
  for (int i = 0; i < 4; i++) {
    const int s = a.scales[i + 4], m = a.mins[i + 4];
    to[i] = static_cast<uint8_t>(a.scales[i] | s >> 4 << 6);
    to[i + 4] = static_cast<uint8_t>(a.mins[i] | m >> 4 << 6);
    to[i + 8] = static_cast<uint8_t>((s & 15) | (m & 15) << 4);
  }
}

}  // namespace

void make_q2_k(const float* x, uint8_t* to) {
  Affine a{.size = 16, .last = 3, .most = 15};
  solve(x, to + 80, to + 82, a);
  for (int g = 0; g < 16; g++) to[g] = static_cast<uint8_t>(a.scales[g] | a.mins[g] << 4);
  std::fill_n(to + 16, 64, uint8_t{0});
  for (int k = 0; k < kBlock; k++) {
    uint8_t& byte = to[16 + k / 128 * 32 + k % 32];
    byte = static_cast<uint8_t>(byte | a.q[k] << k / 32 % 4 * 2);
  }
}

void make_q3_k(const float* x, uint8_t* to) {
  Symmetric a{.half = 4, .most = 32};
  solve(x, to + 108, a);
  std::fill_n(to, 108, uint8_t{0});
  for (int k = 0; k < kBlock; k++) {
    const int q = a.q[k] + 4;
    uint8_t &third = to[k % 32], &pair = to[32 + k / 128 * 32 + k % 32];
    third = static_cast<uint8_t>(third | (q >> 2) << k / 32);
    pair = static_cast<uint8_t>(pair | (q & 3) << k / 32 % 4 * 2);
  }
  for (int i = 0; i < 16; i++) {
    const int s = a.scales[i] + 32;
    uint8_t &low = to[96 + i % 8], &high = to[104 + i % 4];
    low = static_cast<uint8_t>(low | (s & 15) << i / 8 * 4);
    high = static_cast<uint8_t>(high | (s >> 4) << i / 4 * 2);
  }
}

void make_q4_k(const float* x, uint8_t* to) {
  Affine a{.size = 32, .last = 15, .most = 63};
  solve(x, to, to + 2, a);
  pack_scales(a, to + 4);
  std::fill_n(to + 16, 128, uint8_t{0});
  for (int k = 0; k < kBlock; k++) {
    uint8_t& byte = to[16 + k / 64 * 32 + k % 32];
    byte = static_cast<uint8_t>(byte | a.q[k] << k / 32 % 2 * 4);
  }
}

void make_q5_k(const float* x, uint8_t* to) {
  Affine a{.size = 32, .last = 31, .most = 63};
  solve(x, to, to + 2, a);
  pack_scales(a, to + 4);
  std::fill_n(to + 16, 160, uint8_t{0});
  for (int k = 0; k < kBlock; k++) {
    uint8_t &high = to[16 + k % 32], &low = to[48 + k / 64 * 32 + k % 32];
    high = static_cast<uint8_t>(high | (a.q[k] >> 4) << k / 32);
    low = static_cast<uint8_t>(low | (a.q[k] & 15) << k / 32 % 2 * 4);
  }
}

void make_q6_k(const float* x, uint8_t* to) {
  Symmetric a{.half = 32, .most = 128};
  solve(x, to + 208, a);
  std::fill_n(to, 192, uint8_t{0});
  for (int k = 0; k < kBlock; k++) {
    const int q = a.q[k] + 32;
    uint8_t &low = to[k / 128 * 64 + k % 64], &high = to[128 + k / 128 * 32 + k % 32];
    low = static_cast<uint8_t>(low | (q & 15) << k / 64 % 2 * 4);
    high = static_cast<uint8_t>(high | (q >> 4) << k / 32 % 4 * 2);
  }
  for (int g = 0; g < 16; g++) to[192 + g] = static_cast<uint8_t>(a.scales[g]);
}

}  // namespace lmxlab::kernels
