// Activations, norms, dropout, the FFN, and parts of a program's own.
#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/custom.h"
#include "lmxlab/core/mlp.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "tests/core/support.h"

#include <mlx/random.h>

#include <functional>

namespace lmxlab::core {
namespace {

using config::Act;

double reference(Act act, double x) {
  switch (act) {
    case Act::silu: return x / (1 + std::exp(-x));
    case Act::gelu: return x * (1 + std::erf(x / std::sqrt(2.0))) / 2;
    case Act::gelu_tanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Act::relu: return std::max(x, 0.0);
    case Act::relu2: return std::max(x, 0.0) * std::max(x, 0.0);
    case Act::xielu: break;  // it has weights: checked by a checkpoint
  }
  return NAN;
}

class Activation : public testing::TestWithParam<Act> {};

TEST_P(Activation, EqualsItsFormula) {
  std::vector<float> points;
  for (double x = -20; x <= 20; x += 0.03125)
    points.push_back(static_cast<float>(x));  // exact in float32
  const mx::array x(points.data(), {static_cast<int>(points.size())}, mx::float32);
  std::vector<double> want;
  double largest = 0;
  for (const float p : points)
    want.push_back(reference(GetParam(), p)), largest = std::max(largest, want.back());
  const auto y = activate(GetParam(), x);
  // 1 + erf and 1 + tanh are rounded near 0 and 2; what multiplies them is |x| <= 20.
  test::expect_close(y, want, 2 * test::kEps * largest);
  for (const auto dtype : {mx::float16, mx::bfloat16}) {
    const double eps = dtype == mx::float16 ? 9.8e-4 : 7.8e-3;
    const auto low = mx::astype(x, dtype);
    const auto rounded = test::doubles(low);
    std::vector<double> w;
    for (const double v : rounded) w.push_back(reference(GetParam(), v));
    const auto z = activate(GetParam(), low);
    EXPECT_EQ(z.dtype(), dtype);
    test::expect_close(z, w, 2 * eps * largest);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Activation,
                         testing::Values(Act::silu, Act::gelu, Act::gelu_tanh, Act::relu,
                                         Act::relu2),
                         [](const auto& test) { return std::string(enum_name(test.param)); });

TEST(Mlp, GatedAndPlain) {
  for (const bool gated : {false, true}) {
    Init init(1);
    Mlp mlp({.hidden = 12, .act = Act::silu, .gated = gated, .bias = true},
            Build{6, 0, 1, 0.5f, 0.5f, init});
    for (const auto& e : collect(mlp))
      e.param->value =
          mx::add(e.param->value, test::some(e.param->value.shape(), e.path.size(), 0.2));
    const auto x = test::some({2, 3, 6}, 2);
    const auto X = test::doubles(x);
    const auto linear = [](const Linear& l, const std::vector<double>& in) {
      const auto W = test::doubles(l.weight.w.value), b = test::doubles(l.bias->value);
      const size_t n = b.size(), m = W.size() / n;
      std::vector<double> out;
      for (size_t row = 0; row < in.size() / m; ++row)
        for (size_t o = 0; o < n; ++o) {
          double sum = b[o];
          for (size_t i = 0; i < m; ++i) sum += W[o * m + i] * in[row * m + i];
          out.push_back(sum);
        }
      return out;
    };
    auto inner = linear(mlp.up_proj, X);
    if (gated) {
      const auto gate = linear(*mlp.gate_proj, X);
      for (size_t i = 0; i < inner.size(); ++i) inner[i] *= reference(Act::silu, gate[i]);
    } else {
      for (auto& v : inner) v = reference(Act::silu, v);
    }
    Pass pass;
    // Sums of 12 terms behind sums of 6, all of order one.
    test::expect_close(mlp(x, pass), linear(mlp.down_proj, inner), 4 * test::kEps * 12 * 6);
  }
}

TEST(Norms, EqualTheirFormulas) {
  const int D = 24;
  const auto x = mx::add(test::some({3, 5, D}, 1, 2), mx::array(0.5f));
  const auto X = test::doubles(x);
  const config::Norm norms[] = {
      config::RmsNorm{.eps = 1e-2f}, config::RmsNorm{.eps = 1e-6f, .weight_offset = 1},
      config::LayerNorm{.eps = 1e-2f}, config::LayerNorm{.eps = 1e-5f, .bias = false}};
  for (const auto& c : norms) {
    Norm norm(c, D);
    const auto entries = collect(norm);
    const auto* layer = std::get_if<config::LayerNorm>(&c);
    const auto* rms = std::get_if<config::RmsNorm>(&c);
    ASSERT_EQ(entries.size(), layer && layer->bias ? 2u : 1u);
    // New, a norm's factor is one whatever is stored.
    test::expect_close(entries[0].param->value,
                       std::vector<double>(D, rms ? 1 - rms->weight_offset : 1), 0);
    for (size_t i = 0; i < entries.size(); ++i) entries[i].param->value = test::some({D}, 5 + i);
    const auto w = test::doubles(entries[0].param->value);
    const auto b =
        entries.size() > 1 ? test::doubles(entries[1].param->value) : std::vector<double>(D, 0);
    std::vector<double> want;
    for (size_t row = 0; row < X.size(); row += D) {
      double mean = 0, square = 0;
      for (size_t i = 0; i < D; ++i) mean += layer ? X[row + i] / D : 0;
      for (size_t i = 0; i < D; ++i) square += (X[row + i] - mean) * (X[row + i] - mean) / D;
      const double eps = static_cast<double>(layer ? layer->eps : rms->eps);
      for (size_t i = 0; i < D; ++i)
        want.push_back((X[row + i] - mean) / std::sqrt(square + eps) *
                           (w[i] + (rms ? static_cast<double>(rms->weight_offset) : 0)) +
                       b[i]);
    }
    test::expect_close(norm(x), want,
                       16 * test::kEps * 4);  // normed values are below 4, factors below 2
    for (const auto dtype : {mx::float16, mx::bfloat16}) {
      const auto y = norm(mx::astype(x, dtype));
      EXPECT_EQ(y.dtype(), dtype);
      test::expect_close(y, want, 4 * 4 * (dtype == mx::float16 ? 9.8e-4 : 7.8e-3));
    }
  }
}

TEST(Dropout, KeepsTheShareAndTheMean) {
  const int n = 200'000;
  for (const float p : {0.1f, 0.5f}) {
    Pass pass;
    pass.dropout = p;
    pass.key = mx::random::key(3);
    EXPECT_TRUE(pass.training());
    const auto first = test::floats(pass.drop(mx::ones({n}))),
               second = test::floats(pass.drop(mx::ones({n})));
    EXPECT_NE(first, second);
    const float scale = 1 / (1 - p);
    int zeros = 0, both = 0;
    for (size_t i = 0; i < first.size(); ++i) {
      // The probability is a multiple of 2^-16, and the scale belongs to that one.
      ASSERT_TRUE(first[i] == 0 || std::abs(first[i] - scale) <= scale * scale / 65536) << first[i];
      zeros += first[i] == 0, both += first[i] == 0 && second[i] == 0;
    }
    // Five standard deviations of a binomial.
    const auto deviations = [&](double share) { return 5 * std::sqrt(share * (1 - share) / n); };
    const double q = static_cast<double>(p);
    EXPECT_NEAR(static_cast<double>(zeros) / n, q, deviations(q));
    EXPECT_NEAR(static_cast<double>(both) / n, q * q, deviations(q * q))
        << "two masks depend on each other";
    Pass again;
    again.dropout = p;
    again.key = mx::random::key(3);
    EXPECT_EQ(test::floats(again.drop(mx::ones({n}))), first);
    EXPECT_EQ(again.drop(mx::ones({4}, mx::bfloat16)).dtype(), mx::bfloat16);
  }
}

TEST(Dropout, IsTheIdentityWhenItHasNothingToDo) {
  const auto x = test::some({50}, 1);
  Pass generating;
  generating.dropout = 0.5f;
  EXPECT_FALSE(generating.training());
  EXPECT_EQ(generating.drop(x).id(), x.id());
  Pass zero;
  zero.key = mx::random::key(1);
  EXPECT_EQ(zero.drop(x).id(), x.id());
}

// x_t -> sum over s <= t of decay^(t - s) x_s, times a learned vector.
class Decay : public Mixer {
 public:
  Decay(const Json& values, const Build& build)
      : decay_(static_cast<float>(values.at("decay").as_number())), gain{ones({build.dim})} {}
  mx::array operator()(const mx::array& x, Pass&) const override {
    const int L = x.shape(1);
    const auto distance =
        mx::subtract(mx::expand_dims(mx::arange(L), 1), mx::expand_dims(mx::arange(L), 0));
    const auto power =
        mx::power(mx::array(decay_), mx::astype(mx::maximum(distance, mx::array(0)), mx::float32));
    const auto weights =
        mx::where(mx::greater_equal(distance, mx::array(0)), power, mx::array(0.0f));
    return mx::multiply(mx::matmul(mx::astype(weights, x.dtype()), x),
                        mx::astype(gain.value, x.dtype()));
  }
  void visit(Visitor& v) override { v("gain", gain); }

 private:
  float decay_;

 public:
  Param gain;
};

class Scale : public Ffn {
 public:
  explicit Scale(const Build& build) : gain{mx::full({build.dim}, 0.5f)} {}
  mx::array operator()(const mx::array& x, Pass&) const override {
    return mx::multiply(x, gain.value);
  }
  void visit(Visitor& v) override { v("gain", gain); }
  Param gain;
};

class Bend : public CustomNorm {
 public:
  explicit Bend(int dim) : weight{ones({dim})} {}
  mx::array operator()(const mx::array& x) const override {
    return mx::multiply(mx::tanh(x), weight.value);
  }
  void visit(Visitor& v) override { v("weight", weight); }
  Param weight;
};

void register_all() {
  static const bool once = [] {
    register_mixer("test_decay", [](const Json& values, const Build& b) {
      return std::make_unique<Decay>(values, b);
    });
    register_ffn("test_scale",
                 [](const Json&, const Build& b) { return std::make_unique<Scale>(b); });
    register_norm("test_bend", [](const Json&, int dim) { return std::make_unique<Bend>(dim); });
    return true;
  }();
  ASSERT_TRUE(once);
}

config::Custom named(const std::string& name, Json values = Json::object()) {
  return {name, std::move(values)};
}

TEST(CustomParts, AreUsedFromAConfig) {
  register_all();
  auto c = config::preset(
      "llama-tiny", {.depth = 1, .dim = 8, .heads = 2, .kv_heads = 2, .hidden = 8, .vocab = 11});
  c.layers[0].mixer = named("test_decay", Json::object({{"decay", 0.5}}));
  c.layers[0].ffn = named("test_scale");
  c.layers[0].norm = named("test_bend");
  c.final_norm = named("test_bend");
  c.tie_head = true;
  LanguageModel model(c, 4);
  const Enter enter(model.runtime());
  std::vector<std::string> paths;
  for (const auto& e : collect(model.transformer())) paths.push_back(e.path);
  EXPECT_EQ(paths, (std::vector<std::string>{
                       "model.embed_tokens.weight", "model.layers.0.self_attn.gain",
                       "model.layers.0.mlp.gain", "model.layers.0.input_layernorm.weight",
                       "model.layers.0.post_attention_layernorm.weight", "model.norm.weight"}));
  EXPECT_EQ(config::count(c).total, model.parameter_count());
  EXPECT_EQ(model.parameter_count(), 11 * 8 + 5 * 8);

  // The whole model by hand.
  const std::vector<int32_t> ids{3, 7, 7, 0};
  const auto table = test::doubles(collect(model.transformer())[0].param->value);
  std::vector<std::vector<double>> h;
  for (size_t t = 0; t < ids.size(); ++t) {
    std::vector<double> mixed(8, 0), out(8);
    for (size_t s = 0; s <= t; ++s)
      for (size_t d = 0; d < 8; ++d)
        mixed[d] += std::pow(0.5, static_cast<double>(t - s)) *
                    std::tanh(table[static_cast<size_t>(ids[s]) * 8 + d]);
    for (size_t d = 0; d < 8; ++d) {
      const double a = table[static_cast<size_t>(ids[t]) * 8 + d] + mixed[d];
      out[d] = std::tanh(a + 0.5 * std::tanh(a));
    }
    h.push_back(out);
  }
  std::vector<double> want;
  for (const auto& row : h)
    for (size_t v = 0; v < 11; ++v) {
      double sum = 0;
      for (size_t d = 0; d < 8; ++d) sum += row[d] * table[v * 8 + d];
      want.push_back(sum);
    }
  test::expect_close(model.forward(mx::array(ids.data(), {4}, mx::int32)), want, 64 * test::kEps);
}

Kind kind_of(const std::function<void()>& f, const std::string& part) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    return e.kind();
  }
  ADD_FAILURE() << "nothing was thrown";
  return Kind::internal;
}

TEST(CustomParts, AnUnknownNameIsAnError) {
  register_all();
  Init init(0);
  const Build build{8, 0, 1, 1, 1, init};
  EXPECT_EQ(kind_of([&] { make_custom_mixer(named("test_decai"), build); }, "test_decay"),
            Kind::not_found);
  EXPECT_EQ(kind_of([&] { make_custom_ffn(named("test_scalf"), build); }, "test_scale"),
            Kind::not_found);
  EXPECT_EQ(kind_of([&] { make_custom_norm(named("test_bind"), 8); }, "test_bend"),
            Kind::not_found);
  auto c = config::preset("llama-tiny");
  c.layers[0].mixer = named("test_decai");
  kind_of([&] { LanguageModel model(c); }, "test_decai");
}

TEST(CustomParts, ANameIsTakenOnce) {
  register_all();
  const auto again = [] {
    register_norm("test_bend", [](const Json&, int dim) { return std::make_unique<Bend>(dim); });
  };
  EXPECT_EQ(kind_of(again, "test_bend"), Kind::usage);
}

TEST(CustomParts, AFactorysFaultNamesThePart) {
  register_all();
  Init init(0);
  EXPECT_EQ(kind_of(
                [&] {
                  make_custom_mixer(named("test_decay"), Build{8, 0, 1, 1, 1, init});
                },
                "test_decay"),
            Kind::bad_data);
}

}  // namespace
}  // namespace lmxlab::core
