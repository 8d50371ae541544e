// Two processes that serve one model hold its weights once.
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/data/tokenizer.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/models/quantize.h"
#include "tests/cli/program.h"
#include "tests/support/memory_map.h"

#include <iostream>
#include <memory>

#ifdef __linux__  // others do not tell what processes share

namespace lmxlab::test {
namespace {

// The head is the embedding, so each token reads every weight. Depth 10: 24 million parameters.
LanguageModel model_of(int depth) {
  auto config = config::preset(
      "llama-tiny",
      {.depth = depth, .dim = 512, .heads = 8, .hidden = 1024, .vocab = 2048, .context = 128});
  config.tie_head = true;
  return LanguageModel(config, 1);
}

// Two processes that generate without end; each has made some text.
struct Two {
  std::vector<std::unique_ptr<Child>> processes;
  Two(const fs::path& model, const fs::path& cache) {
    for (const char* seed : {"1", "2"}) {
      processes.push_back(std::make_unique<Child>(
          program(),
          std::vector<std::string>{"generate", model.string(), "--prompt", "Once", "--max-tokens",
                                   "10000000", "--seed", seed},
          Spawn{.environment = {{"LMXLAB_WEIGHT_CACHE", cache.string()}}}));
      const bool generates =
          processes.back()->wait_until([](const Outcome& o) { return o.out.size() > 40; });
      EXPECT_TRUE(generates) << "process " << seed;
    }
  }
  // Of a file's mapping in both.
  MemoryMap map(const fs::path& file) const {
    MemoryMap sum;
    for (const auto& p : processes) {
      const auto m = map_of(file, p->pid());
      sum.rss += m.rss, sum.pss += m.pss, sum.shared += m.shared, sum.anonymous += m.anonymous;
    }
    return sum;
  }
  size_t own() const {
    return std::max(anonymous_bytes(processes[0]->pid()), anonymous_bytes(processes[1]->pid()));
  }
};

void expect_one_copy(const Two& two, const fs::path& file) {
  const auto size = fs::file_size(file);
  const auto m = two.map(file);
  std::cout << size << " bytes in the file; of both processes " << m.rss << " mapped, " << m.pss
            << " when pages are counted once, " << m.rss - m.shared << " not shared, "
            << m.anonymous << " copied; " << two.own() << " of a process's own\n";
  EXPECT_GT(m.rss, size / 10 * 19) << "both have read it";
  EXPECT_GT(m.pss, size / 10 * 9);
  EXPECT_LE(m.pss, size / 10 * 11);
  EXPECT_LE(m.rss - m.shared, size / 20);
  EXPECT_EQ(m.anonymous, 0u);
  if (kOwnMemoryTells) {
    EXPECT_LT(two.own(), size / 4 * 3) << "arrays, and 24 MB that may be kept for reuse";
  }
}

TEST(SharedWeights, TwoProcessesCostOneCopy) {
  const TemporaryFolder folder;
  model_of(10).save(folder / "m");
  data::Tokenizer::bytes().save(folder / "m");
  const Two two(folder / "m", folder / "cache");
  expect_one_copy(two, folder / "m/model.safetensors");
}

TEST(SharedWeights, AndOneOfWeightsLaidOutAnew) {
  const TemporaryFolder folder;
  {
    auto model = model_of(22);
    quantize_model(model, {.bits = 8, .group_size = 32});
    model.save(folder / "m");
  }
  data::Tokenizer::bytes().save(folder / "m");
  const Two two(folder / "m", folder / "cache");
  const bool anew = fs::exists(folder / "cache");  // else this machine reads them as they are
  expect_one_copy(two, anew ? fs::directory_iterator(folder / "cache")->path()
                            : folder / "m/model.safetensors");
}

}  // namespace
}  // namespace lmxlab::test

#endif
