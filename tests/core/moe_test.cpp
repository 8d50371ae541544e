// Mixtures of experts against transformers' modules, and against plain loops in double precision.
#include "lmxlab/core/moe.h"

#include "lmxlab/base/fields.h"
#include "lmxlab/config/validate.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/grouped.h"
#include "tests/core/support.h"

#include <mlx/compile.h>
#include <mlx/io.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>

namespace lmxlab::core {
namespace {

namespace fs = std::filesystem;
using config::Act;
using config::GroupScore;
using config::Scoring;
using Numbers = std::vector<double>;
using Weights = std::map<std::string, Numbers>;

double act(Act a, double x) {
  switch (a) {
    case Act::silu: return x / (1 + std::exp(-x));
    case Act::gelu: return x * (1 + std::erf(x / std::sqrt(2.0))) / 2;
    case Act::gelu_tanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Act::relu: return std::max(x, 0.0);
    case Act::relu2: return std::max(x, 0.0) * std::max(x, 0.0);
    case config::Act::xielu: break;  // no expert's
  }
  return NAN;
}
Numbers softmax(Numbers x) {
  const double most = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (auto& v : x) v = std::exp(v - most), sum += v;
  for (auto& v : x) v /= sum;
  return x;
}
// The numbers of the k largest, largest first.
std::vector<size_t> largest(const Numbers& x, int k) {
  std::vector<size_t> at(x.size());
  std::iota(at.begin(), at.end(), 0u);
  std::stable_sort(at.begin(), at.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  at.resize(static_cast<size_t>(k));
  return at;
}

// One token at a time, as config/ffn.h says it.
class Plain {
 public:
  Plain(const config::Moe& c, size_t dim, const Weights& w) : c_(c), dim_(dim), w_(w) {}

  struct Outcome {
    Numbers y, load, shares;
    double square = 0;
    /// The routers' losses, as core::router_loss.
    double loss(const config::Moe& c, double tokens) const {
      double even = 0;
      for (size_t e = 0; e < load.size(); ++e) even += load[e] * shares[e];
      return static_cast<double>(c.aux_loss) * even * c.choices() / (c.top_k * tokens * tokens) +
             static_cast<double>(c.z_loss) * square / tokens;
    }
  };
  Outcome operator()(const Numbers& x) const {
    Outcome out;
    const auto n = static_cast<size_t>(c_.choices());
    out.load.assign(n, 0), out.shares.assign(n, 0);
    for (size_t t = 0; t < x.size(); t += dim_) {
      const auto y = token({x.begin() + static_cast<std::ptrdiff_t>(t),
                            x.begin() + static_cast<std::ptrdiff_t>(t + dim_)},
                           out);
      out.y.insert(out.y.end(), y.begin(), y.end());
    }
    return out;
  }

 private:
  const Numbers* find(const std::string& name) const {
    const auto it = w_.find(name);
    return it == w_.end() ? nullptr : &it->second;
  }
  // Matrix number `which` of a layer, and its bias.
  Numbers linear(const std::string& name, size_t which, const Numbers& x, size_t out) const {
    const auto& w = w_.at(name + ".weight");
    const auto* b = find(name + ".bias");
    Numbers y(out, 0);
    for (size_t o = 0; o < out; ++o) {
      if (b) y[o] = (*b)[which * out + o];
      for (size_t i = 0; i < x.size(); ++i) y[o] += w[(which * out + o) * x.size() + i] * x[i];
    }
    return y;
  }
  Numbers mlp(const std::string& name, size_t which, const Numbers& x, int hidden,
              bool expert) const {
    auto up = linear(name + ".up_proj", which, x, static_cast<size_t>(hidden));
    if (c_.gated) {
      const auto gate = linear(name + ".gate_proj", which, x, static_cast<size_t>(hidden));
      for (size_t i = 0; i < up.size(); ++i) {
        double g = gate[i], u = up[i];
        if (expert && c_.clamp) {
          const auto most = static_cast<double>(*c_.clamp);
          g = std::min(g, most), u = std::clamp(u, -most, most);
        }
        if (expert) u += static_cast<double>(c_.up_offset);
        const double alpha = expert ? static_cast<double>(c_.alpha) : 1;
        up[i] = u * (alpha == 1 ? act(c_.act, g) : g / (1 + std::exp(-alpha * g)));
      }
    } else {
      for (auto& u : up) u = act(c_.act, u);
    }
    return linear(name + ".down_proj", which, up, x.size());
  }
  Numbers expert(size_t e, const Numbers& in) const {
    if (c_.widths.empty()) return mlp("experts", e, in, c_.hidden, true);
    const int own = c_.widths[e];
    size_t group = 0, within = 0;  // of its width
    for (size_t i = 0; i < e; ++i)
      if (c_.widths[i] == own)
        ++within;
      else if (c_.widths[i] != c_.widths[i + 1])
        ++group;
    return mlp("experts_by_width." + std::to_string(group), within, in, own, true);
  }
  Numbers token(const Numbers& x, Outcome& out) const {
    auto seen = x;
    if (c_.router_norm) {
      double square = static_cast<double>(*c_.router_norm);
      for (const double v : x) square += v * v / static_cast<double>(dim_);
      for (size_t i = 0; i < dim_; ++i)
        seen[i] = x[i] / std::sqrt(square) * w_.at("gate.scale")[i] / std::sqrt(double(dim_));
    }
    auto logits = linear("gate", 0, seen, static_cast<size_t>(c_.choices()));
    if (c_.router_softcap) {
      const auto cap = static_cast<double>(*c_.router_softcap);
      for (auto& l : logits) l = cap * std::tanh(l / cap);
    }
    auto scores = c_.scoring == Scoring::softmax_of_top ? logits : softmax(logits);
    if (c_.scoring == Scoring::sigmoid)
      for (size_t e = 0; e < scores.size(); ++e) scores[e] = 1 / (1 + std::exp(-logits[e]));
    std::vector<size_t> chosen;
    Numbers weights;
    if (c_.scoring == Scoring::sparsemixer) {
      auto rest = logits;
      for (int i = 0; i < c_.top_k; ++i) {
        const size_t best = largest(rest, 1)[0];
        auto near = rest;
        for (size_t e = 0; e < near.size(); ++e)
          if ((rest[best] - logits[e]) / std::max(std::abs(logits[e]), rest[best]) >
              2 * static_cast<double>(c_.jitter))
            near[e] = -INFINITY;
        chosen.push_back(best), weights.push_back(softmax(near)[best]);
        rest[best] = -INFINITY;
      }
    } else {
      auto choice = scores;
      if (const auto* b = find("gate.e_score_correction_bias"))
        for (size_t e = 0; e < choice.size(); ++e) choice[e] += (*b)[e];
      const size_t each = choice.size() / static_cast<size_t>(c_.groups);
      Numbers groups;
      for (size_t g = 0; c_.groups > 1 && g < choice.size(); g += each) {
        const Numbers group(choice.begin() + static_cast<std::ptrdiff_t>(g),
                            choice.begin() + static_cast<std::ptrdiff_t>(g + each));
        double score = 0;
        for (const size_t i : largest(group, c_.group_score == GroupScore::max ? 1 : 2))
          score += group[i];
        groups.push_back(score);
      }
      if (c_.groups > 1) {
        const auto kept = largest(groups, c_.groups_kept);
        for (size_t e = 0; e < choice.size(); ++e)
          if (std::find(kept.begin(), kept.end(), e / each) == kept.end()) choice[e] = -INFINITY;
      }
      chosen = largest(choice, c_.top_k);
      for (const size_t e : chosen) weights.push_back(scores[e]);
      if (c_.scoring == Scoring::softmax_of_top) weights = softmax(weights);
    }
    if (c_.normalize > 0) {
      double norm = 0;
      const auto p = static_cast<double>(c_.normalize);
      for (const double w : weights) norm += std::pow(std::abs(w), p);
      norm = std::max(std::pow(norm, 1 / p) + static_cast<double>(c_.norm_eps),
                      static_cast<double>(c_.norm_min));
      for (auto& w : weights) w /= norm;
    }
    for (size_t i = 0; i < chosen.size(); ++i) {
      weights[i] *= static_cast<double>(c_.scale);
      if (c_.expert_scale) weights[i] *= w_.at("gate.per_expert_scale")[chosen[i]];
      out.load[chosen[i]] += 1;
    }
    auto shares = c_.scoring == Scoring::sigmoid ? scores : softmax(logits);
    const double all = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (size_t e = 0; e < shares.size(); ++e) out.shares[e] += shares[e] / all;
    double partition = 0;
    for (const double l : logits) partition += std::exp(l);
    out.square += std::log(partition) * std::log(partition);

    auto inner =
        c_.latent > 0 ? linear("fc1_latent_proj", 0, x, static_cast<size_t>(c_.latent)) : x;
    Numbers y(inner.size(), 0);
    for (size_t i = 0; i < chosen.size(); ++i) {
      auto in = inner;
      if (c_.input_scaled)
        for (auto& v : in) v *= weights[i];
      const auto made = chosen[i] < static_cast<size_t>(c_.experts) ? expert(chosen[i], in) : in;
      for (size_t d = 0; d < y.size(); ++d) y[d] += made[d] * (c_.input_scaled ? 1 : weights[i]);
    }
    if (c_.latent > 0) y = linear("fc2_latent_proj", 0, y, dim_);
    if (c_.shared > 0) {
      const auto s = mlp("shared_experts", 0, x, c_.shared, false);
      const double gate =
          c_.shared_gate ? 1 / (1 + std::exp(-linear("shared_expert_gate", 0, x, 1)[0])) : 1;
      for (size_t d = 0; d < dim_; ++d) y[d] += gate * s[d];
    }
    return y;
  }

  config::Moe c_;
  size_t dim_;
  const Weights& w_;
};

Weights weights_in(const std::vector<Entry>& entries) {
  Weights out;
  for (const auto& e : entries) out[e.path] = test::doubles(e.param->value);
  return out;
}
double size_of(const Numbers& x) {
  double most = 0;
  for (const double v : x) most = std::max(most, std::abs(v));
  return most;
}
mx::array some_tokens(int tokens, int dim, uint64_t seed = 3) {
  return test::some({1, tokens, dim}, seed, 2);
}
mx::array tokens_of(const mx::array& x, int from, int to) {
  return mx::slice(x, {0, from, 0}, {1, to, x.shape(2)});
}

constexpr int kDim = 8;

// With weights that matter, the selection's too.
std::unique_ptr<Moe> made(const config::Moe& c, int dim = kDim, uint64_t seed = 1) {
  Init init(seed);
  auto moe = std::make_unique<Moe>(c, Build{dim, 0, 1, 0.5f, 0.5f, init});
  for (const auto& e : collect(*moe)) {
    const double range = e.path.ends_with("bias") ? 0.3 : 0.8;
    auto& v = e.param->value;
    v = mx::add(test::some(v.shape(), seed + e.path.size(), range),
                mx::array(e.path.ends_with("scale") ? 1.0f : 0.0f));
  }
  return moe;
}

struct Case {
  std::string name;
  config::Moe moe;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

// Every part, in some of which they meet.
std::vector<Case> kinds() {
  const config::Moe base{.experts = 6, .top_k = 2, .hidden = 5, .aux_loss = 0.3f, .z_loss = 0.1f};
  std::vector<Case> out{{"mixtral", base}};
  const auto add = [&](const char* name, auto change) {
    auto c = base;
    change(c);
    out.push_back({name, c});
  };
  add("grouped", [](config::Moe& c) {
    c.scoring = Scoring::sigmoid, c.selection_bias = true, c.groups = 3, c.groups_kept = 2;
    c.normalize = 1, c.norm_eps = 1e-20f, c.scale = 2.5f, c.shared = 4;
  });
  add("clamped", [](config::Moe& c) {
    c.clamp = 0.7f, c.alpha = 1.702f, c.up_offset = 1, c.bias = true, c.router_bias = true;
  });
  add("input", [](config::Moe& c) {
    c.scoring = Scoring::sigmoid, c.input_scaled = true, c.zero_experts = 2, c.top_k = 3;
  });
  add("latent", [](config::Moe& c) {
    c.gated = false, c.act = Act::relu2, c.latent = 3, c.shared = 4, c.shared_bias = true;
    c.shared_gate = true, c.zero_experts = 2, c.scoring = Scoring::softmax;
  });
  add("normed", [](config::Moe& c) {
    c.router_norm = 1e-5f, c.expert_scale = true, c.scoring = Scoring::softmax, c.normalize = 3;
    c.router_softcap = 2.0f, c.act = Act::gelu, c.norm_min = 0.6f;
  });
  add("all", [](config::Moe& c) { c.top_k = c.experts, c.scoring = Scoring::softmax; });
  add("one", [](config::Moe& c) { c.top_k = 1, c.scoring = Scoring::softmax; });
  add("widths", [](config::Moe& c) { c.widths = {2, 2, 2, 9, 9, 9}; });
  add("widths_latent", [](config::Moe& c) {
    c.widths = {3, 3, 3, 3, 3, 7}, c.gated = false, c.latent = 3, c.zero_experts = 1;
    c.input_scaled = true, c.top_k = 3;
  });
  add("sparsemixer", [](config::Moe& c) { c.scoring = Scoring::sparsemixer, c.jitter = 0.3f; });
  return out;
}
class Kinds : public testing::TestWithParam<Case> {};
std::string name_of(const testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

TEST_P(Kinds, EqualPlainLoops) {
  const auto& c = GetParam().moe;
  const auto moe = made(c);
  const auto weights = weights_in(collect(*moe));
  for (const bool fused : {true, false}) {
    kernels::set_fused(fused);
    for (const int tokens : {3, 50}) {  // unsorted, sorted
      const auto x = some_tokens(tokens, kDim);
      const auto want = Plain(c, kDim, weights)(test::doubles(x));
      std::vector<Sums> sums;
      Pass pass;
      pass.sums = &sums;
      const auto y = (*moe)(x, pass);
      EXPECT_EQ(y.shape(), x.shape());
      // Sums of 8 terms behind sums of 8; exp carries errors of the logits on.
      test::expect_close(y, want.y, 128 * test::kEps * std::max(1.0, size_of(want.y)));
      ASSERT_EQ(sums.size(), 1u);
      test::expect_close(sums[0].arrays[0], want.load, 0, "load");
      test::expect_close(sums[0].arrays[1], want.shares, 64 * test::kEps * tokens, "scores");
      test::expect_close(sums[0].arrays[2], {want.square}, 64 * test::kEps * want.square, "z");
      config::Model model;
      model.layers = {config::Block{.ffn = c}};
      test::expect_close(router_loss(model, sums, tokens), {want.loss(c, tokens)},
                         64 * test::kEps * 10, "loss");
    }
  }
  kernels::set_fused(true);
}

// Gradients of each element, by differences in double precision.
TEST_P(Kinds, GradientsEqualDifferences) {
  const auto& c = GetParam().moe;
  const auto moe = made(c);
  const auto entries = collect(*moe);
  config::Model model;
  model.layers = {config::Block{.ffn = c}};
  for (const int tokens : {4, 40}) {
    const auto x = some_tokens(tokens, kDim, 5), slope = test::some(x.shape(), 6);
    const auto loss = [&](const Arrays& in) -> Arrays {
      const Lend lend(entries, std::span(in).subspan(1));
      std::vector<Sums> sums;
      Pass pass;
      pass.sums = &sums;
      const auto y = (*moe)(in[0], pass);
      return {mx::add(mx::sum(mx::multiply(y, slope)), router_loss(model, sums, tokens))};
    };
    Arrays in{x};
    for (const auto& v : values(entries)) in.push_back(v);
    std::vector<int> all(in.size());
    std::iota(all.begin(), all.end(), 0);
    const auto [value, grads] = mx::value_and_grad(loss, all)(in);
    const auto [again, compiled] = mx::value_and_grad(mx::compile(loss), all)(in);

    kernels::set_fused(false);  // as elsewhere than on the CPU
    const auto ordinary = mx::value_and_grad(loss, all)(in).second;
    kernels::set_fused(true);

    auto weights = weights_in(entries);
    auto X = test::doubles(x);
    const auto R = test::doubles(slope);
    const auto plain = [&] {
      const auto out = Plain(c, kDim, weights)(X);
      double sum = out.loss(c, tokens);
      for (size_t i = 0; i < R.size(); ++i) sum += R[i] * out.y[i];
      return sum;
    };
    for (size_t i = 0; i < in.size(); ++i) {
      auto& numbers = i == 0 ? X : weights.at(entries[i - 1].path);
      const auto name = i == 0 ? std::string("x") : entries[i - 1].path;
      const auto got = test::doubles(grads[i]);
      const double same = 64 * test::kEps * std::max(1.0, size_of(got));
      test::expect_close(compiled[i], got, same, name + " compiled");
      test::expect_close(ordinary[i], got, same, name + " by ordinary ops");
      Numbers want, some;
      for (size_t j = i % 3; j < numbers.size(); j += 3) {
        const double at = numbers[j], h = 1e-5;
        numbers[j] = at + h;
        const double more = plain();
        numbers[j] = at - h;
        const double less = plain();
        numbers[j] = at;
        want.push_back(name == "gate.e_score_correction_bias" ? 0 : (more - less) / (2 * h));
        some.push_back(got[j]);
      }
      double worst = 0;
      size_t where = 0;
      for (size_t j = 0; j < want.size(); ++j)
        if (std::abs(some[j] - want[j]) > worst) worst = std::abs(some[j] - want[j]), where = j;
      // Float32 sums over the tokens; differences are off by h^2, and where an activation is cut.
      EXPECT_LE(worst, 2e-5 * std::max(1.0, size_of(want)))
          << name << ", element " << where << ": " << some[where] << " and " << want[where];
      if (name.ends_with("weight")) {
        EXPECT_GT(size_of(got), 0) << name << " gets no gradient";
      }
    }
  }
}

TEST_P(Kinds, PiecesEqualTheWhole) {  // sorted and not; and half precision
  const auto& c = GetParam().moe;
  const auto moe = made(c);
  const auto x = some_tokens(48, kDim, 9);
  Pass pass;
  const auto whole = (*moe)(x, pass);
  for (int at = 0; at < 48; at += 6)
    test::expect_close((*moe)(tokens_of(x, at, at + 6), pass),
                       test::doubles(tokens_of(whole, at, at + 6)),
                       64 * test::kEps * std::max(1.0, size_of(test::doubles(whole))));
  for (const auto dtype : {mx::bfloat16, mx::float16}) {
    const auto low = mx::astype(x, dtype);
    const auto want = test::doubles((*moe)(mx::astype(low, mx::float32), pass));
    const double eps = dtype == mx::bfloat16 ? 7.8e-3 : 9.8e-4;
    for (const bool narrow : {false, true}) {  // weights of float32, and of the same type
      const auto entries = collect(*moe);
      Arrays cast = values(entries);
      if (narrow)
        for (auto& v : cast) v = mx::astype(v, dtype);
      const Lend lend(entries, cast);
      const auto y = (*moe)(low, pass);
      EXPECT_EQ(y.dtype(), dtype);
      // A choice may turn where two scores are alike: most tokens must agree.
      const auto got = test::doubles(y);
      size_t close = 0;
      for (size_t i = 0; i < got.size(); ++i)
        close += std::abs(got[i] - want[i]) <= 8 * eps * std::max(1.0, size_of(want));
      EXPECT_GE(close, got.size() * 9 / 10);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Kinds, testing::ValuesIn(kinds()), name_of);

std::vector<std::string> families() {
  std::vector<std::string> out;
  for (const auto& f : fs::directory_iterator(fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/moe"))
    out.push_back(f.path().stem().string());
  std::sort(out.begin(), out.end());
  return out;
}
class Families : public testing::TestWithParam<std::string> {};

TEST_P(Families, EqualTransformers) {
  auto [tensors, metadata] = mx::load_safetensors(
      (fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/moe" / (GetParam() + ".safetensors"))
          .string());
  const auto ffn = from_json<config::Ffn>(Json::parse(metadata.at("moe"), GetParam()), GetParam());
  const auto& c = std::get<config::Moe>(ffn);
  config::Model model;
  model.dim = kDim, model.layers = {config::Block{.mixer = config::Nothing{}, .ffn = ffn}};
  config::validate(model, Kind::usage);
  const auto x = mx::expand_dims(tensors.at("x"), 0), y = mx::expand_dims(tensors.at("y"), 0);
  Tensors rest;
  for (const auto& [name, t] : tensors)
    if (name != "x" && name != "y") rest.emplace(name, t);
  Init init(1);
  Moe moe(c, Build{kDim, 0, 1, 0.02f, 0.02f, init});
  load(collect(moe), rest, GetParam());
  Pass pass;
  const auto want = test::doubles(y);
  // Some sixty terms a number, in float32; the references route in float32 too.
  const double bound = 128 * test::kEps * size_of(want);
  test::expect_close(moe(x, pass), want, bound, "sorted");
  for (int at = 0; at < 40; at += 5)
    test::expect_close(moe(tokens_of(x, at, at + 5), pass), test::doubles(tokens_of(y, at, at + 5)),
                       bound, "unsorted");
  test::expect_close(y, Plain(c, kDim, weights_in(collect(moe)))(test::doubles(x)).y, bound,
                     "plain loops");
}
INSTANTIATE_TEST_SUITE_P(All, Families, testing::ValuesIn(families()),
                         [](const auto& test) { return test.param; });

TEST(Grouped, AnyOrderOfIds) {
  const int n = 200, in = 24, out = 40, E = 7;
  HostRandom random(3);
  std::vector<uint32_t> ids(n);
  for (auto& id : ids) id = static_cast<uint32_t>(random.below(E - 1)) + (random.below(9) == 0);
  auto sorted = ids;
  std::sort(sorted.begin(), sorted.end());
  const auto x = test::some({n, in}, 1), w = test::some({E, out, in}, 2),
             g = test::some({n, out}, 4);
  for (const bool ordered : {false, true}) {
    const auto& who = ordered ? sorted : ids;
    const mx::array e(who.data(), {n}, mx::uint32);
    const auto loss = [&](const Arrays& v) -> Arrays {
      return {mx::sum(mx::multiply(kernels::grouped_linear(v[0], v[1], e, ordered), g))};
    };
    const auto grads = mx::value_and_grad(loss, {0, 1})({x, w}).second;
    const auto X = test::doubles(x), W = test::doubles(w), G = test::doubles(g);
    Numbers y(n * out, 0), dx(n * in, 0), dw(E * out * in, 0);
    for (size_t r = 0; r < n; ++r)
      for (size_t o = 0; o < out; ++o)
        for (size_t i = 0; i < in; ++i) {
          const size_t at = (who[r] * out + o) * in + i;
          y[r * out + o] += X[r * in + i] * W[at];
          dx[r * in + i] += G[r * out + o] * W[at];
          dw[at] += G[r * out + o] * X[r * in + i];
        }
    test::expect_close(kernels::grouped_linear(x, w, e, ordered), y, in * test::kEps, "y");
    test::expect_close(grads[0], dx, out * test::kEps, "dx");
    test::expect_close(grads[1], dw, n * test::kEps, "dw");
  }
  EXPECT_THROW(kernels::grouped_linear(x, w, mx::zeros({n}, mx::int32), false), Error);
  EXPECT_THROW(kernels::grouped_linear(x, mx::swapaxes(w, 1, 2), mx::zeros({n}, mx::uint32), false),
               Error);
}

TEST(QuantizedMoe, EqualsItsNumbers) {
  const int dim = 64;
  for (const auto floats :
       {kernels::FloatFormat::none, kernels::FloatFormat::mxfp8, kernels::FloatFormat::mxfp4}) {
    const config::Moe c{.experts = 5, .top_k = 2, .hidden = 96, .shared = 32};
    const auto packed = made(c, dim), full = made(c, dim), plain = made(c, dim);
    const auto experts = [](Moe& m) {
      return std::vector<Weight*>{&m.experts[0].gate_proj->weight, &m.experts[0].up_proj.weight,
                                  &m.experts[0].down_proj.weight};
    };
    for (size_t i = 0; i < 3; ++i) {
      auto& w = *experts(*packed)[i];
      const auto shape = w.w.value.shape();
      if (floats == kernels::FloatFormat::none)
        w.quantize(32, 8);
      else
        w.quantize(floats);
      EXPECT_EQ(w.w.value.shape(0), 5);
      EXPECT_EQ(w.w.value.ndim(), 3u);
      Weight expected{{mx::zeros(shape)}};
      floats == kernels::FloatFormat::none ? expected.expect_packed(32, 8)
                                           : expected.expect_packed(floats);
      EXPECT_EQ(expected.w.value.shape(), w.w.value.shape());
      EXPECT_EQ(expected.scales->value.shape(), w.scales->value.shape());
      const auto numbers =
          w.rows(mx::arange(shape[0] * shape[1], mx::int32), mx::float32);  // rows of all experts
      experts(*full)[i]->w.value = mx::reshape(numbers, shape);
    }
    const kernels::WithActivations exact(kernels::Activations::float32);
    Pass pass;
    for (const int tokens : {2, 40, 200}) {
      const auto x = some_tokens(tokens, dim);
      const auto want = test::doubles((*full)(x, pass)), near = test::doubles((*plain)(x, pass));
      test::expect_close((*packed)(x, pass), want, 256 * test::kEps * size_of(want), "numbers");
      const double rounding = floats == kernels::FloatFormat::none    ? 0.02
                              : floats == kernels::FloatFormat::mxfp8 ? 0.1
                                                                      : 0.4;
      test::expect_close((*packed)(x, pass), near, rounding * size_of(near), "weights");
      // The gradient by x, which adapters need.
      const auto loss = [&](Moe& m) {
        return [&m, &pass](const mx::array& v) { return mx::sum(mx::square(m(v, pass))); };
      };
      const auto g = test::doubles(mx::grad(loss(*full))(x));
      test::expect_close(mx::grad(loss(*packed))(x), g, 256 * test::kEps * size_of(g), "gradient");
    }
  }
}

TEST(Balance, BiasesEvenOutASkewedRouter) {
  const config::Moe c{.experts = 8,
                      .top_k = 2,
                      .hidden = 4,
                      .scoring = Scoring::sigmoid,
                      .selection_bias = true,
                      .normalize = 1,
                      .bias_rate = 0.01f};
  const auto moe = made(c);
  auto& bias = moe->gate.selection_bias->value;
  bias = mx::zeros({8});
  EXPECT_FALSE(moe->gate.selection_bias->trainable);
  // Two experts that everybody prefers.
  moe->gate.weight.value = mx::multiply(moe->gate.weight.value, mx::array(0.3f));
  const auto load_of = [&](uint64_t seed) {
    auto x = some_tokens(512, kDim, seed);
    x = mx::add(x, mx::reshape(mx::slice(moe->gate.weight.value, {0, 0}, {1, kDim}), {1, 1, kDim}));
    std::vector<Sums> sums;
    Pass pass;
    pass.sums = &sums;
    (*moe)(mx::multiply(x, mx::array(2.0f)), pass);
    return sums[0].arrays[0];
  };
  const auto before = load_statistics(test::floats(load_of(1)));
  for (uint64_t step = 0; step < 300; ++step) {
    bias = balanced(bias, load_of(100 + step), c.bias_rate);
    mx::eval(bias);
  }
  const auto after = load_statistics(test::floats(load_of(1)));
  RecordProperty("before", std::to_string(before.largest));
  RecordProperty("after", std::to_string(after.largest));
  EXPECT_GT(before.largest, 1.5);
  EXPECT_LT(after.largest, 1.25);
  EXPECT_GT(after.entropy, 0.99);
  EXPECT_GT(after.entropy, before.entropy);
}

TEST(Balance, Statistics) {
  const std::vector<float> even(4, 5), one{0, 0, 8, 0};
  EXPECT_DOUBLE_EQ(load_statistics(even).largest, 1);
  EXPECT_DOUBLE_EQ(load_statistics(even).entropy, 1);
  EXPECT_DOUBLE_EQ(load_statistics(one).largest, 4);
  EXPECT_DOUBLE_EQ(load_statistics(one).entropy, 0);
  EXPECT_EQ(load_statistics(std::vector<float>(3, 0)).largest, 0);
  test::expect_close(balanced(mx::zeros({3}), mx::array({1.0f, 2.0f, 3.0f}), 0.5f), {0.5, 0, -0.5},
                     0);
}

}  // namespace
}  // namespace lmxlab::core
