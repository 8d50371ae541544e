// Recurrent mixers against those of `transformers`, or the equations of papers
// (tools/make_mixer_fixtures.py), in one pass, in pieces through the cache, and behind padding; and
// their cache by itself.
#include "lmxlab/core/recurrent.h"

#include "lmxlab/config/count.h"
#include "lmxlab/config/validate.h"
#include "lmxlab/core/block.h"
#include "lmxlab/core/mamba3.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/safetensors.h"
#include "tests/core/mixer_cache.h"
#include "tests/core/support.h"

#include <filesystem>

namespace lmxlab::core {
namespace {

using test::doubles;
using test::positions;
using test::some;

std::vector<std::string> fixtures() {
  std::vector<std::string> out;
  for (const auto& file :
       std::filesystem::directory_iterator(LMXLAB_SOURCE_DIR "/tests/fixtures/mixers"))
    out.push_back(file.path().stem().string());
  std::sort(out.begin(), out.end());
  return out;
}

class Golden : public testing::TestWithParam<std::string> {
 protected:
  Golden()
      : file(LMXLAB_SOURCE_DIR "/tests/fixtures/mixers/" + GetParam() + ".safetensors"),
        x(file.get("x")),
        y(file.get("y")),
        mixer(built()) {}

  std::unique_ptr<Mixer> built() {
    Problems problems;
    from_json(Json::parse(file.metadata().at("mixer")), config, "mixer", problems);
    problems.raise(Kind::bad_data, GetParam());
    Init init(1);
    auto out = make_mixer(
        config, {x.shape(2), std::stoi(file.metadata().at("layer")), 3, 0.02f, 0.01f, init});
    auto tensors = file.all();
    tensors.erase("x"), tensors.erase("y");
    load(collect(*out), tensors, GetParam());
    return out;
  }
  Cache cache() const {
    std::vector<std::unique_ptr<LayerCache>> layers;
    layers.push_back(mixer->make_cache({}));
    return Cache(std::move(layers));
  }
  mx::array run(Cache& c, const mx::array& piece) const {
    Pass pass{.offset = c.length(), .cache = &c, .pads = c.pads};
    auto out = (*mixer)(piece, pass);
    c.advance(piece.shape(1));
    auto all = c.arrays();
    all.push_back(out);
    mx::eval(all);
    return out;
  }
  // Both sides sum in float32, over a chunk and the width, in orders of their own.
  double bound() const {
    return 16 * test::kEps * std::sqrt(double(y.shape(1) + y.shape(2))) *
           double(mx::max(mx::abs(y)).item<float>());
  }
  void expect(const mx::array& got, const mx::array& want, const std::string& what) const {
    test::expect_close(got, doubles(want), bound(), what);
    worst = std::max(worst, double(mx::max(mx::abs(mx::subtract(got, want))).item<float>()));
  }
  ~Golden() override {
    RecordProperty("worst", std::to_string(worst) + " of " + std::to_string(bound()));
  }

  config::Mixer config;
  io::SafeTensors file;
  mx::array x, y;
  std::unique_ptr<Mixer> mixer;
  mutable double worst = 0;
};

TEST_P(Golden, OnePass) {
  Pass pass;
  expect((*mixer)(x, pass), y, "one pass");
  std::cout << "worst " << worst << " of " << bound() << "\n";
}

TEST_P(Golden, PiecesThroughTheCache) {
  const int L = x.shape(1);
  for (const std::vector<int>& sizes :
       {std::vector{1}, {5}, {2, 64}, {64}, {3, 1, 1, 7, 33, 2}, {66}}) {
    auto c = cache();
    std::vector<mx::array> parts;
    for (int at = 0, i = 0; at < L; ++i) {
      const int n = std::min(sizes[static_cast<size_t>(i) % sizes.size()], L - at);
      parts.push_back(run(c, positions(x, at, at + n))), at += n;
    }
    expect(mx::concatenate(parts, 1), y, "pieces from " + std::to_string(sizes[0]));
  }
  std::cout << "worst " << worst << " of " << bound() << "\n";
}

TEST_P(Golden, PaddingChangesNothing) {
  const int L = x.shape(1), most = 40;
  std::vector<mx::array> rows;
  const std::vector<int> pads{0, 3, most};
  for (const int n : pads) {  // what stands in the padding is large
    const auto padding = some({1, n, x.shape(2)}, 5, 100);
    const auto more = some({1, most - n, x.shape(2)}, 6);
    rows.push_back(mx::concatenate({padding, x, more}, 1));
  }
  const auto batch = mx::concatenate(rows, 0);
  const mx::array padding(pads.data(), {3}, mx::int32);
  const auto check = [&](const mx::array& got, const std::string& what) {
    for (int i = 0; i < 3; ++i) {
      const auto row = mx::slice(got, {i, 0, 0}, {i + 1, got.shape(1), got.shape(2)});
      const int from = pads[static_cast<size_t>(i)];
      expect(positions(row, from, from + L), y, what + ", row " + std::to_string(i));
    }
  };
  Pass pass{.pads = padding};
  check((*mixer)(batch, pass), "one pass");
  for (const int size : {1, 6, 41, 70}) {
    auto c = cache();
    c.pads = padding;
    std::vector<mx::array> parts;
    for (int at = 0; at < L + most; at += size)
      parts.push_back(run(c, positions(batch, at, std::min(at + size, L + most))));
    check(mx::concatenate(parts, 1), "pieces of " + std::to_string(size));
  }
}

TEST_P(Golden, TheCacheGoesBackToAMark) {
  auto c = cache();
  run(c, positions(x, 0, 20));
  c.mark();
  const auto copy = c;
  run(c, positions(x, 40, 47));
  EXPECT_EQ(c.trimmable(), 0);
  EXPECT_FALSE(c.can_trim(6));
  EXPECT_THROW(c.trim(6), Error);
  EXPECT_EQ(c.length(), 27);
  c.trim(7);
  EXPECT_EQ(c.length(), 20);
  expect(run(c, positions(x, 20, 30)), positions(y, 20, 30), "after it");
  c.trim(10);
  c.reorder(mx::array({0, 0}, mx::int32));
  EXPECT_EQ(c.rows(), 2);
  const auto both = run(c, mx::repeat(positions(x, 20, 67), 2, 0));
  expect(both, mx::repeat(positions(y, 20, 67), 2, 0), "two rows");
  c.trim(47);
  EXPECT_EQ(c.rows(), 2);
  auto again = copy;
  expect(run(again, positions(x, 20, 67)), positions(y, 20, 67), "a copy");
}

TEST_P(Golden, TheCacheIsRestored) {
  auto c = cache(), other = cache();
  run(c, positions(x, 0, 30));
  other.layer(0)->restore(c.arrays(), 30), other.advance(30);
  expect(run(other, positions(x, 30, 67)), positions(y, 30, 67), "restored");
  auto more = c.arrays();
  more.push_back(more[0]);
  EXPECT_THROW(other.layer(0)->restore(more, 30), Error);
  EXPECT_THROW(other.layer(0)->restore({}, 30), Error);
  auto wrong = c.arrays();
  wrong.back() = mx::expand_dims(wrong.back(), 0);
  EXPECT_THROW(other.layer(0)->restore(wrong, 30), Error);
}

TEST_P(Golden, IsCounted) {
  config::Model model{.dim = x.shape(2)};
  model.layers = {{.mixer = config, .ffn = config::Nothing{}}};
  config::validate(model, Kind::usage);
  int64_t parameters = 0;
  for (const auto& e : collect(*mixer)) parameters += static_cast<int64_t>(e.param->value.size());
  EXPECT_EQ(config::count(model).mixer, parameters);
  auto c = cache();
  EXPECT_EQ(c.bytes(), 0u);
  run(c, positions(x, 0, 3));
  EXPECT_EQ(static_cast<int64_t>(c.bytes()), config::state_bytes(model, 4));
  EXPECT_EQ(config::kv_bytes(model, 1000, 4), config::state_bytes(model, 4));
  EXPECT_EQ(config::kv_bytes_per_token(model, 4), 0);
  const auto same = from_json<config::Model>(to_json(model), "again");
  EXPECT_TRUE(same == model);
}

Arrays gradients(Transformer& transformer, bool recompute) {
  const auto entries = collect(transformer);
  const auto tokens = mx::remainder(mx::multiply(mx::arange(2 * 20), mx::array(7)), mx::array(11));
  const auto loss = [&](const Arrays& weights) -> Arrays {
    const Lend lend(entries, weights);
    Pass pass{.recompute = recompute};
    return {mx::mean(mx::square(transformer(mx::reshape(tokens, {2, 20}), pass)))};
  };
  std::vector<int> all(entries.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
  return mx::value_and_grad(loss, all)(values(entries)).second;
}

// Gradient checkpointing computes projections once more, a few rows at a time.
TEST_P(Golden, RecomputedGradientsAreTheSame) {
  config::Model model{.dim = 8, .vocab = 11};
  model.layers = {{.mixer = config, .ffn = config::Mlp{.hidden = 12}},
                  {.mixer = config, .ffn = config::Nothing{}}};
  Transformer transformer(model, 3);
  const auto entries = collect(transformer);
  const auto kept = gradients(transformer, false), again = gradients(transformer, true);
  const auto* mamba = std::get_if<config::Mamba2>(&config);
  const bool clamped = mamba && mamba->dt_min > 0.1f;  // new time steps are all below
  for (size_t i = 0; i < kept.size(); ++i) {
    const double most = double(mx::max(mx::abs(kept[i])).item<float>());
    if (!clamped || !entries[i].path.ends_with("dt_bias")) {
      EXPECT_GT(most, 0) << entries[i].path;
    }
    test::expect_close(again[i], doubles(kept[i]), 1e-5 * most, entries[i].path);
  }
}

// Blocks of padded rows are picked by position, those of others cut.
TEST(Lightning, GradientsBehindPaddingAreThoseWithout) {
  const config::Lightning config{
      .heads = 2, .head_dim = 4, .decays = config::Decays::bfloat16, .block = 8};
  Init init(1);
  const auto mixer = make_mixer(config, {8, 1, 3, 0.5f, 0.5f, init});
  constexpr int kPad = 5, kLength = 21;
  const auto x = some({1, kLength, 8}, 3);
  const auto slope = [&](const mx::array& in, const std::optional<mx::array>& pads) {
    const auto loss = [&](const mx::array& a) {
      Pass pass{.pads = pads};
      const auto y = (*mixer)(a, pass);
      return mx::sum(mx::square(positions(y, y.shape(1) - kLength, y.shape(1))));
    };
    return mx::grad(loss)(in);
  };
  const auto want = slope(x, std::nullopt);
  const auto padded = mx::concatenate({some({1, kPad, 8}, 4), x}, 1);
  const auto got = slope(padded, mx::array({kPad}, mx::int32));
  const double most = double(mx::max(mx::abs(want)).item<float>());
  test::expect_close(positions(got, kPad, kPad + kLength), doubles(want), 1e-5 * most);
}

// Two layers of RWKV-7, the second with a share of the first's values.
class ValuesOfAnotherLayer : public testing::Test {
 protected:
  ValuesOfAnotherLayer()
      : file(LMXLAB_SOURCE_DIR "/tests/fixtures/values/rwkv7_values.safetensors"),
        x(file.get("x")),
        y(file.get("y")) {
    config =
        from_json<config::Rwkv7>(strip_kind(Json::parse(file.metadata().at("mixer"))), "mixer");
    Init init(1);
    const Build build{.dim = x.shape(2),
                      .layer = 0,
                      .layers = 2,
                      .std = 0.02f,
                      .residual_std = 0.01f,
                      .init = init,
                      .lends_values = true};
    mixers.push_back(make_mixer(config, build));
    config.values_from = 0;
    mixers.push_back(make_mixer(config, build));
    for (size_t i = 0; i < 2; ++i) {
      Tensors own;
      const std::string prefix = std::to_string(i) + ".";
      for (const auto& [name, tensor] : file.all())
        if (name.starts_with(prefix)) own.emplace(name.substr(prefix.size()), tensor);
      load(collect(*mixers[i]), own, prefix);
    }
  }
  static Json strip_kind(Json json) {
    json.erase("kind");
    return json;
  }
  mx::array run(const mx::array& in, Pass& pass) const {
    auto out = in;
    for (size_t i = 0; i < 2; ++i) {
      pass.layer = static_cast<int>(i);
      out = (*mixers[i])(out, pass);
    }
    return out;
  }
  void expect(const mx::array& got, const std::string& what) const {
    test::expect_close(got, doubles(y),
                       32 * test::kEps * std::sqrt(double(y.shape(1) + y.shape(2))) *
                           double(mx::max(mx::abs(y)).item<float>()),
                       what);
  }

  io::SafeTensors file;
  mx::array x, y;
  config::Rwkv7 config;
  std::vector<std::unique_ptr<Mixer>> mixers;
};

TEST_F(ValuesOfAnotherLayer, OnePassAndPieces) {
  Pass pass;
  expect(run(x, pass), "one pass");
  for (const int size : {1, 7, 64}) {
    std::vector<std::unique_ptr<LayerCache>> layers;
    for (const auto& m : mixers) layers.push_back(m->make_cache({}));
    Cache cache(std::move(layers));
    Arrays parts;
    for (int from = 0; from < x.shape(1); from += size) {
      const int to = std::min(from + size, x.shape(1));
      Pass piece{.offset = from, .cache = &cache};
      parts.push_back(run(positions(x, from, to), piece));
      cache.advance(to - from);
    }
    expect(mx::concatenate(parts, 1), "pieces of " + std::to_string(size));
  }
}

TEST_F(ValuesOfAnotherLayer, MustHaveBeenLent) {
  Pass pass{.layer = 1};
  EXPECT_THROW((*mixers[1])(x, pass), Error);
}

TEST_F(ValuesOfAnotherLayer, GradientsReachThemWithCheckpointing) {
  config::Model model{.dim = 8, .vocab = 11};
  model.layers = {{.mixer = config, .ffn = config::Nothing{}},
                  {.mixer = config, .ffn = config::Mlp{.hidden = 12}}};
  std::get<config::Rwkv7>(model.layers[0].mixer).values_from.reset();
  Transformer transformer(model, 3);
  const auto entries = collect(transformer);
  const auto kept = gradients(transformer, false), again = gradients(transformer, true);
  for (size_t i = 0; i < kept.size(); ++i) {
    const double most = double(mx::max(mx::abs(kept[i])).item<float>());
    EXPECT_GT(most, 0) << entries[i].path;
    test::expect_close(again[i], doubles(kept[i]), 1e-5 * most, entries[i].path);
  }
}

// 3000 steps of up to two radians are some hundred turns.
TEST(CumulativeAngles, StayPreciseAtAnyLength) {
  constexpr int kLength = 3000, kAngles = 2;
  const auto steps = mx::add(some({1, 2, kLength, kAngles}, 1), mx::array(1.0f));
  const auto start = some({1, 2, kAngles}, 2, 3);
  const auto got = cumulative_angles(steps, start);
  auto sums = doubles(start);
  const auto step = doubles(steps), at = doubles(got.at), last = doubles(got.last);
  const auto expect = [](double angle, double want) {
    EXPECT_NEAR(std::cos(angle), std::cos(want), 1e-4);
    EXPECT_NEAR(std::sin(angle), std::sin(want), 1e-4);
  };
  for (size_t h = 0; h < 2; ++h)
    for (size_t a = 0; a < kAngles; ++a) {
      auto& sum = sums[h * kAngles + a];
      for (size_t t = 0; t < kLength; ++t) {
        const size_t i = (h * kLength + t) * kAngles + a;
        sum += step[i];
        if (t % 100 == 99) expect(at[i], sum);
      }
      expect(last[h * kAngles + a], sum);
      EXPECT_LE(std::abs(last[h * kAngles + a]), 3.1416);
    }
}

INSTANTIATE_TEST_SUITE_P(Mixers, Golden, testing::ValuesIn(fixtures()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace lmxlab::core
