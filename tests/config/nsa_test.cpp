#include "lmxlab/config/nsa.h"

#include "lmxlab/config/count.h"
#include "lmxlab/config/describe.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/config/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace lmxlab;
using namespace lmxlab::config;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

namespace {

Model model() {
  Model m{.dim = 48, .vocab = 61};
  Block b;
  b.mixer = Nsa{.heads = 8, .kv_heads = 2, .head_dim = 16};
  b.ffn = Mlp{.hidden = 96};
  m.layers = {b, b};
  return m;
}
Nsa& mixer(Model& m) {
  return std::get<Nsa>(m.layers[0].mixer);
}

TEST(SparseAttention, IsWrittenAndReadAndDescribed) {
  Model m = model();
  mixer(m).position = NoPosition{}, mixer(m).scale = 0.25f;
  EXPECT_EQ(from_hf(to_hf(m)).model, m);
  EXPECT_THAT(describe(m), AllOf(HasSubstr("sparse attention 8 x 16"), HasSubstr("2 kv heads"),
                                 HasSubstr("16 blocks of 64 selected"), HasSubstr("window 512")));
  EXPECT_EQ(layer_pattern(m).letters, "NN");
}

TEST(SparseAttention, WhatContradictsItself) {
  Model m = model();
  mixer(m).kv_heads = 3, mixer(m).position = Alibi{}, mixer(m).stride = 24, mixer(m).selected = 2;
  mixer(m).window = 0, mixer(m).hidden = 0, mixer(m).first = -1;
  EXPECT_THAT(
      check(m).list(),
      ElementsAre(StartsWith("layers.0.mixer.kv_heads:"), StartsWith("layers.0.mixer.position:"),
                  StartsWith("layers.0.mixer.hidden:"), StartsWith("layers.0.mixer.window:"),
                  StartsWith("layers.0.mixer.stride:"), StartsWith("layers.0.mixer.stride:"),
                  StartsWith("layers.0.mixer.first:")));
  m = model();
  mixer(m).selected = 2, mixer(m).block = 128;
  EXPECT_THAT(check(m).list(), ElementsAre(StartsWith("layers.0.mixer.block:"),
                                           StartsWith("layers.0.mixer.selected:")));
}

TEST(SparseAttention, ArithmeticIsThatOfWhatQueriesMeet) {
  const Model m = model();
  const auto& s = std::get<Nsa>(m.layers[0].mixer);
  const auto only = [&](int64_t length) {  // of the mixers
    Model none = m;
    for (auto& b : none.layers) b.mixer = Nothing{};
    return (flops_per_token(m, length) - flops_per_token(none, length)) / 2;
  };
  for (const int length : {1, 31, 32, 47, 48, 700, 3000}) {
    double met = 0;
    int blocks = 0;
    for (int t = 0; t < length; ++t) {
      while (blocks * s.stride + s.block - 1 <= t) ++blocks;
      met += blocks + std::min(t + 1, s.selected * s.selected_block) + std::min(t + 1, s.window);
    }
    const double projections = 2.0 * 48 * (2 * 128 + 6 * 32 + 3 * 8);
    const double made = 2.0 * 2 * blocks * 2 * (32 * 16 * 128 + 128 * 16);
    EXPECT_NEAR(only(length) * length, projections * length + made + 4.0 * 128 * met,
                1e-6 * only(length) * length)
        << length;
  }
}

TEST(SparseAttention, BytesOfItsCache) {
  const Model m = model();
  const auto of = [&](int64_t positions, int64_t latest, int64_t blocks) {
    return 2 * 2 * (2 * positions + latest + blocks) * 2 * 16 * 2;
  };
  EXPECT_EQ(kv_bytes(m, 31, 2), of(31, 31, 0));
  EXPECT_EQ(kv_bytes(m, 48, 2), of(48, 48, 2));
  EXPECT_EQ(kv_bytes(m, 2000, 2), of(2000, 512, 124));
  EXPECT_EQ(kv_bytes_per_token(m, 2), of(1, 1, 0));
}

}  // namespace
