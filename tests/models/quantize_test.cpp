// A quantized model equals the model whose weights are what the packed ones stand for.
#include "lmxlab/models/quantize.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/files.h"
#include "lmxlab/base/json.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"

#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

namespace lmxlab {
namespace {

struct Unpack : core::Visitor {
  int packed = 0, of_embedding = 0;
  void unpack(core::Weight& w) {
    if (!w.quantized()) return;
    packed++;
    std::optional<mx::array> biases;
    if (w.biases) biases = w.biases->value;
    const bool floats = w.floats != kernels::FloatFormat::none;
    w = {core::Param{mx::dequantize(w.w.value, w.scales->value, biases, w.group, w.bits,
                                    floats ? kernels::float_groups(w.floats).name : "affine",
                                    std::nullopt, mx::float32)}};
  }
  void linear(const std::string&, core::Linear& l) override { unpack(l.weight); }
  void experts(const std::string&, core::ExpertLinear& l) override { unpack(l.weight); }
  void embedding(const std::string&, core::Embedding& e) override {
    of_embedding = e.weight.bits;
    unpack(e.weight);
  }
};

config::Model config(const std::string& name) {
  auto c = config::preset(name == "moe" ? "llama-tiny" : name);
  if (name == "moe")
    for (auto& b : c.layers) b.ffn = config::Moe{.experts = 5, .hidden = 64, .shared = 64};
  c.init_std = 0.2f;
  return c;
}

TEST(QuantizeModel, EqualsTheDequantizedModel) {
  for (const char* name : {"llama-tiny", "gpt-tiny", "moe"}) {
    for (const auto& [bits, group, embedding] :
         {std::tuple{8, 32, 0}, {4, 32, 8}, {4, 64, 0}, {2, 32, 6}}) {
      LanguageModel packed(config(name), 3), plain(config(name), 3);
      const auto before = packed.parameter_bytes();
      for (auto* m : {&packed, &plain})
        quantize_model(*m, {.bits = bits, .group_size = group, .embedding_bits = embedding});
      EXPECT_LT(packed.parameter_bytes(), before);
      Unpack unpack;
      {
        const Enter enter(plain.runtime());
        plain.transformer().visit(unpack);
      }
      EXPECT_EQ(unpack.of_embedding, embedding ? embedding : bits);
      EXPECT_GE(unpack.packed, 2 * 6 + 1);

      const std::vector<int> ids{1, 50, 7, 22, 9, 3, 60, 11, 5, 2};
      const mx::array tokens(ids.data(), {1, 10}, mx::int32);
      const auto expected = plain.forward(tokens);
      // Many rows at once, then one row at a time through the cache: few rows enter products as 16
      // bits, 8 times finer than float16.
      const auto whole = packed.forward(tokens);
      auto [logits, cache] = packed(mx::slice(tokens, {0, 0}, {1, 1}));
      std::vector<mx::array> steps{logits};
      for (int i = 1; i < 10; ++i) {
        auto [next, grown] = packed(mx::slice(tokens, {0, i}, {1, i + 1}), std::move(cache));
        steps.push_back(next), cache = std::move(grown);
      }
      const auto size = mx::max(mx::abs(expected)).item<float>();
      for (const auto& got : {whole, mx::concatenate(steps, 1)}) {
        const auto worst = mx::max(mx::abs(mx::subtract(got, expected))).item<float>();
        EXPECT_LE(worst, 1e-3f * size) << name << ", " << bits << " bits";
      }
    }
  }
}

// The same answers whatever the layout, and the same arrays once it is undone.
TEST(QuantizeModel, InterleavedIsTheSameModel) {
  for (const int bits : {2, 4, 8, 5}) {
    LanguageModel model(config(bits == 4 ? "moe" : "llama-tiny"), 3);
    quantize_model(model, {.bits = bits, .group_size = 32});
    const auto leaves = [&] {
      std::vector<std::pair<std::string, mx::array>> all;
      for (const auto& e : core::collect(model.transformer()))
        all.push_back({e.path, e.param->value});
      return all;
    };
    const auto before = leaves();
    const auto bytes = model.parameter_bytes();
    const std::vector<int> ids{1, 50, 7, 22, 9, 3, 60, 11, 5, 2};
    for (const int length : {3, 10}) {  // few rows and many
      const mx::array tokens(ids.data(), {1, length}, mx::int32);
      separate_model(model);
      const auto expected = model.forward(tokens);
      mx::eval(expected);
      interleave_model(model);
      const auto got = model.forward(tokens);
      const auto size = mx::max(mx::abs(expected)).item<float>();
      EXPECT_LE(mx::max(mx::abs(mx::subtract(got, expected))).item<float>(), 1e-4f * size) << bits;
    }
    // Leaves say how they lie, so that no file can mix the two up.
    int tiles = 0, faster = 0;
    for (const auto& l : core::weights_of(model.transformer()))
      if (!l.weight->stacked())
        tiles += l.weight->interleaved, faster += kernels::faster_interleaved(l.weight->packed());
    EXPECT_EQ(tiles, faster);
    int named = 0;
    for (const auto& [path, value] : leaves()) named += path.ends_with(".weight_tiles");
    EXPECT_EQ(named, tiles);
    EXPECT_EQ(model.parameter_bytes(), bytes);
    separate_model(model);
    const auto after = leaves();
    ASSERT_EQ(after.size(), before.size());
    for (size_t i = 0; i < after.size(); ++i) {
      EXPECT_EQ(after[i].first, before[i].first);
      EXPECT_TRUE(mx::array_equal(after[i].second, before[i].second).item<bool>())
          << after[i].first;
    }
  }
}

// mlx-lm's form: what is saved is read again, bit for bit, also from interleaved weights.
TEST(QuantizeModel, FoldersKeepPackedWeights) {
  const fs::path folder = fs::path(testing::TempDir()) / "packed_model";
  for (const auto& [name, embedding] :
       {std::pair{"llama-tiny", 0}, {"llama-tiny", 8}, {"moe", 8}}) {
    LanguageModel model(config(name), 3, DType::bf16);
    quantize_model(model, {.bits = 4, .group_size = 32, .embedding_bits = embedding});
    std::vector<std::pair<std::string, mx::array>> before;
    for (const auto& e : core::collect(model.transformer()))
      before.push_back({e.path, e.param->value});
    interleave_model(model);
    model.save(folder);
    const Json json = Json::parse(read_file(folder / "config.json"));
    EXPECT_EQ(json.at("quantization"), json.at("quantization_config"));
    EXPECT_EQ(json.at("quantization").at("bits").as_integer(), 4);
    EXPECT_EQ(json.at("quantization").at("group_size").as_integer(), 32);
    EXPECT_EQ(json.at("quantization").contains("model.embed_tokens"), embedding == 8);
    auto loaded = LanguageModel::load(folder, true);
    const auto after = core::collect(loaded.transformer());
    ASSERT_EQ(after.size(), before.size());
    for (size_t i = 0; i < after.size(); ++i) {
      EXPECT_EQ(after[i].path, before[i].first);
      EXPECT_EQ(after[i].param->value.dtype(), before[i].second.dtype()) << after[i].path;
      EXPECT_TRUE(mx::array_equal(after[i].param->value, before[i].second).item<bool>())
          << after[i].path;
    }
    EXPECT_TRUE(loaded.warnings().empty());
    EXPECT_EQ(loaded.dtype(), DType::bf16);
    const mx::array tokens({1, 50, 7}, {1, 3}, mx::int32);
    separate_model(model);
    EXPECT_TRUE(mx::array_equal(loaded.forward(tokens), model.forward(tokens)).item<bool>());
  }
  const auto with = [&](const std::string& quantization) {
    Json json = Json::parse(read_file(folder / "config.json"));
    json.erase("quantization_config");
    json["quantization"] = Json::parse(quantization);
    write_file_atomic(folder / "config.json", json.dump(2));
    try {
      LanguageModel::load(folder);
    } catch (const Error& e) {
      return std::pair(e.kind(), std::string(e.what()));
    }
    return std::pair(Kind::canceled, std::string());
  };
  const std::string embedding = R"(, "model.embed_tokens": {"bits": 8}})";
  EXPECT_EQ(with(R"({"group_size": 32, "bits": 4)" + embedding).first, Kind::canceled);
  EXPECT_EQ(with(R"({"group_size": 32, "bits": 4, "mode": "affine")" + embedding).first,
            Kind::canceled);
  for (const auto& [text, kind, part] :
       {std::tuple{R"({"group_size": 32, "bits": 7})", Kind::bad_data, "7 bits"},
        {R"({"group_size": 48, "bits": 4})", Kind::bad_data, "groups of 48"},
        {R"({"group_size": 128, "bits": 4})", Kind::bad_data, "64"},
        {R"({"bits": 4})", Kind::bad_data, "group_size"},
        {R"({"group_size": "x", "bits": 4})", Kind::bad_data, "integer"},
        {R"({"group_size": 32, "bits": 4})", Kind::mismatch, "model.embed_tokens.weight"},
        {R"({"group_size": 32, "bits": 4, "mode": "mxfp5"})", Kind::unsupported, "mxfp5"},
        {R"({"quant_method": "gptq", "bits": 4})", Kind::unsupported, "gptq"},
        {"[4]", Kind::bad_data, ""}}) {
    const auto [got, message] = with(text);
    EXPECT_EQ(got, kind) << text << ": " << message;
    EXPECT_NE(message.find(part), std::string::npos) << text << ": " << message;
  }
  LanguageModel gpt(config("gpt-tiny"), 3);
  quantize_model(gpt, {.bits = 4, .group_size = 32});
  EXPECT_THROW(gpt.save(folder), Error);
}

TEST(QuantizeModel, WhatCannotBeIsAnErrorAndChangesNothing) {
  LanguageModel model(config("llama-tiny"), 3);
  const auto bytes = model.parameter_bytes();
  EXPECT_THROW(quantize_model(model, {.bits = 7}), Error);
  EXPECT_THROW(quantize_model(model, {.group_size = 16}), Error);
  EXPECT_THROW(quantize_model(model, {.embedding_bits = 1}), Error);
  try {
    quantize_model(model, {.group_size = 128});  // a width of 64
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("Give a smaller group"), std::string::npos) << e.what();
  }
  EXPECT_EQ(model.parameter_bytes(), bytes);
  auto odd = config("llama-tiny");
  odd.dim = 48, odd.vocab = 257;
  LanguageModel narrow(odd, 3);
  try {
    quantize_model(narrow, {.mode = QuantMode::nvfp4});  // 257 * 48 numbers
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("32 at once"), std::string::npos) << e.what();
  }
  quantize_model(narrow,
                 {.mode = QuantMode::nvfp4, .layers = {{"model.embed_tokens", 0}, {"lm_head", 0}}});
  quantize_model(model, {.bits = 8});
  EXPECT_THROW(quantize_model(model, {.bits = 8}), Error);
}

// MLX's small floats: the same checks, and a folder and back.
TEST(QuantizeModel, SmallFloats) {
  for (const auto mode : {QuantMode::mxfp4, QuantMode::nvfp4, QuantMode::mxfp8}) {
    SCOPED_TRACE(enum_name(mode));
    LanguageModel packed(config("llama-tiny"), 3), plain(config("llama-tiny"), 3);
    std::vector<LayerError> errors;
    quantize_model(packed, {.mode = mode, .layers = {{"*.down_proj", 8}, {"lm_head", 0}}}, {},
                   &errors);
    quantize_model(plain, {.mode = mode, .layers = {{"*.down_proj", 8}, {"lm_head", 0}}});
    Unpack unpack;
    {
      const Enter enter(plain.runtime());
      plain.transformer().visit(unpack);
    }
    EXPECT_EQ(unpack.packed, static_cast<int>(errors.size()) - 1);
    for (const auto& e : errors) {
      const bool down = e.path.ends_with("down_proj"), head = e.path == "lm_head";
      EXPECT_EQ(e.bits, head ? 0 : down || mode == QuantMode::mxfp8 ? 8 : 4) << e.path;
      // Steps of a mantissa of 1, 3 bits, or of 8-bit integers over a range.
      EXPECT_LT(e.relative_rms, head ? 1e-9 : e.bits == 8 ? 0.05 : 0.2) << e.path;
      EXPECT_GT(e.relative_rms, head ? -1 : 1e-4) << e.path;
    }
    const std::vector<int> ids{1, 50, 7, 22, 9, 3, 60, 11, 5, 2};
    const mx::array tokens(ids.data(), {1, 10}, mx::int32);
    const auto close = [&](const LanguageModel& a, const LanguageModel& b) {
      const Enter enter(a.runtime());
      const auto x = a.forward(tokens), y = b.forward(tokens);
      const double size = mx::max(mx::abs(y)).item<float>();
      return double(mx::max(mx::abs(mx::subtract(x, y))).item<float>()) / size;
    };
    EXPECT_LT(close(packed, plain), 1e-3);
    const test::TemporaryFolder folder;
    packed.save(folder.path());
    const auto json = Json::parse(read_file(folder / "config.json"), "config.json");
    EXPECT_EQ(json.at("quantization").at("mode").as_string(), enum_name(mode));
    EXPECT_EQ(json.at("quantization").at("model.layers.0.mlp.down_proj").at("mode").as_string(),
              "affine");
    const auto again = LanguageModel::load(folder.path(), true);
    EXPECT_LT(close(again, packed), 1e-6);
  }
}

TEST(QuantizeModel, PatternsMustFit) {
  LanguageModel model(config("llama-tiny"), 3);
  EXPECT_THROW(quantize_model(model, {.layers = {{"*.down", 4}}}), Error);
  EXPECT_THROW(quantize_model(model, {.layers = {{"*.down_proj", 7}}}), Error);
  std::vector<LayerError> errors;
  quantize_model(model,
                 {.bits = 4, .group_size = 32, .layers = {{"model.layers.0.*", 8}, {"*", 2}}}, {},
                 &errors);
  for (const auto& e : errors)
    EXPECT_EQ(e.bits, e.path.starts_with("model.layers.0.") ? 8 : 2) << e.path;
}

}  // namespace
}  // namespace lmxlab
