#include "lmxlab/config/count.h"
#include "lmxlab/config/describe.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/config/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace lmxlab;
using namespace lmxlab::config;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

namespace {

Model with(const Mixer& mixer) {
  Model m = preset("llama-tiny", {.depth = 2});
  m.layers[0].mixer = mixer;
  return m;
}

const std::vector<Mixer> kMixers{
    Mamba2{.heads = 4, .head_dim = 8, .groups = 2, .state = 6, .dt_min = 0.001f, .dt_max = 0.5f},
    GatedDelta{.heads = 4, .key_heads = 2, .key_dim = 8, .value_dim = 16},
    ShortConv{.bias = true},
    KimiDelta{.heads = 2, .head_dim = 8, .lower_bound = -5.0f},
    Mamba{.inner = 32, .norms = MambaNorms::learned},
    Lightning{.heads = 4, .head_dim = 8}};

TEST(Recurrent, IsWrittenReadAndDescribed) {
  for (const auto& mixer : kMixers) {
    const Model m = with(mixer);
    const std::string kind = std::visit([](const auto& x) { return std::string(x.kind); }, mixer);
    EXPECT_THAT(check(m).list(), IsEmpty()) << kind;
    EXPECT_TRUE(from_json<Model>(to_json(m), "model") == m) << kind;
    const auto text = describe(m);
    EXPECT_THAT(text, HasSubstr("of states")) << kind;
    EXPECT_THAT(text, HasSubstr(kind == "short_conv" ? "convolution of 3" : kind.substr(0, 4)));
  }
}

TEST(Recurrent, StatesTakeTheSameBytesAtEveryLength) {
  const int64_t dim = with(ShortConv{}).dim;
  const std::vector<int64_t> states{4 * 6 * 8, 4 * 8 * 16, 0, 2 * 8 * 8, 32 * 16, 4 * 8 * 8};
  const std::vector<int64_t> windows{3 * (32 + 24), 3 * (32 + 64), 2 * dim, 3 * 48, 3 * 32, 0};
  for (size_t i = 0; i < kMixers.size(); ++i) {
    Model m = with(kMixers[i]);
    EXPECT_EQ(state_bytes(m, 2), 4 * states[i] + 2 * windows[i]) << i;
    const int64_t keys = kv_bytes_per_token(m, 2);
    EXPECT_EQ(kv_bytes(m, 100, 2), state_bytes(m, 2) + 100 * keys) << i;
    m.layers = {m.layers[0]};
    EXPECT_EQ(kv_bytes_per_token(m, 2), 0) << i;
    EXPECT_DOUBLE_EQ(flops_per_token(m, 10), flops_per_token(m, 100'000)) << i;
    const double products = i == 1 || i == 3 ? 3 : 2;
    Model none = m;
    none.layers[0].mixer = Nothing{};
    EXPECT_DOUBLE_EQ(flops_per_token(m, 10) - flops_per_token(none, 10),
                     2 * double(count(m).mixer) + 2 * products * double(states[i]))
        << i;
  }
}

TEST(Recurrent, ContradictionsAreSaid) {
  EXPECT_THAT(
      check(with(Mamba2{.heads = 4, .groups = 3, .conv = 1, .dt_min = 1, .dt_max = 0.5f})).list(),
      ElementsAre("layers.0.mixer.groups: 4 heads are no multiple of 3 groups",
                  "layers.0.mixer.conv: expected at least 2 positions, got 1",
                  HasSubstr("layers.0.mixer.dt_max: expected more than dt_min")));
  EXPECT_THAT(check(with(GatedDelta{.heads = 4, .key_heads = 3})).list(),
              ElementsAre("layers.0.mixer.key_heads: 4 heads are no multiple of 3 key heads"));
  EXPECT_THAT(check(with(KimiDelta{.lower_bound = 1.0f})).list(),
              ElementsAre(HasSubstr("layers.0.mixer.lower_bound: expected a number below 0")));
  EXPECT_THAT(check(with(Mamba{.inner = 0, .norm_eps = -1})).list(),
              Contains("layers.0.mixer.inner: expected at least 1, got 0"));
  EXPECT_THAT(check(with(Lightning{.heads = 1 << 20, .head_dim = 1 << 20})).list(),
              ElementsAre(HasSubstr("more than an array's dimension can be")));
  EXPECT_THROW(count(with(Lightning{.heads = 1 << 20, .head_dim = 1 << 20})), Error);
  EXPECT_THROW(count(with(Mamba2{.groups = 1 << 30, .state = 1 << 30})), Error);
}

}  // namespace
