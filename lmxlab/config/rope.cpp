#include "lmxlab/config/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lmxlab::config {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

// theta^(-2i / dims)
std::vector<double> powers(double theta, int dims) {
  std::vector<double> out;
  for (int i = 0; i < dims; i += 2) out.push_back(std::pow(theta, -double(i) / dims));
  return out;
}

std::vector<double> scaled(const DynamicNtk& s, double theta, int dims, int64_t length) {
  const double L = s.original, n = std::max(static_cast<double>(length), L), f = s.factor;
  if (dims > 2) theta *= std::pow(f * n / L - (f - 1), dims / (dims - 2.0));
  return powers(theta, dims);
}

std::vector<double> scaled(const Llama3Scaling& s, double theta, int dims, int64_t) {
  auto out = powers(theta, dims);
  for (double& f : out) {
    const double turns = s.original * f / kTurn;
    if (turns < s.low_freq_factor) {
      f /= s.factor;
    } else if (turns < s.high_freq_factor) {  // both may be one number: Llama 4 Scout
      const double kept = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      f *= (1 - kept) / s.factor + kept;
    }
  }
  return out;
}

std::vector<double> scaled(const Yarn& s, double theta, int dims, int64_t) {
  // The pair that makes so many turns in the trained length, as a real number.
  const auto pair = [&](double turns) {
    return dims * std::log(s.original / (turns * kTurn)) / (2 * std::log(theta));
  };
  double low = pair(s.beta_fast), high = pair(s.beta_slow);
  if (s.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, dims - 1.0);
  if (low == high) high += 0.001;
  auto out = powers(theta, dims);
  for (size_t i = 0; i < out.size(); ++i) {
    const double divided = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    out[i] *= divided / s.factor + (1 - divided);
  }
  return out;
}

std::vector<double> scaled(const LongRope& s, double theta, int dims, int64_t length) {
  const auto& divisors = length > s.original ? s.long_factor : s.short_factor;
  auto out = powers(theta, dims);
  for (size_t i = 0; i < out.size() && i < divisors.size(); ++i) out[i] /= double(divisors[i]);
  return out;
}

std::vector<double> scaled(const Proportional& s, double theta, int dims, int64_t) {
  auto out = powers(theta, dims);
  const auto turning = static_cast<size_t>(std::floor(double(s.share) * dims / 2 + 1e-6));
  for (size_t i = 0; i < out.size(); ++i) out[i] = i < turning ? out[i] / double(s.factor) : 0;
  return out;
}

}  // namespace

RopeTable rope_table(const Rope& rope, int dims, int64_t length) {
  RopeTable out;
  std::visit(
      [&](const auto& s) {
        if constexpr (requires { scaled(s, 1.0, 2, int64_t{1}); }) {
          for (const double f : scaled(s, double(rope.theta), dims, length))
            out.frequencies.push_back(static_cast<float>(f));
        }
        if constexpr (requires { s.attention_factor; }) out.magnitude = s.attention_factor;
        if constexpr (requires { s.short_attention_factor; })
          if (length <= s.original && s.short_attention_factor)
            out.magnitude = *s.short_attention_factor;
      },
      rope.scaling);
  return out;
}

bool depends_on_length(const Rope& rope) {
  return std::holds_alternative<DynamicNtk>(rope.scaling) ||
         std::holds_alternative<LongRope>(rope.scaling);
}

bool depends_on_length(const Model& model) {
  return std::any_of(model.layers.begin(), model.layers.end(), [](const Block& b) {
    const auto* a = attention_in(b.mixer);
    const auto* l = std::get_if<Mla>(&b.mixer);
    const auto* s = std::get_if<Nsa>(&b.mixer);
    const auto* rope = a   ? std::get_if<Rope>(&a->position)
                       : l ? std::get_if<Rope>(&l->position)
                       : s ? std::get_if<Rope>(&s->position)
                           : nullptr;
    return rope && depends_on_length(*rope);
  });
}

}  // namespace lmxlab::config
