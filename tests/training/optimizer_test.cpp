#include "lmxlab/training/optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <iostream>

#include "lmxlab/base/files.h"
#include "lmxlab/training/clip.h"

namespace lmxlab {
namespace {

using Arrays = std::vector<mx::array>;
constexpr double kUlp = 0x1p-23;

struct Golden {
  std::unordered_map<std::string, mx::array> arrays;
  std::vector<std::string> names;
  Json cases;
  int steps = 0;

  Golden() {
    auto [loaded, meta] = mx::load_safetensors(
        (fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/optimizers/optimizers.safetensors")
            .string());
    arrays = std::move(loaded);
    cases = Json::parse(meta.at("cases"));
    const Json listed = Json::parse(meta.at("params"));
    for (const auto& n : listed.as_array()) names.push_back(n.as_string());
    steps = arrays.at("lr").shape(0);
    for (auto& [_, a] : arrays) mx::eval(a);
  }
  Arrays params() const {
    Arrays out;
    for (const auto& n : names) out.push_back(mx::copy(arrays.at("param." + n)));
    return out;
  }
  Arrays grads(int t) const {
    Arrays out;
    for (const auto& n : names) out.push_back(mx::take(arrays.at("grad." + n), t, 0));
    return out;
  }
  mx::array lr(int t) const { return mx::take(arrays.at("lr"), t); }
  std::unique_ptr<Optimizer> optimizer(const OptimizerConfig& config) const {
    std::vector<ParamInfo> infos;
    for (const auto& n : names)
      infos.push_back(param_info(n, arrays.at("param." + n).shape(), config));
    return make_optimizer(config, std::move(infos));
  }
};

const Golden& golden() {
  static const Golden g;
  return g;
}

mx::array step_of(int t) {
  return mx::array(static_cast<float>(t + 1));
}

std::vector<float> flat(const Arrays& arrays) {
  Arrays parts;
  for (const auto& a : arrays) parts.push_back(mx::flatten(mx::astype(a, mx::float32)));
  const mx::array all = mx::contiguous(mx::concatenate(parts));
  mx::array copy = all;
  copy.eval();
  return {copy.data<float>(), copy.data<float>() + copy.size()};
}

/// How much an update of size 1 per lr may be off, in ulps: the roundings on the way to it, and
/// what the rule amplifies them by. Muon's polynomial has slope 3.4445 at 0 in each iteration.
double roundings(const OptimizerConfig& config) {
  switch (config.name) {
    case OptimizerName::sgd: return 4;
    case OptimizerName::lion: return 2;
    case OptimizerName::adamw: return 24;
    case OptimizerName::adafactor: return 24;
    case OptimizerName::muon: return 24 + 4 * std::pow(3.4445, config.muon_ns_steps.value_or(5));
  }
  return 0;
}

TEST(Optimizer, EqualsTheReferencesOverTwentySteps) {
  const Golden& g = golden();
  ASSERT_EQ(g.cases.size(), 17u);
  for (const auto& [name, table] : g.cases.as_object()) {
    SCOPED_TRACE(name);
    const auto config = from_json<OptimizerConfig>(table, name);
    const auto optimizer = g.optimizer(config);
    Arrays params = g.params(), state = optimizer->init(params);
    std::vector<float> before = flat(params), path(before.size(), 0), largest(before.size(), 0);
    int row = 0;
    double worst = 0, allowed = 0, worst_off = 0;
    std::string where = "none";
    for (int t = 0; t < g.steps; ++t) {
      optimizer->update(params, g.grads(t), state, g.lr(t), step_of(t));
      const std::vector<float> now = flat(params);
      mx::eval(state);
      for (size_t i = 0; i < now.size(); ++i) {
        path[i] += std::abs(now[i] - before[i]);
        largest[i] = std::max({largest[i], std::abs(now[i]), std::abs(before[i])});
      }
      before = now;
      if (t != 0 && t != 1 && t + 1 != g.steps) continue;
      const float* expected = g.arrays.at(name).data<float>() + row++ * now.size();
      double longest = 0;
      for (float p : path) longest = std::max<double>(longest, p);
      for (size_t i = 0; i < now.size(); ++i) {
        // Two roundings of p itself a step (decay, sum) and the fixture's one; the update's own
        // error is in proportion to the longest way a parameter went, for a small update may be a
        // difference of large ones.
        const double tolerance =
            kUlp * ((2 * (t + 1) + 1) * 0.5 * largest[i] + roundings(config) * longest);
        const double off = std::abs(static_cast<double>(now[i]) - expected[i]);
        if (!(off / tolerance <= worst)) {
          worst = off / tolerance, worst_off = off, allowed = tolerance;
          where = "step " + std::to_string(t + 1) + ", element " + std::to_string(i) + ": " +
                  std::to_string(now[i]) + " for " + std::to_string(expected[i]);
        }
      }
    }
    EXPECT_LE(worst, 1) << where;
    std::cout << name << ": worst " << worst_off << " of " << allowed << ", " << where << "\n";
  }
}

TEST(Optimizer, StateHasWhatItNeedsAndNoMore) {
  using testing::ElementsAre;
  const std::vector<ParamInfo> infos = {{"a", {4, 3}, true, true}, {"b", {5}, false, false}};
  const auto names = [&](OptimizerName name, std::optional<double> momentum = {}) {
    OptimizerConfig config;
    config.name = name;
    config.momentum = momentum;
    const auto optimizer = make_optimizer(config, infos);
    const Arrays state = optimizer->init({mx::zeros({4, 3}), mx::zeros({5})});
    EXPECT_EQ(state.size(), optimizer->state_names().size());
    for (size_t i = 0; i < state.size(); ++i) {
      EXPECT_EQ(state[i].shape(), optimizer->state_shapes()[i]);
      EXPECT_EQ(state[i].dtype(), mx::float32);
    }
    return optimizer->state_names();
  };
  EXPECT_THAT(names(OptimizerName::adamw), ElementsAre("a.m", "a.v", "b.m", "b.v"));
  EXPECT_THAT(names(OptimizerName::sgd), ElementsAre());
  EXPECT_THAT(names(OptimizerName::sgd, 0.9), ElementsAre("a.momentum", "b.momentum"));
  EXPECT_THAT(names(OptimizerName::lion), ElementsAre("a.m", "b.m"));
  EXPECT_THAT(names(OptimizerName::adafactor), ElementsAre("a.row", "a.col", "b.v"));
  EXPECT_THAT(names(OptimizerName::muon), ElementsAre("a.momentum", "b.m", "b.v"));

  OptimizerConfig factored;
  factored.name = OptimizerName::adafactor;
  EXPECT_EQ(make_optimizer(factored, {{"c", {2, 3, 4}}})->state_shapes(),
            (std::vector<mx::Shape>{{2, 3, 1}, {2, 1, 4}}));
  EXPECT_TRUE(make_optimizer({}, {})->init({}).empty());
}

TEST(Optimizer, GroupsParametersByShapeAndPath) {
  OptimizerConfig config;
  const auto flags = [&](const char* path, mx::Shape shape) {
    const ParamInfo info = param_info(path, std::move(shape), config);
    return std::pair(info.decay, info.matrix);
  };
  EXPECT_EQ(flags("layers.0.mixer.q_proj.weight", {4, 4}), std::pair(true, true));
  EXPECT_EQ(flags("layers.0.conv.weight", {4, 1, 4}), std::pair(true, false));
  EXPECT_EQ(flags("layers.0.norm.weight", {4}), std::pair(false, false));
  EXPECT_EQ(flags("embed_tokens.weight", {9, 4}), std::pair(true, false));
  EXPECT_EQ(flags("transformer.wte.weight", {9, 4}), std::pair(true, false));
  EXPECT_EQ(flags("lm_head.weight", {9, 4}), std::pair(true, false));
  config.decay = DecayGroup::hidden;
  EXPECT_EQ(flags("lm_head.weight", {9, 4}), std::pair(false, false));
  EXPECT_EQ(flags("layers.0.heads.weight", {9, 4}), std::pair(true, true));
  config.decay = DecayGroup::all;
  EXPECT_EQ(flags("layers.0.norm.weight", {4}), std::pair(true, false));
}

/// in = params, grads, state, lr, step; out = params, state.
std::function<Arrays(const Arrays&)> as_function(const Optimizer& optimizer, size_t n) {
  return [&optimizer, n](const Arrays& in) {
    const auto at = [&](size_t i) { return in.begin() + static_cast<std::ptrdiff_t>(i); };
    Arrays params(at(0), at(n)), grads(at(n), at(2 * n)), state(at(2 * n), at(in.size() - 2));
    optimizer.update(params, grads, state, in[in.size() - 2], in.back());
    params.insert(params.end(), state.begin(), state.end());
    return params;
  };
}

TEST(Optimizer, CompiledEqualsEagerBitwise) {
  const Golden& g = golden();
  const size_t n = g.names.size();
  for (const auto& [name, table] : g.cases.as_object()) {
    SCOPED_TRACE(name);
    const auto optimizer = g.optimizer(from_json<OptimizerConfig>(table, name));
    int traces = 0;
    const auto plain = as_function(*optimizer, n);
    const auto compiled = mx::compile(std::function<Arrays(const Arrays&)>([&](const Arrays& in) {
      ++traces;
      return plain(in);
    }));
    Arrays eager = g.params();
    for (auto& s : optimizer->init(eager)) eager.push_back(s);
    Arrays fast = eager;
    for (int t = 0; t < 6; ++t) {
      for (Arrays* kept : {&eager, &fast}) {
        Arrays in(kept->begin(), kept->begin() + static_cast<std::ptrdiff_t>(n));
        for (auto& a : g.grads(t)) in.push_back(a);
        in.insert(in.end(), kept->begin() + static_cast<std::ptrdiff_t>(n), kept->end());
        in.push_back(g.lr(t));
        in.push_back(step_of(t));
        *kept = kept == &eager ? plain(in) : compiled(in);
        mx::eval(*kept);
      }
      ASSERT_EQ(eager.size(), fast.size());
      for (size_t i = 0; i < eager.size(); ++i)
        ASSERT_TRUE(mx::array_equal(eager[i], fast[i]).item<bool>()) << "step " << t << ", " << i;
    }
    EXPECT_EQ(traces, 1);  // a new rate or step must not compile again
  }
}

// Of experts.
TEST(Optimizer, MuonTakesEachMatrixOfAStack) {
  OptimizerConfig config;
  config.name = OptimizerName::muon;
  const auto updated = [&](mx::array param, const mx::array& grad) {
    const auto optimizer = make_optimizer(config, {{"w", param.shape(), true, true}});
    Arrays params{param}, state = optimizer->init(params);
    optimizer->update(params, {grad}, state, mx::array(0.02f), step_of(0));
    return params[0];
  };
  for (const mx::Shape& shape : {mx::Shape{3, 12, 7}, mx::Shape{3, 7, 12}}) {
    const auto w = mx::random::normal(shape), g = mx::random::normal(shape);
    const auto all = updated(w, g);
    for (int e = 0; e < 3; ++e) {
      const auto one = updated(mx::take(w, e, 0), mx::take(g, e, 0));
      const auto off = mx::max(mx::abs(mx::subtract(mx::take(all, e, 0), one))).item<float>();
      EXPECT_LE(off, 1e-6f) << e;
    }
  }
  // Biases of experts are no matrices, though they lie as one.
  EXPECT_FALSE(param_info("mlp.experts.up_proj.bias", {8, 16}, config).matrix);
  EXPECT_FALSE(param_info("mlp.experts.up_proj.bias", {8, 16}, config).decay);
  EXPECT_TRUE(param_info("mlp.experts.up_proj.weight", {8, 16, 4}, config).matrix);
}

TEST(Optimizer, ReusesTheBuffersOfItsState) {
  // What one pass updates is written in place. Adafactor and muon read parameter and state more
  // than once: there only the sum is checked, for which reader comes last is a matter of timing.
  const mx::Shape shape{128, 96};
  for (const auto name : {OptimizerName::adamw, OptimizerName::sgd, OptimizerName::lion,
                          OptimizerName::adafactor, OptimizerName::muon}) {
    SCOPED_TRACE(enum_name(name));
    OptimizerConfig config;
    config.name = name;
    config.weight_decay = 0.1;
    if (name == OptimizerName::sgd) config.momentum = 0.9, config.weight_decay = 0;
    const auto optimizer = make_optimizer(config, {{"w", shape, true, true}});
    const auto step = mx::compile(as_function(*optimizer, 1));
    mx::array grad = mx::random::normal(shape);
    Arrays kept{mx::random::normal(shape)};
    for (auto& s : optimizer->init(kept)) kept.push_back(s);
    mx::eval(kept);
    mx::eval(grad);
    const auto addresses = [&] {
      std::vector<const float*> out;
      if (name != OptimizerName::adafactor && name != OptimizerName::muon)
        for (const auto& a : kept) out.push_back(a.data<float>());
      return out;
    };
    size_t settled = 0;
    std::vector<const float*> before;
    for (int t = 0; t < 50; ++t) {
      {
        Arrays in{kept[0], grad};
        in.insert(in.end(), kept.begin() + 1, kept.end());
        in.push_back(mx::array(1e-3f));
        in.push_back(step_of(t));
        kept = step(in);
      }
      mx::eval(kept);
      mx::synchronize();
      if (t == 1) {  // the first steps replace the shared zeros and fill the table of constants
        settled = mx::get_active_memory();
        before = addresses();
      }
    }
    EXPECT_EQ(mx::get_active_memory(), settled);
    EXPECT_EQ(addresses(), before);
  }
}

TEST(Optimizer, KeepsTheParametersDtypeAndComputesInFloat32) {
  OptimizerConfig config;
  config.weight_decay = 0.1;
  const auto optimizer = make_optimizer(config, {{"w", {3}, true, false}});
  const mx::array start({1.0f, -2.0f, 0.5f}), grad({0.25f, 0.5f, -1.0f});
  Arrays wide{start}, narrow{mx::astype(start, mx::bfloat16)};
  Arrays wide_state = optimizer->init(wide), narrow_state = optimizer->init(narrow);
  const mx::array lr(0.05f), step(1.0f);
  optimizer->update(wide, {grad}, wide_state, lr, step);
  optimizer->update(narrow, {mx::astype(grad, mx::bfloat16)}, narrow_state, lr, step);
  EXPECT_EQ(narrow[0].dtype(), mx::bfloat16);
  EXPECT_EQ(narrow_state[0].dtype(), mx::float32);
  EXPECT_TRUE(mx::array_equal(mx::astype(wide[0], mx::bfloat16), narrow[0]).item<bool>());
}

TEST(Optimizer, ZeroGradientsStayFinite) {
  for (const auto name : {OptimizerName::adamw, OptimizerName::sgd, OptimizerName::lion,
                          OptimizerName::adafactor, OptimizerName::muon}) {
    OptimizerConfig config;
    config.name = name;
    config.weight_decay = 0;
    const auto optimizer =
        make_optimizer(config, {{"w", {3, 2}, true, true}, {"b", {2}}, {"s", {}}});
    Arrays params{mx::ones({3, 2}), mx::zeros({2}), mx::array(2.0f)};
    const Arrays grads{mx::zeros({3, 2}), mx::zeros({2}), mx::array(0.0f)};
    const Arrays before = params;
    Arrays state = optimizer->init(params);
    for (int t = 0; t < 3; ++t)
      optimizer->update(params, grads, state, mx::array(0.1f), step_of(t));
    for (size_t i = 0; i < params.size(); ++i)
      EXPECT_TRUE(mx::array_equal(params[i], before[i]).item<bool>()) << enum_name(name) << i;
  }
}

TEST(Optimizer, TinyGradientsDoNotUnderflowInAdafactor) {
  // Row times column of squares of 1e-12 is 1e-48; the direction must still be that of larger
  // gradients.
  OptimizerConfig config;
  config.name = OptimizerName::adafactor;
  config.adafactor_eps = {1e-18, 1e-3};
  const auto optimizer = make_optimizer(config, {{"w", {4, 3}, true, true}});
  const mx::array grad = mx::random::normal({4, 3}, mx::random::key(3));
  const auto moved = [&](float scale) {
    Arrays params{mx::zeros({4, 3})};
    Arrays state = optimizer->init(params);
    optimizer->update(params, {grad * mx::array(scale)}, state, mx::array(0.01f), mx::array(1.0f));
    return params[0];
  };
  const auto large = flat({moved(1)}), tiny = flat({moved(0x1p-40f)});
  for (size_t i = 0; i < large.size(); ++i) EXPECT_NEAR(large[i], tiny[i], 32 * kUlp * 0.01 * 1e-3);
}

TEST(Optimizer, RefusesWhatDoesNotFit) {
  const auto optimizer = make_optimizer({}, {{"w", {2, 3}, true, true}});
  const mx::array one(1.0f);
  Arrays good{mx::zeros({2, 3})}, state = optimizer->init(good);
  const auto message = [](auto body) -> std::string {
    try {
      body();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), Kind::mismatch);
      return e.what();
    }
    return "no error";
  };
  using testing::HasSubstr;
  EXPECT_THAT(message([&] {
                optimizer->init({mx::zeros({3, 2})});
              }),
              HasSubstr("w: expected a parameter of shape [2, 3], got [3, 2]"));
  EXPECT_THAT(message([&] { optimizer->update(good, {}, state, one, one); }),
              HasSubstr("gradients: expected 1, got 0"));
  Arrays short_state(state.begin(), state.begin() + 1);
  EXPECT_THAT(message([&] { optimizer->update(good, good, short_state, one, one); }),
              HasSubstr("state: expected 2 arrays, got 1"));
  EXPECT_THAT(message([&] { optimizer->update(good, good, state, one, mx::array(1)); }),
              HasSubstr("0-d float32"));
  OptimizerConfig muon;
  muon.name = OptimizerName::muon;
  EXPECT_THAT(message([&] {
                make_optimizer(muon, {{"c", {2, 2, 2, 2}, true, true}});
              }),
              HasSubstr("two dimensions"));
}

TEST(OptimizerConfig, EveryUnusedOptionIsAnError) {
  // Each option, in range, and the optimizers that use it.
  const std::vector<std::tuple<std::string, std::string, std::vector<std::string>>> options = {
      {"weight_decay", "0.2", {"adamw", "sgd", "lion", "adafactor", "muon"}},
      {"betas", "[0.5, 0.5]", {"adamw", "lion", "muon"}},
      {"eps", "1e-6", {"adamw", "muon"}},
      {"bias_correction", "false", {"adamw", "muon"}},
      {"momentum", "0.5", {"sgd", "muon"}},
      {"nesterov", "false", {"sgd", "muon"}},
      {"adafactor_beta2_decay", "-0.5", {"adafactor"}},
      {"adafactor_eps", "[1e-6, 1e-2]", {"adafactor"}},
      {"adafactor_d", "2", {"adafactor"}},
      {"muon_ns_steps", "3", {"muon"}},
      {"muon_adjust_lr", "\"original\"", {"muon"}},
      {"muon_adamw_lr_ratio", "0.5", {"muon"}}};
  EXPECT_EQ(options.size() + 7,
            describe_fields<OptimizerConfig>().size());  // those of all, and decay
  for (const auto& optimizer : enum_names<OptimizerName>())
    for (const auto& [option, value, users] : options) {
      const Json table =
          Json::parse("{\"name\": \"" + optimizer + "\", \"" + option + "\": " + value + "}");
      const auto config = from_json<OptimizerConfig>(table, "optimizer");
      Problems problems;
      check(config, problems);
      const bool used = std::find(users.begin(), users.end(), optimizer) != users.end();
      EXPECT_EQ(problems.empty(), used) << table.dump();
      if (!used) {
        EXPECT_THAT(problems.list().at(0), testing::HasSubstr("optimizer." + option));
      }
    }
}

TEST(OptimizerConfig, CollectsFaultsAndFillsDefaults) {
  OptimizerConfig config;
  config.lr = -1;
  config.betas = {{0.9, 1.0}};
  config.eps = 0;
  config.decay = DecayGroup::all;
  config.weight_decay = 0;
  try {
    make_optimizer(config, {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::usage);
    for (const char* field :
         {"optimizer.lr", "optimizer.betas", "optimizer.eps", "optimizer.decay"})
      EXPECT_THAT(e.what(), testing::HasSubstr(field));
  }
  OptimizerConfig lion;
  lion.name = OptimizerName::lion;
  const OptimizerConfig full = with_defaults(lion);
  EXPECT_EQ((*full.betas)[1], 0.99);
  EXPECT_FALSE(full.eps || full.momentum || full.decay || full.muon_ns_steps);
  for (const auto name : {OptimizerName::adamw, OptimizerName::sgd, OptimizerName::lion,
                          OptimizerName::adafactor, OptimizerName::muon}) {
    OptimizerConfig each;
    each.name = name;
    const auto once = with_defaults(each);
    EXPECT_TRUE(same_fields(once, with_defaults(once))) << enum_name(name);
  }
  OptimizerConfig sgd;
  sgd.name = OptimizerName::sgd;
  sgd.nesterov = true;
  EXPECT_THROW(with_defaults(sgd), Error);
}

TEST(Clip, FollowsTheFormula) {
  const auto factor = [](float norm, float most) {
    const auto f = clip_factor(mx::array(norm), most);
    EXPECT_EQ(f.ndim(), 0u);
    EXPECT_EQ(f.dtype(), mx::float32);
    return mx::array(f).item<float>();
  };
  EXPECT_NEAR(factor(5, 1), 1 / (5 + 1e-6), kUlp);
  EXPECT_EQ(factor(5, 6), 1) << "below the limit: bit for bit the same";
  EXPECT_EQ(factor(5, 0), 1) << "no limit";
  EXPECT_EQ(factor(std::numeric_limits<float>::infinity(), 1), 0);
  EXPECT_TRUE(std::isnan(factor(std::nanf(""), 1)));
}

TEST(Clip, LongSumsKeepTheirDigits) {
  // 2^22 squares of 1/3: rows of 2^11, so about 2 * 2^11 roundings of at most half an ulp in the
  // worst case.
  const mx::array grad = mx::full({1 << 11, 1 << 11}, 1.0f / 3);
  const double exact = std::sqrt(std::pow(2.0, 22)) * static_cast<double>(1.0f / 3);
  const double got = kernels::global_norm({grad}).item<float>();
  EXPECT_NEAR(got, exact, exact * 0x1p-24 * 2 * (1 << 11) / 2);
  std::cout << "relative error " << (got - exact) / exact << "\n";
}

}  // namespace
}  // namespace lmxlab
