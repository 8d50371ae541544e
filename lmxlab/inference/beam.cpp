#include "lmxlab/inference/beam.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/memory.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace lmxlab {
namespace {

struct Candidate {
  double logprob;
  int beam, token;
};

// The n most probable continuations of rows with these log-probabilities, best first.
std::vector<Candidate> best_of(const mx::array& logits, const std::vector<Beam>& beams, int n) {
  const int rows = logits.shape(0), vocab = logits.shape(1);
  std::vector<float> sums;
  for (const auto& b : beams) sums.push_back(static_cast<float>(b.logprob));
  const auto raw = mx::astype(logits, mx::float32);
  const auto all = mx::reshape(
      mx::add(mx::subtract(raw, mx::logsumexp(raw, 1, true)), mx::array(sums.begin(), {rows, 1})),
      {rows * vocab});
  n = std::min(n, rows * vocab);
  const auto places = mx::astype(
      n == rows * vocab ? mx::arange(n, mx::int32)
                        : mx::slice(mx::argpartition(mx::negative(all), n - 1), {0}, {n}),
      mx::int32);
  const auto values = mx::take(all, places);
  mx::eval({places, values});
  const auto at = to_vector<int32_t>(places);
  const auto value = to_vector<float>(values);
  std::vector<Candidate> out;
  for (size_t i = 0; i < at.size(); ++i) out.push_back({value[i], at[i] / vocab, at[i] % vocab});
  std::sort(out.begin(), out.end(), [&](const Candidate& a, const Candidate& b) {
    if (a.logprob != b.logprob) return a.logprob > b.logprob;
    return std::pair(a.beam, a.token) < std::pair(b.beam, b.token);
  });
  return out;
}

}  // namespace

std::vector<Beam> beam_search(const LanguageModel& model, std::span<const int> prompt,
                              const BeamOptions& o, GenerateStats* stats) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto seconds = [](Clock::time_point since) {
    return std::chrono::duration<double>(Clock::now() - since).count();
  };
  if (o.beams < 1)
    throw Error(Kind::usage, "[beam] expected 1 beam or more, got " + std::to_string(o.beams));
  // Checks the prompt and the options they share, and reads nothing.
  TokenStream(model, {{prompt.begin(), prompt.end()}},
              {.max_tokens = o.max_tokens,
               .prefill_chunk = o.prefill_chunk,
               .kv_bits = o.kv_bits,
               .max_kv = o.max_kv});
  const auto* learned = std::get_if<config::Learned>(&model.config().position);
  const int length = static_cast<int>(prompt.size());
  const int most = learned ? std::min(o.max_tokens, learned->length - length + 1) : o.max_tokens;
  const auto& stops = o.stop_tokens;
  const auto ends = [&](int token) {
    return !o.ignore_eos && std::find(stops.begin(), stops.end(), token) != stops.end();
  };
  const auto score = [&](double logprob, size_t n) {
    return logprob / std::pow(double(n), double(o.length_penalty));
  };

  const Enter enter(model.runtime());
  kernels::reset_peak();
  GenerateStats counted;
  Cache cache =
      model.make_cache({}, {.kv_bits = o.kv_bits.value_or(model.kv_bits()), .max_kv = o.max_kv});
  cache.text_length = length;
  mx::array logits(0.0f);
  for (int from = 0; from < length; from += o.prefill_chunk) {
    const int n = std::min(o.prefill_chunk, length - from);
    const kernels::WithActivations rounded(model.prompt_activations(n));
    auto pass = model.make_pass(&cache);
    const auto hidden =
        model.transformer().hidden(mx::array(prompt.begin() + from, {1, n}, mx::int32), pass);
    const auto last = mx::slice(hidden, {0, n - 1, 0}, {1, n, hidden.shape(2)});
    logits = mx::squeeze(model.transformer().head(last), 1);
    auto all = cache.arrays();
    if (from + n == length) all.push_back(logits);
    mx::eval(all);
  }
  counted.prefill_tokens_per_s = length / seconds(start);
  const auto decoding = Clock::now();

  const auto width = static_cast<size_t>(o.beams);
  const int wanted = std::max(2, 1 + static_cast<int>(o.ignore_eos ? 0 : stops.size())) * o.beams;
  std::vector<Beam> running(1), ended;
  const auto better = [](const Beam& a, const Beam& b) { return a.score > b.score; };
  for (int made = 1; made <= most && !o.stop.stop_requested(); ++made) {
    std::vector<Beam> next;
    std::vector<int32_t> rows, tokens;
    const auto candidates = best_of(logits, running, wanted);
    for (size_t rank = 0; rank < candidates.size(); ++rank) {
      const auto& c = candidates[rank];
      const bool stop = ends(c.token), over = stop || made == most;
      if (over ? rank >= width : next.size() == width) continue;
      Beam beam = running[static_cast<size_t>(c.beam)];
      beam.tokens.push_back(c.token);
      beam.logprob = c.logprob, beam.score = score(c.logprob, beam.tokens.size());
      if (over) {
        beam.reason = stop ? StopReason::stop_token : StopReason::length;
        ended.push_back(std::move(beam));
      } else {
        next.push_back(std::move(beam));
        rows.push_back(c.beam), tokens.push_back(c.token);
      }
    }
    std::stable_sort(ended.begin(), ended.end(), better);
    if (ended.size() > width) ended.resize(width);
    running = std::move(next);
    if (made == 1) counted.time_to_first_token_s = seconds(start);
    const bool full = ended.size() == width;
    if (running.empty() || (full && running[0].score <= ended.back().score)) break;
    cache.reorder(mx::array(rows.begin(), {static_cast<int>(rows.size())}, mx::int32));
    const auto fed = mx::array(tokens.begin(), {static_cast<int>(tokens.size()), 1}, mx::int32);
    auto [out, grown] = model(fed, std::move(cache));
    cache = std::move(grown);
    logits = mx::squeeze(out, 1);
    auto all = cache.arrays();
    all.push_back(logits);
    mx::eval(all);
  }
  if (o.stop.stop_requested())
    for (auto& beam : running) {
      beam.reason = StopReason::canceled;
      if (ended.size() < width && !beam.tokens.empty()) ended.push_back(std::move(beam));
    }
  std::stable_sort(ended.begin(), ended.end(), better);
  size_t longest = 0;
  for (const auto& b : ended) longest = std::max(longest, b.tokens.size());
  if (longest > 1)
    counted.decode_tokens_per_s = double(longest - 1) * double(width) / seconds(decoding);
  counted.peak_bytes = static_cast<int64_t>(kernels::peak_bytes());
  if (stats) *stats = counted;
  return ended;
}

}  // namespace lmxlab
