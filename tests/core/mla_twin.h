// Latent attention with a lightning indexer in doubles, one query and one head at a time.
#pragma once

#include "lmxlab/core/mla.h"
#include "tests/core/mixer_cache.h"
#include "tests/core/support.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace lmxlab::test {

inline constexpr int kDim = 20;

inline config::Mla sizes(bool interleaved = false) {
  return {.heads = 3,
          .q_rank = 14,
          .kv_rank = 10,
          .nope_dim = 6,
          .rope_dim = 4,
          .v_dim = 5,
          .bias = true,
          .indexer =
              config::Indexer{.heads = 5, .head_dim = 8, .top_k = 4, .interleaved = interleaved}};
}

inline std::unique_ptr<core::Mla> built(const config::Mla& c, uint64_t seed = 1) {
  core::Init init(seed);
  auto out = std::make_unique<core::Mla>(c, core::Build{kDim, 0, 1, 0.3f, 0.3f, init});
  uint64_t i = 100 * seed;  // biases and norms of their own
  for (const auto& e : core::collect(*out))
    if (e.param->value.ndim() == 1)
      e.param->value = mx::add(e.param->value, some(e.param->value.shape(), ++i, 0.3));
  mx::eval(core::values(core::collect(*out)));
  return out;
}

using Row = std::vector<double>;
using Choice = std::vector<std::vector<int>>;  // of each query, the keys it meets

struct Twin {
  config::Mla c;
  std::map<std::string, std::pair<mx::Shape, Row>> w;

  Twin(const config::Mla& config, core::Mla& of) : c(config) {
    for (const auto& e : core::collect(of))
      w[e.path] = {e.param->value.shape(), doubles(e.param->value)};
  }
  Row linear(const std::string& name, const Row& x) const {
    const auto& [shape, m] = w.at(name + ".weight");
    Row y(static_cast<size_t>(shape[0]));
    for (size_t o = 0; o < y.size(); ++o) {
      if (w.count(name + ".bias")) y[o] = w.at(name + ".bias").second[o];
      for (size_t i = 0; i < x.size(); ++i) y[o] += m[o * x.size() + i] * x[i];
    }
    return y;
  }
  Row rms(const std::string& name, Row x) const {
    double square = 0;
    for (const double v : x) square += v * v;
    const double by = 1 / std::sqrt(square / static_cast<double>(x.size()) + 1e-6);
    for (size_t i = 0; i < x.size(); ++i) x[i] *= by * w.at(name + ".weight").second[i];
    return x;
  }
  Row layer_norm(const std::string& name, Row x) const {
    const double n = static_cast<double>(x.size());
    const double mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
    double square = 0;
    for (const double v : x) square += (v - mean) * (v - mean);
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = (x[i] - mean) / std::sqrt(square / n + 1e-6) * w.at(name + ".weight").second[i] +
             w.at(name + ".bias").second[i];
    return x;
  }
  // The first rope_dim numbers from `at` on.
  void turn(Row& x, size_t at, int position, bool interleaved) const {
    const auto half = static_cast<size_t>(c.rope_dim) / 2;
    for (size_t i = 0; i < half; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * static_cast<double>(i) / c.rope_dim);
      auto& a = x[at + (interleaved ? 2 * i : i)];
      auto& b = x[at + (interleaved ? 2 * i + 1 : i + half)];
      const double turned = a * std::cos(angle) - b * std::sin(angle);
      b = a * std::sin(angle) + b * std::cos(angle), a = turned;
    }
  }
  // The index scores of each query, of the positions that it may look at.
  std::vector<std::map<int, double>> index_scores(const std::vector<Row>& x, int limit) const {
    const auto& d = *c.indexer;
    const auto D = static_cast<size_t>(d.head_dim);
    std::vector<Row> keys;
    std::vector<std::map<int, double>> out;
    for (int t = 0; t < static_cast<int>(x.size()); ++t) {
      const auto& in = x[static_cast<size_t>(t)];
      keys.push_back(layer_norm("indexer.k_norm", linear("indexer.wk", in)));
      turn(keys.back(), 0, t, d.interleaved);
      auto q = linear("indexer.wq_b", rms("q_a_layernorm", linear("q_a_proj", in)));
      const auto weights = linear("indexer.weights_proj", in);
      for (size_t h = 0; h < weights.size(); ++h) turn(q, h * D, t, d.interleaved);
      out.emplace_back();
      for (int s = std::max(0, t - limit + 1); s <= t; ++s)
        for (size_t h = 0; h < weights.size(); ++h) {
          double dot = 0;
          for (size_t i = 0; i < D; ++i) dot += q[h * D + i] * keys[static_cast<size_t>(s)][i];
          out.back()[s] += weights[h] * std::max(0.0, dot);
        }
    }
    return out;
  }
  Choice choose(const std::vector<Row>& x, int limit = 1 << 20) const {
    Choice out;
    for (const auto& scores : index_scores(x, limit)) {
      std::vector<std::pair<double, int>> scored;
      for (const auto& [s, score] : scores) scored.emplace_back(-score, s);
      std::sort(scored.begin(), scored.end());
      scored.resize(std::min(scored.size(), static_cast<size_t>(c.indexer->top_k)));
      out.emplace_back();
      for (const auto& [_, s] : scored) out.back().push_back(s);
    }
    return out;
  }
  // What each head of a query gives the keys of its choice, one after another.
  std::vector<Row> given(const std::vector<Row>& x, const Choice& choice) const {
    const auto H = static_cast<size_t>(c.heads), N = static_cast<size_t>(c.nope_dim),
               R = static_cast<size_t>(c.rope_dim), V = static_cast<size_t>(c.v_dim);
    std::vector<Row> keys, shared, out;  // of each position
    for (size_t t = 0; t < x.size(); ++t) {
      const int at = static_cast<int>(t);
      const auto joint = linear("kv_a_proj_with_mqa", x[t]);
      shared.emplace_back(joint.begin() + c.kv_rank, joint.end());
      turn(shared.back(), 0, at, true);
      keys.push_back(expanded(x[t]));
      auto q = linear("q_b_proj", rms("q_a_layernorm", linear("q_a_proj", x[t])));
      out.emplace_back();
      for (size_t h = 0; h < H; ++h) {
        turn(q, h * (N + R) + N, at, true);
        Row scores;
        for (const int s : choice[t]) {
          const auto& k = keys[static_cast<size_t>(s)];
          double dot = 0;
          for (size_t i = 0; i < N; ++i) dot += q[h * (N + R) + i] * k[h * (N + V) + i];
          for (size_t i = 0; i < R; ++i)
            dot += q[h * (N + R) + N + i] * shared[static_cast<size_t>(s)][i];
          scores.push_back(std::exp(dot / std::sqrt(double(c.nope_dim) + c.rope_dim)));
        }
        const double all = std::accumulate(scores.begin(), scores.end(), 0.0);
        for (const double s : scores) out.back().push_back(s / all);
      }
    }
    return out;
  }
  // Keys and values of all heads, before the shared key.
  Row expanded(const Row& x) const {
    auto latent = linear("kv_a_proj_with_mqa", x);
    latent.resize(static_cast<size_t>(c.kv_rank));
    return linear("kv_b_proj", rms("kv_a_layernorm", latent));
  }
  Row mixed(const std::vector<Row>& x, const Choice& choice) const {
    const auto H = static_cast<size_t>(c.heads), N = static_cast<size_t>(c.nope_dim),
               V = static_cast<size_t>(c.v_dim);
    const auto weights = given(x, choice);
    std::vector<Row> values;
    Row out;
    for (size_t t = 0; t < x.size(); ++t) {
      values.push_back(expanded(x[t]));
      Row heads(H * V);
      const size_t n = choice[t].size();
      for (size_t h = 0; h < H; ++h)
        for (size_t j = 0; j < n; ++j)
          for (size_t i = 0; i < V; ++i)
            heads[h * V + i] += weights[t][h * n + j] *
                                values[static_cast<size_t>(choice[t][j])][h * (N + V) + N + i];
      const auto y = linear("o_proj", heads);
      out.insert(out.end(), y.begin(), y.end());
    }
    return out;
  }
  // Sum over queries of KL(p || softmax of the index scores), over the keys of their choice; p is
  // the mean over heads of `weights`, as given().
  double divergence(const std::vector<Row>& x, const Choice& choice,
                    const std::vector<Row>& weights) const {
    const auto scores = index_scores(x, 1 << 20);
    const double factor = 1 / std::sqrt(double(c.indexer->heads) * c.indexer->head_dim);
    double out = 0;
    for (size_t t = 0; t < x.size(); ++t) {
      double all = 0;
      for (const int s : choice[t]) all += std::exp(factor * scores[t].at(s));
      const size_t n = choice[t].size();
      for (size_t j = 0; j < n; ++j) {
        double p = 0;
        for (size_t h = 0; h < static_cast<size_t>(c.heads); ++h)
          p += weights[t][h * n + j] / c.heads;
        out += p * (std::log(p) - factor * scores[t].at(choice[t][j]) + std::log(all));
      }
    }
    return out;
  }
  // x [L, D] of one row
  static std::vector<Row> rows(const mx::array& x) {
    const auto flat = doubles(x);
    std::vector<Row> out;
    for (size_t i = 0; i < flat.size(); i += kDim)
      out.emplace_back(flat.begin() + static_cast<std::ptrdiff_t>(i),
                       flat.begin() + static_cast<std::ptrdiff_t>(i) + kDim);
    return out;
  }
  Row operator()(const mx::array& x, int limit = 1 << 20) const {
    const auto in = rows(x);
    return mixed(in, choose(in, limit));
  }
};

inline Row of_rows(const Twin& twin, const mx::array& x, int limit = 1 << 20) {
  Row out;
  for (int i = 0; i < x.shape(0); ++i) {
    const auto y = twin(row(x, i), limit);
    out.insert(out.end(), y.begin(), y.end());
  }
  return out;
}

// Sums of float32 over the width and the keys; outputs are of order one.
inline constexpr double kBound = 2e-5;

}  // namespace lmxlab::test
