#include "lmxlab/models/gguf_model.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/json.h"
#include "lmxlab/base/random.h"
#include "lmxlab/checks/properties.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/io/gguf.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/kernels/quantized.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/models/weight_cache.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <set>

namespace lmxlab {
namespace {

// The reader of files and the kernels each have a list of ggml's types.
TEST(GgufModel, TypesAreThoseOfTheKernels) {
  for (uint32_t number = 0; number < 64; ++number) {
    const auto format = kernels::format_of_ggml(number);
    if (!format) continue;
    const auto* type = io::ggml_type(number);
    ASSERT_NE(type, nullptr);
    const auto& block = kernels::block_format(*format);
    EXPECT_EQ(type->name, block.name);
    EXPECT_EQ(type->weights, block.weights) << type->name;
    EXPECT_EQ(type->bytes, block.bytes) << type->name;
  }
}

// Whatever is done to a file, the answer is an error of ours or a model.
TEST(GgufModel, HostileFiles) {
  const auto folder = test::shared_fixtures("gguf");
  if (!folder) return;
  const auto good = read_file(*folder / "tiny_qwen2_f32.gguf");
  const test::TemporaryFolder out;
  HostRandom random(5);
  int refused = 0, opened = 0;
  for (int i = 0; i < 400; ++i) {
    std::string hostile = good;
    if (i % 4 == 0) hostile.resize(random.below(hostile.size()));
    // The metadata and the table of tensors lie in front.
    const auto front = std::min<uint64_t>(hostile.size(), 4096);
    for (uint64_t k = 0; k < 1 + random.below(4) && front > 0; ++k)
      hostile[random.below(front)] = static_cast<char>(random.below(256));
    write_file_atomic(out / "x.gguf", hostile);
    try {
      auto model = LanguageModel::load(out / "x.gguf");
      ++opened;
    } catch (const Error& e) {
      ++refused;
      EXPECT_NE(e.kind(), Kind::internal) << e.what();
    }
  }
  EXPECT_GT(refused, 50);
  EXPECT_GT(opened, 10);
}

class TinyGguf : public testing::TestWithParam<const char*> {};

TEST_P(TinyGguf, Logits) {
  const auto folder = test::shared_fixtures("gguf");
  if (!folder) return;
  const std::string name = GetParam();
  const auto path = *folder / (name + ".gguf");
  ASSERT_TRUE(io::is_gguf(path));
  EXPECT_FALSE(io::is_gguf(*folder / (name + ".expected.json")));
  const io::SafeTensors reference(*folder / (name + ".expected.safetensors"));
  const auto facts = Json::parse(read_file(*folder / (name + ".expected.json")), "expected.json");
  const test::TemporaryFolder cache;
  for (const char* layout : {"as in the file", "laid out anew", "mapped from the cache"}) {
    auto model = LanguageModel::load(path);
    const Enter enter(model.runtime());
    if (layout != std::string("as in the file")) {
      EXPECT_EQ(interleave_from_cache(model, path, cache.path()), std::nullopt);
    }
    const auto want = reference.get("logits");
    const kernels::WithActivations exact(kernels::Activations::float32);
    const double bound = facts.at("atol").as_number();
    const auto c =
        checks::compare("logits", model.forward(reference.get("input_ids")), want, bound);
    EXPECT_TRUE(c.ok) << layout << ": " << c.detail;
    // A token at a time.
    auto cache_of_keys = model.make_cache();
    const auto ids = reference.get("input_ids");
    core::Arrays parts;
    for (int t = 0; t < ids.shape(1); ++t) {
      auto [logits, next] =
          model(mx::slice(ids, {0, t}, {ids.shape(0), t + 1}), std::move(cache_of_keys));
      cache_of_keys = std::move(next);
      eval(logits, cache_of_keys);
      parts.push_back(logits);
    }
    const auto one = checks::compare("cached", mx::concatenate(parts, 1), want, bound);
    EXPECT_TRUE(one.ok) << layout << ": " << one.detail;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, TinyGguf,
                         testing::Values("tiny_llama_f32", "tiny_llama_q8_0",
                                         "tiny_llama_plain_f32", "tiny_llama_plain_q4_1",
                                         "tiny_qwen2_f32", "tiny_qwen3_f32"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace lmxlab
