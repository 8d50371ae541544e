#include "lmxlab/inference/rehearse.h"

#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/rehearsal.h"

#include <algorithm>

namespace lmxlab {

GenerationMemory rehearse_generation(const LanguageModel& model, int rows, int length,
                                     GenerateOptions options, int each) {
  if (!kernels::rehearsing()) throw Error(Kind::internal, "[rehearse] outside a rehearsal");
  // Of a row: one by one, and one ahead. And until what grows with a text has grown: a plan of
  // thousands of tokens takes the first of them for all.
  constexpr int kTokens = 6, kAll = 256;
  options.ignore_eos = true;
  options.stop_strings.clear();
  options.reuse = nullptr;
  std::vector<std::vector<int>> prompts(
      static_cast<size_t>(rows), std::vector<int>(static_cast<size_t>(std::max(1, length)), 0));
  // Their numbers, as far as there are digits.
  for (size_t r = 0; r < prompts.size(); ++r)
    for (size_t i = 0, left = r / static_cast<size_t>(each); i < prompts[r].size() && left > 0;
         ++i) {
      const auto vocab = static_cast<size_t>(model.config().vocab);
      prompts[r][i] = static_cast<int>(left % vocab), left /= vocab;
    }
  GenerationMemory out;
  // Where the number of drafted tokens is not fixed it will be each in turn: more are not always
  // more memory, since products of a few rows are made in other ways than those of many.
  std::vector<int> drafted{options.num_draft_tokens};
  if (options.draft && options.num_draft_tokens == 0)
    for (int n = 1; n <= Pace::kMost; n += n < 8 ? 1 : 4) drafted.push_back(n);
  // The first text also makes what is made once; behind it the others begin elsewhere.
  const size_t texts = std::max<size_t>(2, drafted.size());
  for (size_t text = 0; text < texts; ++text) {
    options.num_draft_tokens = drafted[std::min(text, drafted.size() - 1)];
    TokenStream stream(model, prompts, options);
    const int few = kTokens + 3 * options.num_draft_tokens;
    const int tokens = text + 1 == texts ? kAll : few;
    for (int i = 0; i < tokens * rows && stream.next(); ++i) {
    }
    out.peak = std::max(out.peak, kernels::peak_bytes());
    if (const auto* cache = stream.cache()) out.cache_bytes = cache->bytes();
  }
  return out;
}

}  // namespace lmxlab
