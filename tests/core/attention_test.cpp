// Attention in three ways: a loop in double, the plain form, MLX's fused one.
#include "lmxlab/kernels/attention.h"
#include "lmxlab/core/attention.h"

#include "lmxlab/core/position.h"
#include "tests/core/support.h"

#include <mlx/fast.h>

namespace lmxlab::core {
namespace {

struct Case {
  std::string name;
  int heads, kv_heads;
  int offset = 0;  // queries stand at offset ... offset + 4, keys from 0 on
  std::optional<int> window = {};
  std::optional<float> softcap = {};
  bool padded = false, biased = false;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

constexpr int kBatch = 2, kLength = 5, kDim = 8, kValueDim = 8;
const int32_t kPads[] = {0, 2};

class Attend : public testing::TestWithParam<Case> {
 protected:
  const Case& c = GetParam();
  const int S = c.offset + kLength;
  const float scale = 0.4f;
  const mx::array q = test::some({kBatch, c.heads, kLength, kDim}, 1, 3);
  const Keys keys{test::some({kBatch, c.kv_heads, S, kDim}, 2, 3),
                  test::some({kBatch, c.kv_heads, S, kValueDim}, 3)};
  const mx::array bias = test::some({c.heads, kLength, S}, 4, 2);

  Pass pass() const {
    Pass p;
    p.offset = c.offset;
    if (c.padded) p.pads = mx::array(kPads, {kBatch}, mx::int32);
    return p;
  }
  // Rows of padding may look nowhere, and are nobody's concern.
  bool is_padding(int b, int l) const { return c.padded && c.offset + l < kPads[b]; }

  std::vector<double> naive() const {
    const auto Q = test::doubles(q), K = test::doubles(keys.k), V = test::doubles(keys.v),
               X = test::doubles(bias);
    std::vector<double> out;
    for (int b = 0; b < kBatch; ++b)
      for (int h = 0; h < c.heads; ++h)
        for (int l = 0; l < kLength; ++l) {
          const int kv = b * c.kv_heads + h / (c.heads / c.kv_heads), position = c.offset + l;
          std::vector<double> sum(kValueDim, 0);
          double total = 0;
          for (int s = 0; s < S; ++s) {
            if (s > position || (c.window && position - s >= *c.window) ||
                (c.padded && s < kPads[b]))
              continue;
            double score = 0;
            for (int d = 0; d < kDim; ++d)
              score += Q[static_cast<size_t>(((b * c.heads + h) * kLength + l) * kDim + d)] *
                       K[static_cast<size_t>((kv * S + s) * kDim + d)];
            score *= static_cast<double>(scale);
            if (c.softcap) score = *c.softcap * std::tanh(score / *c.softcap);
            if (c.biased) score += X[static_cast<size_t>((h * kLength + l) * S + s)];
            total += std::exp(score);
            for (int d = 0; d < kValueDim; ++d)
              sum[static_cast<size_t>(d)] +=
                  std::exp(score) * V[static_cast<size_t>((kv * S + s) * kValueDim + d)];
          }
          for (const double v : sum) out.push_back(is_padding(b, l) ? 0 : v / total);
        }
    return out;
  }
  mx::array without_padding(const mx::array& y) const {
    std::vector<float> keep;
    for (int b = 0; b < kBatch; ++b)
      for (int l = 0; l < kLength; ++l) keep.push_back(is_padding(b, l) ? 0.0f : 1.0f);
    EXPECT_TRUE(mx::all(mx::isfinite(y)).item<bool>());
    return mx::multiply(y, mx::array(keep.data(), {kBatch, 1, kLength, 1}, mx::float32));
  }
  // Scores of Dh terms up to 9 scale; an error of a score is that of its weight, relatively.
  double bound() const { return 8 * test::kEps * kDim * 9 * static_cast<double>(scale); }
};

TEST_P(Attend, PlainEqualsALoop) {
  const auto p = pass();
  const auto y = plain_attention(q, keys, scale, mask_array(p, kLength, keys, c.window), c.softcap,
                                 c.biased ? std::optional(bias) : std::nullopt);
  test::expect_close(without_padding(y), naive(), bound());
  const auto half = [](const mx::array& a) { return mx::astype(a, mx::bfloat16); };
  EXPECT_EQ(plain_attention(half(q), {half(keys.k), half(keys.v)}, scale, {}, {}, {}).dtype(),
            mx::bfloat16);
}

TEST_P(Attend, FusedEqualsALoop) {
  const auto p = pass();
  if (c.biased) {  // what the fused form cannot do must not be what it does
    const auto fused = mx::fast::scaled_dot_product_attention(q, keys.k, keys.v, scale, "causal");
    const auto f = test::doubles(fused), n = naive();
    double off = 0;
    for (size_t i = 0; i < f.size(); ++i) off = std::max(off, std::abs(f[i] - n[i]));
    EXPECT_GT(off, 100 * bound());
    return;
  }
  const auto mask = attention_mask(p, kLength, keys, c.window);
  ASSERT_FALSE(mask.allowed);
  const auto y = kernels::attention(q, keys.k, keys.v, scale,
                                    {.causal = mask.kind == Mask::Kind::causal,
                                     .window = mask.window,
                                     .softcap = c.softcap.value_or(0),
                                     .padding = mask.padding});
  test::expect_close(without_padding(y), naive(), bound());
}

INSTANTIATE_TEST_SUITE_P(
    All, Attend,
    testing::Values(Case{"mha", 4, 4}, Case{"gqa", 6, 2}, Case{"mqa", 4, 1}, Case{"one_head", 1, 1},
                    Case{"offset", 4, 2, 7}, Case{"window", 4, 2, 0, 3},
                    Case{"window_of_one", 4, 2, 3, 1}, Case{"window_offset", 4, 2, 7, 4},
                    Case{"padded", 4, 2, 0, {}, {}, true},
                    Case{"padded_window", 4, 2, 3, 4, {}, true}, Case{"softcap", 4, 2, 3, {}, 1.5f},
                    Case{"softcap_window", 6, 2, 3, 4, 2.0f},
                    Case{"bias", 6, 3, 3, {}, {}, false, true},
                    Case{"all_at_once", 6, 2, 3, 4, 2.0f, true, true}),
    [](const auto& test) { return test.param.name; });

TEST(PlainAttention, HeadsMustBeAMultiple) {
  const Keys keys{mx::zeros({1, 2, 4, 8}), mx::zeros({1, 2, 4, 8})};
  EXPECT_THROW(plain_attention(mx::zeros({1, 3, 4, 8}), keys, 1, {}, {}, {}), Error);
}

TEST(PlainAttention, ARowThatSeesNothingGivesTheMean) {
  const Keys keys{test::some({1, 1, 4, 8}, 1), test::some({1, 1, 4, 8}, 2)};
  const auto y =
      plain_attention(test::some({1, 1, 1, 8}, 3), keys, 1, mx::zeros({1, 4}, mx::bool_), {}, {});
  test::expect_close(y, test::doubles(mx::mean(keys.v, 2)), 8 * test::kEps);
}

// The layer: projections, norms of heads, rotation, scale, window and cap, step by step through
// other functions.
TEST(AttentionLayer, PutsItsPartsTogether) {
  config::Attention c;
  c.heads = 4, c.kv_heads = 2, c.head_dim = 6;
  c.qkv_bias = c.out_bias = true;
  c.qk_norm = config::RmsNorm{};
  c.window = 3, c.softcap = 0.8f, c.scale = 0.7f;
  c.position = config::Rope{.theta = 100};
  Init init(5);
  Attention layer(c, Build{10, 0, 1, 0.5f, 0.5f, init});
  for (const auto& e : collect(layer))
    e.param->value = mx::add(
        e.param->value, test::some(e.param->value.shape(), std::hash<std::string>{}(e.path), 0.3));
  const auto x = test::some({2, 7, 10}, 9);
  Pass pass;
  const auto heads = [](const mx::array& a, int n) {
    return mx::transpose(mx::reshape(a, {2, 7, n, 6}), {0, 2, 1, 3});
  };
  const auto linear = [&](const Linear& l) {
    return mx::add(mx::matmul(x, mx::transpose(l.weight.w.value)), l.bias->value);
  };
  double q_weight_seen = 0;
  const auto normed = [&](const mx::array& a, HeadNorm& norm) {
    const auto w = collect(norm)[0].param->value;
    q_weight_seen += static_cast<double>(mx::sum(w).item<float>());
    const auto mean = mx::mean(mx::square(a), -1, true);
    return mx::multiply(mx::divide(a, mx::sqrt(mx::add(mean, mx::array(1e-5f)))), w);
  };
  const Rotation turning(std::get<config::Rope>(c.position), 6);
  const auto q = rotate(turning, normed(heads(linear(layer.q_proj), 4), *layer.q_norm), pass);
  const auto k = rotate(turning, normed(heads(linear(*layer.k_proj), 2), *layer.k_norm), pass);
  const Keys keys{k, heads(linear(*layer.v_proj), 2)};
  const auto mixed = plain_attention(q, keys, 0.7f, mask_array(pass, 7, keys, 3), 0.8f, {});
  const auto joined = mx::reshape(mx::transpose(mixed, {0, 2, 1, 3}), {2, 7, 24});
  const auto want = mx::add(mx::matmul(joined, mx::transpose(layer.o_proj.weight.w.value)),
                            layer.o_proj.bias->value);
  // Sums of 24 terms, behind sums of 10; weights up to about 2.
  test::expect_close(layer(x, pass), test::doubles(want), 64 * test::kEps * 24);
  EXPECT_NE(q_weight_seen, 12.0);

  // The default scale is 1 / sqrt(head_dim).
  auto plain = c;
  plain.scale.reset();
  Init a(5), b(5);
  Attention without(plain, Build{10, 0, 1, 0.5f, 0.5f, a});
  plain.scale = 1 / std::sqrt(6.0f);
  Attention with(plain, Build{10, 0, 1, 0.5f, 0.5f, b});
  test::expect_close(without(x, pass), test::doubles(with(x, pass)), 0);
}

}  // namespace
}  // namespace lmxlab::core
