#include "lmxlab/eval/perplexity.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/cross_entropy.h"
#include "lmxlab/kernels/rehearsal.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace lmxlab {
namespace {

constexpr int kMostContext = 2048;  // unless it is asked for
constexpr int kLogits = 128;        // tokens whose logits are made at a time

struct Sizes {
  int context, stride;
};

Sizes check(const LanguageModel& model, std::span<const int> tokens, const PerplexityOptions& o) {
  const auto& config = model.config();
  expect_tokens(config, "perplexity");
  const auto* learned = std::get_if<config::Learned>(&config.position);
  Problems problems;
  const auto say = [&](const char* name, int value, const std::string& expected) {
    problems.add(std::string(name) + ": expected " + expected + ", got " + std::to_string(value));
  };
  const int context = o.context != 0 ? o.context : usual_context(model);
  const int stride = o.stride != 0 ? o.stride : std::max(context / 2, 1);
  if (context < 2) say("context", context, "at least 2 tokens");
  if (learned && context > learned->length)
    say("context", context,
        "at most the " + std::to_string(learned->length) + " positions that the model has learned");
  if (stride < 1 || stride >= context)
    say("stride", stride, "from 1 to the context less 1, " + std::to_string(context - 1));
  if (tokens.size() < 2)
    problems.add("the text: expected at least 2 tokens, got " + std::to_string(tokens.size()));
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= config.vocab) {
      problems.add("token " + std::to_string(i) + ": expected an id from 0 to " +
                   std::to_string(config.vocab - 1) + ", got " + std::to_string(tokens[i]));
      break;
    }
  problems.raise(Kind::usage, "[perplexity] cannot start");
  return {context, stride};
}

}  // namespace

int usual_context(const LanguageModel& model) {
  const auto& config = model.config();
  const auto* learned = std::get_if<config::Learned>(&config.position);
  return std::max(learned ? learned->length : std::min(config.context, kMostContext), 2);
}

double Perplexity::perplexity() const {
  return std::exp(nll);
}

Perplexity perplexity(const LanguageModel& model, std::span<const int> tokens,
                      const PerplexityOptions& options,
                      const std::function<void(int64_t, int64_t)>& progress) {
  const auto [context, stride] = check(model, tokens, options);
  const Enter enter(model.runtime());
  const auto all = static_cast<int64_t>(tokens.size());
  double sum = 0;
  int64_t predicted = 0;  // tokens [1, predicted] have counted
  for (int64_t begin = 0; predicted < all - 1; begin += stride) {
    if (options.stop.stop_requested()) throw Error(Kind::canceled, "[perplexity] interrupted");
    const int64_t end = std::min(all, begin + context);
    const auto length = static_cast<int>(end - begin - 1);  // the last token is only predicted
    const auto inputs = kernels::host_array(tokens.data() + begin, {1, length});
    auto pass = model.make_pass();
    const auto hidden = model.transformer().hidden(inputs, pass);
    mx::eval(hidden);
    // Position i of the window predicts token begin + i + 1.
    for (auto from = static_cast<int>(predicted - begin); from < length; from += kLogits) {
      const int to = std::min(length, from + kLogits);
      const auto logits =
          model.transformer().head(mx::slice(hidden, {0, from, 0}, {1, to, hidden.shape(2)}));
      const mx::array targets(tokens.data() + begin + from + 1, {1, to - from}, mx::int32);
      const auto nll = kernels::cross_entropy(logits, targets).nll;
      for (const float v : to_vector<float>(nll)) sum += static_cast<double>(v);
      predicted = begin + to;
      if (progress) progress(predicted, all - 1);
    }
  }
  return {sum / static_cast<double>(predicted), predicted, context, stride};
}

}  // namespace lmxlab
