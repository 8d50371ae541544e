// What the tests of objectives share: inputs and TRL's values for them
// (tools/make_objective_golden.py).
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/training/objectives/logprobs.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>

namespace lmxlab::objectives {

using Arrays = std::vector<mx::array>;
using Function = std::function<mx::array(const Arrays&)>;

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

inline std::vector<float> values(const mx::array& a) {
  auto all = mx::contiguous(mx::flatten(mx::astype(a, mx::float32)));
  all.eval();
  return {all.data<float>(), all.data<float>() + all.size()};
}
inline float value(const mx::array& a) {
  return values(a).at(0);
}

/// Largest difference, by the largest value of what is right.
inline float off(const mx::array& got, const mx::array& want) {
  EXPECT_EQ(got.shape(), want.shape());
  const auto a = values(got), b = values(want);
  float most = 0, largest = 1e-30f;
  for (size_t i = 0; i < b.size(); ++i) {
    most = std::isnan(a[i]) ? std::numeric_limits<float>::infinity()
                            : std::max(most, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return most / largest;
}

inline mx::array rows(const mx::array& a, int first, int last) {
  auto from = mx::Shape(a.ndim(), 0), to = a.shape();
  from[0] = first, to[0] = last;
  return mx::slice(a, from, to);
}
inline mx::array columns(const mx::array& a, int first, int last) {
  auto from = mx::Shape(a.ndim(), 0), to = a.shape();
  from[1] = first, to[1] = last;
  return mx::slice(a, from, to);
}
inline mx::array halves(const mx::array& a, int which) {
  const int n = a.shape(0) / 2;
  return rows(a, which * n, (which + 1) * n);
}

struct Golden {
  std::unordered_map<std::string, mx::array> arrays;
  Json cases;
  Golden() {
    const auto path =
        std::filesystem::path(LMXLAB_SOURCE_DIR) / "tests/training/fixtures/objectives.safetensors";
    auto [loaded, meta] = mx::load_safetensors(path.string());
    arrays = std::move(loaded);
    cases = Json::parse(meta.at("cases"));
    for (auto& [_, a] : arrays) mx::eval(a);
  }
  const mx::array& operator()(const std::string& name) const { return arrays.at(name); }

  /// What each position but the last predicts, and which of those are a response's.
  mx::array labels() const { return columns((*this)("input_ids"), 1, length()); }
  mx::array mask() const { return columns((*this)("completion_mask"), 1, length()); }
  int length() const { return (*this)("input_ids").shape(1); }
  Sequences responses(const mx::array& logits, const mx::array& which) const {
    const auto lp = token_logprobs({columns(logits, 0, length() - 1)}, labels(), which);
    return sequence_logprobs(lp, which);
  }
  Sequences responses(const mx::array& logits) const { return responses(logits, mask()); }
  mx::array ref() const { return responses((*this)("ref_logits")).logprobs; }
};

inline const Golden& golden() {
  static const Golden g;
  return g;
}

inline Sequences half(const Sequences& s, int which) {
  return {halves(s.logprobs, which), halves(s.tokens, which)};
}

}  // namespace lmxlab::objectives
