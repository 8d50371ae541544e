#include "lmxlab/inference/samples.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <limits>
#include <numeric>

namespace lmxlab {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

}  // namespace

double mean_logprob(const Generation& text) {
  if (text.tokens.empty()) return kNever;
  if (text.logprobs.size() != text.tokens.size())
    throw Error(Kind::usage,
                "[samples] the text has no log-probabilities. Generate it with "
                "`logprobs` 0 or more.");
  return std::accumulate(text.logprobs.begin(), text.logprobs.end(), 0.0) /
         double(text.logprobs.size());
}

std::vector<double> judge(const LanguageModel& model, std::span<const int> prompt,
                          const std::vector<std::vector<int>>& texts) {
  constexpr size_t kPiece = 256;
  for (const auto& text : texts) {  // what is too long or no id is refused as in `generate`
    std::vector<int> all(prompt.begin(), prompt.end());
    all.insert(all.end(), text.begin(), text.end());
    TokenStream(model, {all}, {.max_tokens = 0});
  }
  const Enter enter(model.runtime());
  const auto hidden = [&](std::span<const int> tokens, Cache& cache) {
    auto pass = model.make_pass(&cache);
    return model.transformer().hidden(
        mx::array(tokens.begin(), {1, static_cast<int>(tokens.size())}, mx::int32), pass);
  };
  const auto last_of = [](const mx::array& h) {
    return mx::slice(h, {0, h.shape(1) - 1, 0}, {1, h.shape(1), h.shape(2)});
  };
  Cache read = model.make_cache({}, {.kv_bits = model.kv_bits()});
  mx::array last(0.0f);
  for (size_t from = 0; from < prompt.size(); from += kPiece) {
    last = last_of(hidden(prompt.subspan(from, std::min(kPiece, prompt.size() - from)), read));
    auto all = read.arrays();
    all.push_back(last);
    mx::eval(all);
  }
  std::vector<double> out;
  for (const auto& text : texts) {
    Cache cache = read;
    auto before = last;  // [1, 1, D], behind the token before the piece
    double sum = 0;
    for (size_t from = 0; from < text.size(); from += kPiece) {
      const auto piece = std::span(text).subspan(from, std::min(kPiece, text.size() - from));
      const int n = static_cast<int>(piece.size());
      const auto h = hidden(piece, cache);
      const auto shifted =
          mx::concatenate({before, mx::slice(h, {0, 0, 0}, {1, n - 1, h.shape(2)})}, 1);
      const auto logits =
          mx::astype(mx::squeeze(model.transformer().head(shifted), 0), mx::float32);
      const auto ids = mx::array(piece.begin(), {n, 1}, mx::int32);
      const auto log_p =
          mx::subtract(mx::take_along_axis(logits, ids, 1), mx::logsumexp(logits, 1, true));
      before = last_of(h);
      const auto total = mx::sum(log_p);
      auto all = cache.arrays();
      all.insert(all.end(), {before, total});
      mx::eval(all);
      sum += double(total.item<float>());
    }
    out.push_back(text.empty() ? kNever : sum / double(text.size()));
  }
  return out;
}

}  // namespace lmxlab
