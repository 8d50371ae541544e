// Text beyond a model's last learned position.
#pragma once

#include "lmxlab/inference/generate.h"

#include <span>

namespace lmxlab::cli {

/// The longest text in tokens, 0: no bound (only learned positions bound it).
int learned_positions(const LanguageModel& model);

/// What stream_generate gives. Where the text would run past the last learned position, it goes on
/// from its last half, and the first token after that cut is drawn from that half alone.
Generation generate_long(const LanguageModel& model, std::span<const int> prompt,
                         const GenerateOptions& options, const data::Tokenizer* tokenizer,
                         const OnToken& on_token, GenerateStats* stats = nullptr);

/// A prompt for a text out of nothing: bos, else a line's end, else the first token.
std::vector<int> opening(const data::Tokenizer& tokenizer);

}  // namespace lmxlab::cli
