#include "lmxlab/cli/long_text.h"

#include "lmxlab/inference/stop_strings.h"

#include <algorithm>
#include <chrono>

namespace lmxlab::cli {

int learned_positions(const LanguageModel& model) {
  const auto* learned = std::get_if<config::Learned>(&model.config().position);
  return learned ? learned->length : 0;
}

Generation generate_long(const LanguageModel& model, std::span<const int> prompt,
                         const GenerateOptions& options, const data::Tokenizer* tokenizer,
                         const OnToken& on_token, GenerateStats* stats) {
  const int positions = learned_positions(model);
  const bool fits = positions == 0 || int64_t(prompt.size()) + options.max_tokens <= positions;
  if (fits || positions < 2 || int(prompt.size()) > positions)
    return stream_generate(model, prompt, options, tokenizer, on_token, stats);
  if (!options.stop_strings.empty() && !tokenizer)  // the engine's message
    return stream_generate(model, prompt, options, tokenizer, on_token, stats);

  using Clock = std::chrono::steady_clock;
  std::vector<int> all(prompt.begin(), prompt.end());
  Generation out;
  out.prompt_tokens = int(prompt.size());
  std::optional<data::StreamDecoder> decoder;
  if (tokenizer) decoder.emplace(*tokenizer, options.skip_special);
  StopStrings stops(options.stop_strings);
  GenerateStats total;
  Clock::time_point first_token;
  bool ended = false;
  for (uint64_t round = 0; !ended; ++round) {
    GenerateOptions piece = options;
    piece.stop_strings.clear();  // one may begin before a cut and end behind it
    piece.sampling.seed = options.sampling.seed + (round << 32);
    piece.max_tokens = options.max_tokens - int(out.tokens.size());
    const size_t keep = round == 0 ? all.size() : std::min(all.size(), size_t(positions / 2));
    TokenStream stream(model, {std::vector<int>(all.end() - ptrdiff_t(keep), all.end())}, piece);
    bool any = false;
    while (!ended) {
      auto event = stream.next();
      if (!event) break;
      if (event->token < 0) {
        out.reason = *event->finished, ended = true;
        if (decoder) event->text = stops.push(decoder->finish()) + stops.finish();
      } else {
        any = true;
        if (out.tokens.empty()) first_token = Clock::now();
        out.tokens.push_back(event->token), all.push_back(event->token);
        if (options.logprobs >= 0) out.logprobs.push_back(event->logprob);
        const bool full = int(out.tokens.size()) >= options.max_tokens;
        const bool by_position = event->finished == StopReason::length && !full;
        if (by_position) event->finished.reset();
        ended = full || event->finished;
        if (event->finished) out.reason = *event->finished;
        if (decoder) {
          if (event->finished != StopReason::stop_token)
            event->text = stops.push(decoder->push(event->token));
          if (ended && !stops.found()) event->text += stops.push(decoder->finish());
          if (stops.found())
            event->finished = out.reason = StopReason::stop_string, ended = true;
          else if (ended)
            event->text += stops.finish();
        }
      }
      out.text += event->text;
      if (on_token) on_token(*event);
    }
    const auto& s = stream.stats();
    const int64_t peak = std::max(total.peak_bytes, s.peak_bytes);
    const int drafted = total.draft_tokens + s.draft_tokens;
    const int accepted = total.accepted_tokens + s.accepted_tokens;
    if (round == 0) total = s;
    total.peak_bytes = peak;
    total.draft_tokens = drafted, total.accepted_tokens = accepted;
    if (!any) break;
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - first_token).count();
  if (out.tokens.size() > 1 && seconds > 0)
    total.decode_tokens_per_s = double(out.tokens.size() - 1) / seconds;
  if (stats) *stats = total;
  return out;
}

std::vector<int> opening(const data::Tokenizer& tokenizer) {
  if (const auto bos = tokenizer.bos_id()) return {*bos};
  try {
    if (auto ids = tokenizer.encode_ids("\n"); !ids.empty()) return ids;
  } catch (const Error&) {  // a vocabulary of characters without it
  }
  return {0};
}

}  // namespace lmxlab::cli
