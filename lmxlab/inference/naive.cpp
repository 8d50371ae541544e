#include "lmxlab/inference/naive.h"

#include "lmxlab/core/runtime.h"

#include <mlx/ops.h>

#include <algorithm>

namespace lmxlab {

std::vector<int> naive_generate(const LanguageModel& model, std::span<const int> prompt,
                                const GenerateOptions& options) {
  const Enter enter(model.runtime());
  const int vocab = model.config().vocab;
  const auto* learned = std::get_if<config::Learned>(&model.config().position);
  std::vector<int> text(prompt.begin(), prompt.end()), made;
  const std::vector<std::vector<int>> prompts{text};
  Sampler sampler(options.sampling, vocab, prompts, {options.sampling.seed});
  while (static_cast<int>(made.size()) < options.max_tokens) {
    const int length = static_cast<int>(text.size());
    if (learned && length > learned->length) break;
    const mx::array tokens(text.begin(), {1, length}, mx::int32);
    const auto logits = model.forward(tokens);
    const auto last =
        mx::reshape(mx::slice(logits, {0, length - 1, 0}, {1, length, vocab}), {1, vocab});
    const int token = sampler.draw(last).tokens.item<int32_t>();
    text.push_back(token);
    made.push_back(token);
    const auto& stops = options.stop_tokens;
    if (!options.ignore_eos && std::find(stops.begin(), stops.end(), token) != stops.end()) break;
  }
  return made;
}

}  // namespace lmxlab
