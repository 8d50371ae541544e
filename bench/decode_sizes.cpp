// Decoding over sizes of models: where the bus is the limit, and where it is not. Random float32
// weights, 64 tokens after 16, one row; the best of some rounds. Prints a table for
// docs/unified-memory.md.
//   bench_decode_sizes [--rounds N] [--quick]
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "lmxlab/base/text.h"
#include "lmxlab/governor/measure.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/peaks.h"
#include "lmxlab/lmxlab.h"

namespace {

using namespace lmxlab;

constexpr int kPrompt = 16, kTokens = 64;

struct Size {
  int dim, hidden, depth;
};

config::Model model_of(const Size& s) {
  return config::llama({.depth = s.depth,
                        .dim = s.dim,
                        .heads = s.dim / 32,
                        .hidden = s.hidden,
                        .vocab = 512,
                        .context = 256,
                        .tie_head = true});
}

struct Case {
  Size size;
  LanguageModel model;
  int64_t bytes;  // that a token reads
  double best = 0;
};

int print_table(int rounds, bool quick) {
  const std::vector<Size> sizes{{64, 256, 4},   {128, 512, 4},    {256, 768, 4},
                                {256, 768, 8},  {384, 1024, 8},   {512, 1536, 8},
                                {768, 2048, 8}, {1024, 2816, 10}, {1024, 2816, 20}};
  std::vector<Case> cases;
  for (const auto& size : sizes) {
    const auto config = model_of(size);
    plan::Settings settings;
    settings.context = kPrompt + kTokens;
    const auto parts = lmxlab::measure(Subject{config}, settings);
    const auto bytes = parts.read + parts.kv_cache;
    if (quick && bytes > 50'000'000) break;
    cases.push_back(Case{size, LanguageModel(config, 1), bytes});
  }
  // In turn, so that a slow minute of the machine is nobody's.
  const std::vector<int> prompt(kPrompt, 7);
  double bandwidth = 0;
  for (int round = 0; round < rounds; ++round) {
    for (auto& c : cases) {
      bandwidth = std::max(bandwidth, kernels::measure_read_bandwidth());
      for (int i = 0; i < (c.bytes < 100'000'000 ? 8 : 1); ++i) {
        GenerateStats stats;
        generate(c.model, prompt, {.sampling = {.temperature = 0}, .max_tokens = kTokens}, nullptr,
                 &stats);
        c.best = std::max(c.best, stats.decode_tokens_per_s);
      }
    }
  }
  std::printf("| weights | width x layers | bound at %.0f GB/s | tokens/s | of the bound |\n",
              bandwidth / 1e9);
  std::printf("| ---: | ---: | ---: | ---: | ---: |\n");
  for (const auto& c : cases) {
    const double bound = bandwidth / double(c.bytes);
    std::printf("| %s | %d x %d | %.0f | %.0f | %.2f |\n",
                human_bytes(double(c.model.parameter_bytes())).c_str(), c.size.dim, c.size.depth,
                bound, c.best, c.best / bound);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    int rounds = 5;
    bool quick = false;
    for (int i = 1; i < argc; ++i) {
      if (std::string(argv[i]) == "--quick") quick = true;
      if (std::string(argv[i]) == "--rounds" && i + 1 < argc) rounds = std::stoi(argv[++i]);
    }
    return print_table(rounds, quick);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
