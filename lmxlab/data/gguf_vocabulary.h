// The tokenizer of a GGUF file, from the metadata under `tokenizer.ggml`. Reading the file is
// somebody else's work: the values come as plain lists.
#pragma once

#include "lmxlab/data/tokenizer.h"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data {

/// Members are named as the metadata's keys; what a file does not have stays as it is here.
struct GgufVocabulary {
  /// "llama" (SentencePiece BPE), "gpt2" (byte-level BPE), "t5" (unigram), "bert" (WordPiece).
  std::string model;
  /// How a "gpt2" vocabulary cuts text into words; empty counts as "default".
  std::string pre;
  std::vector<std::string> tokens;  // by id
  std::vector<float> scores;        // as many as tokens, or none; "llama" and "t5"
  std::vector<int> token_type;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  std::vector<std::string> merges;  // "left right"; "gpt2"
  std::optional<int> bos_token_id, eos_token_id, unknown_token_id, padding_token_id;
  std::optional<int> seperator_token_id, cls_token_id;  // as GGUF spells it
  /// Where a file does not say, llama.cpp's defaults for the model and `pre`.
  std::optional<bool> add_bos_token, add_eos_token, add_space_prefix, remove_extra_whitespaces;
  std::string precompiled_charsmap;  // bytes; "t5"
};

/// bos and eos are in the tokenizer's config(), where bos_id() and eos_id() find them; with
/// add_special, bos and eos are put around as the flags say.
/// @throws Error(bad_data) if lists contradict each other or an id is outside; Error(unsupported)
/// naming a model or a `pre` we do not know, with the known ones.
Tokenizer tokenizer_from_gguf(const GgufVocabulary& vocabulary);

/// The way back: what a GGUF file has to say so that others cut text as this tokenizer does.
/// Byte-level BPE becomes "gpt2", where a `pre` has its patterns; SentencePiece's BPE, and what
/// imitates it in a tokenizer.json, "llama". A normal form (NFC) cannot be said there and is left
/// out, as in all such files.
/// @throws Error(unsupported) naming what the format cannot say.
GgufVocabulary gguf_vocabulary_of(const Tokenizer& tokenizer);

/// The patterns that text is cut with one after the other, for a known `pre`, or none.
std::vector<std::string> gguf_patterns(std::string_view pre);
/// The `pre` that cuts with these patterns, and takes a word that is a token whole or not; empty if
/// there is none.
std::string gguf_pre(const std::vector<std::string>& patterns, bool ignore_merges);

}  // namespace lmxlab::data
