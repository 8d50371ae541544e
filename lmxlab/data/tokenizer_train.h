// Training of byte-level BPE: the merges are those of the tokenizers library's BpeTrainer on the
// same text.
#pragma once

#include "lmxlab/data/tokenizer.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace lmxlab::data {

struct TrainOptions {
  /// Tokens in all: special ones, the 256 byte letters, merges. Fewer come out where the text has
  /// no more pairs.
  int vocab_size = 30'000;
  /// Ids from 0 on. They are not looked for in the text.
  std::vector<std::string> special_tokens;
  /// A pair seen less often is not merged.
  int64_t min_frequency = 0;
  /// Which of special_tokens begin and end a document, for tokenizer_config.json; empty: none.
  std::string bos_token, eos_token;
};

/// Called from the calling thread with the part done, 0 to 1, never falling. What it throws ends
/// the training.
using TrainProgress = std::function<void(double fraction)>;

/// The words are GPT-2's (ByteLevel pre-tokenizer, no prefix space). Each round merges the pair
/// seen most often; of equals, the one with the smaller left id, then the smaller right id. The
/// result does not depend on the number of threads. Files are read line by line, as the library's
/// train() does: no word crosses the end of a line.
/// @throws Error(usage) if vocab_size is smaller than the special tokens and 256 letters, or an
/// option is wrong;
///   Error(bad_data) if there is no text, or naming file and offset where a byte is not UTF-8;
///   Error(not_found).
Tokenizer train_bpe(std::span<const std::filesystem::path> files, const TrainOptions& options,
                    const TrainProgress& progress = {});
/// The same from texts in memory, each one sequence, as the library's train_from_iterator() does.
Tokenizer train_bpe(std::span<const std::string> texts, const TrainOptions& options,
                    const TrainProgress& progress = {});

}  // namespace lmxlab::data
