// Weights lie in the mapped file and nowhere else: before, during and after a pass.
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/models/gguf_save.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/models/weight_cache.h"
#include "tests/support/memory_map.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <iostream>
#include <map>

#ifdef __linux__  // others do not tell which pages are a process's own

namespace lmxlab {
namespace {

namespace fs = std::filesystem;

// Depth 8: 21 million parameters. The head is the embedding, so a pass reads all of it.
LanguageModel model_of(int depth, DType dtype = DType::f32) {
  auto config = config::preset(
      "llama-tiny",
      {.depth = depth, .dim = 512, .heads = 8, .hidden = 1024, .vocab = 4096, .context = 128});
  config.tie_head = true;
  return LanguageModel(config, 1, dtype);
}

struct File {
  std::string what;
  // Makes it in the folder. @return  what is loaded, and the file that is mapped then.
  std::function<std::pair<fs::path, fs::path>(const fs::path& folder)> make;
};
std::ostream& operator<<(std::ostream& out, const File& f) {
  return out << f.what;
}

File folder_of(const std::string& what, int depth, DType dtype) {
  return {what, [=](const fs::path& folder) {
            model_of(depth, dtype).save(folder);
            return std::pair(folder, folder / "model.safetensors");
          }};
}
File gguf_of(const std::string& type, int depth) {
  return {"gguf_" + type, [=](const fs::path& folder) {
            auto model = model_of(depth);
            save_gguf(model, folder / "model.gguf", {.type = type});
            return std::pair(folder / "model.gguf", folder / "model.gguf");
          }};
}

std::map<std::string, const void*> addresses(LanguageModel& model) {
  std::map<std::string, const void*> all;
  for (const auto& e : core::collect(model.transformer())) {
    e.param->value.eval();
    all[e.path] = e.param->value.data<void>();
  }
  return all;
}

// Bytes of the model's arrays by the file they lie in ("": in none).
std::map<std::string, size_t> places(LanguageModel& model) {
  const auto maps = test::memory_maps();
  std::map<std::string, size_t> bytes;
  for (const auto& e : core::collect(model.transformer())) {
    auto& value = e.param->value;
    value.eval();
    bytes[test::file_at(value.data<void>(), value.nbytes(), maps)] += value.nbytes();
  }
  return bytes;
}

// A prompt and a few tokens. What is left of it dies here.
// @return  the bytes of the cache
size_t pass(const LanguageModel& model) {
  auto [logits, cache] = model(mx::array({1, 50, 7, 22, 9, 3, 60, 11}));
  eval(logits, cache);
  for (int i = 0; i < 3; ++i) {
    std::tie(logits, cache) = model(mx::array({i}), std::move(cache));
    eval(logits, cache);
  }
  return cache.bytes();
}

size_t own_memory() {
  mx::synchronize();
  kernels::clear_cache();
  return test::anonymous_bytes();
}

class MappedWeights : public testing::TestWithParam<File> {};

TEST_P(MappedWeights, AreNeverCopied) {
  const test::TemporaryFolder folder;
  const auto [source, file] = GetParam().make(folder.path());
  const auto size = fs::file_size(file);
  ASSERT_GT(size, size_t{50} << 20);
  ASSERT_LT(size, size_t{100} << 20);
  {
    pass(model_of(1));  // threads and their stacks, and what a kernel sets up once
    const auto own = own_memory(), active = kernels::active_bytes();
    auto model = LanguageModel::load(source);
    const auto where = places(model);
    EXPECT_EQ(where.size(), 1u) << where.begin()->second << " bytes in \"" << where.begin()->first
                                << "\"";
    EXPECT_EQ(where.rbegin()->first, fs::canonical(file));
    EXPECT_GT(where.rbegin()->second, size / 100 * 99);
    EXPECT_EQ(kernels::active_bytes(), active) << "loading takes no memory";
    const auto before = addresses(model);
    kernels::reset_peak();
    const auto kept = pass(model);
    const auto peak = kernels::peak_bytes() - active - kept;
    const auto grown = static_cast<ptrdiff_t>(own_memory() - own);
    EXPECT_EQ(kernels::active_bytes(), active) << "weights are not counted";
    EXPECT_EQ(addresses(model), before);
    const auto map = test::map_of(file);
    std::cout << size << " bytes in the file, " << map.rss << " resident, " << map.anonymous
              << " copied; peak of arrays beside the cache " << peak << ", own memory grew by "
              << grown << "\n";
    EXPECT_GT(map.rss, size / 100 * 95) << "the pass has read it";
    EXPECT_EQ(map.anonymous, 0u);
    EXPECT_LT(peak, size_t{2} << 20) << "activations of eight tokens";
    if (test::kOwnMemoryTells) {
      EXPECT_LT(grown, ptrdiff_t{4} << 20);
    }
  }
  EXPECT_EQ(test::map_of(file).rss, 0u) << "the last array to die unmaps";
}

INSTANTIATE_TEST_SUITE_P(Files, MappedWeights,
                         testing::Values(folder_of("safetensors_f32", 8, DType::f32),
                                         folder_of("safetensors_bf16", 14, DType::bf16),
                                         gguf_of("f32", 8), gguf_of("q8_0", 22)),
                         [](const auto& it) { return it.param.what; });

// Weights laid out anew come from the cache's file, and the first ones' file is not held in memory.
TEST(MappedTiles, AreNeverCopied) {
  const test::TemporaryFolder folder;
  const auto source = folder / "model", cache = folder / "cache";
  {
    auto model = model_of(22);
    quantize_model(model, {.bits = 8, .group_size = 32});
    model.save(source);
  }
  for (const char* start : {"first", "second"}) {
    SCOPED_TRACE(start);
    const auto own = own_memory(), active = kernels::active_bytes();
    auto model = LanguageModel::load(source);
    EXPECT_EQ(interleave_from_cache(model, source, cache), std::nullopt);
    EXPECT_EQ(kernels::active_bytes(), active);
    if (!fs::exists(cache)) return;  // this machine reads the weights as they are
    const auto tiles = fs::directory_iterator(cache)->path();
    const auto size = fs::file_size(tiles);
    ASSERT_GT(size, size_t{50} << 20);
    const auto where = places(model);
    EXPECT_FALSE(where.count("")) << where.at("") << " bytes in no file";
    EXPECT_GT(where.at(fs::canonical(tiles)), size / 100 * 99);
    const auto before = addresses(model);
    kernels::reset_peak();
    const auto kept = pass(model);
    const auto peak = kernels::peak_bytes() - active - kept;
    const auto grown = static_cast<ptrdiff_t>(own_memory() - own);
    EXPECT_EQ(kernels::active_bytes(), active);
    EXPECT_EQ(addresses(model), before);
    const auto map = test::map_of(tiles), first = test::map_of(source / "model.safetensors");
    std::cout << size << " bytes of tiles, " << map.rss << " resident, " << map.anonymous
              << " copied; of the first file " << first.rss << "; peak of arrays beside the cache "
              << peak << ", own memory grew by " << grown << "\n";
    EXPECT_GT(map.rss, size / 100 * 95);
    EXPECT_EQ(map.anonymous + first.anonymous, 0u);
    EXPECT_LT(peak, size_t{2} << 20) << "activations of eight tokens";
    if (test::kOwnMemoryTells) {
      EXPECT_LT(grown, ptrdiff_t{4} << 20);
    }
  }
}

}  // namespace
}  // namespace lmxlab

#endif
