// Text to ids and back. A tokenizer is what a tokenizer.json says: pre-tokenizer, model,
// post-processor, decoder.
#pragma once

#include "lmxlab/base/json.h"

#include <mlx/array.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data {

struct EncodeOptions {
  /// Added and special tokens written in the text become their ids; else they are plain text.
  /// Set it to false for text from a stranger, who could otherwise write an end-of-turn token.
  bool special = true;
  /// Also what the post-processor puts around a sequence (bos, cls, ...).
  bool add_special = false;
};

/// A value: copies share one immutable state and may be used from any thread at the same time.
/// Supported parts of tokenizer.json: model BPE (no dropout, prefix, suffix or byte fallback);
/// pre-tokenizers ByteLevel, Split (regex, Isolated) and Sequence; decoders ByteLevel, Fuse, none;
/// post-processors ByteLevel, TemplateProcessing, Sequence; no normalizer.
class Tokenizer {
 public:
  /// @param path  a tokenizer.json, or a folder that holds one. A tokenizer_config.json beside it
  /// names bos and eos.
  /// @throws Error(not_found), Error(bad_data) naming the place, Error(unsupported) naming the
  /// part.
  static Tokenizer load(const std::filesystem::path& path);
  /// The same from JSON values; `config` is tokenizer_config.json, or null.
  static Tokenizer from_json(const Json& tokenizer, const Json& config = Json());

  /// One id for each different character of the text, in the order of code points.
  /// @throws Error(bad_data) if the text is empty or not UTF-8.
  static Tokenizer characters(std::string_view text);
  /// The same from a list: ids in its order. @throws Error(usage) if an entry is not one character
  /// or stands twice.
  static Tokenizer characters(const std::vector<std::string>& list);
  /// 256 ids: the id of a byte is the byte. Takes any bytes, also those that are no UTF-8.
  static Tokenizer bytes();

  /// @return int32 [n], made from data: usable at once, nothing to evaluate.
  /// @throws as encode_ids.
  mlx::core::array encode(std::string_view text, const EncodeOptions& options = {}) const;
  /// Time O(n log n) in the longest word, O(n) otherwise.
  /// @throws Error(bad_data) if the text is not UTF-8 or has a character without a token; names it
  /// and its place.
  std::vector<int> encode_ids(std::string_view text, const EncodeOptions& options = {}) const;

  /// Always valid UTF-8: bytes that are none become U+FFFD. Ids without a token (a padded
  /// vocabulary) give nothing.
  /// @param skip_special  leave special tokens out.
  std::string decode(std::span<const int> ids, bool skip_special = false) const;
  /// @param ids  an integer array of rank 1 or 0. It is evaluated if it is not yet.
  /// @throws Error(usage) on another rank or type.
  std::string decode(const mlx::core::array& ids, bool skip_special = false) const;

  /// One more than the largest id, added tokens included: the rows an embedding needs.
  int vocab_size() const;
  std::optional<int> token_id(std::string_view token) const;
  /// As it stands in the vocabulary ("Ġthe"). @throws Error(usage) if no token has this id.
  std::string token(int id) const;
  bool is_special(int id) const;

  /// As tokenizer_config.json names them; none where it does not or the vocabulary lacks them.
  std::optional<int> bos_id() const;
  std::optional<int> eos_id() const;
  /// tokenizer_config.json as it was loaded (an object, empty if there was none).
  const Json& config() const;

  /// Writes tokenizer.json and tokenizer_config.json (tokenizer_class PreTrainedTokenizerFast),
  /// each atomically, the same bytes each time. The folder is made. @throws Error(resource)
  void save(const std::filesystem::path& folder) const;
  /// The canonical tokenizer.json.
  Json to_json() const;
  /// 16 hexadecimal digits: FNV-1a of the canonical tokenizer.json. Files made with a tokenizer
  /// carry it.
  std::string fingerprint() const;

 private:
  friend class StreamDecoder;
  struct State;
  explicit Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

/// Decodes ids as they come. What push() and finish() return, joined, is what decode() gives for
/// all ids at once; half a UTF-8 character is held back until the rest of it is there.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = false)
      : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}
  std::string push(int id);
  /// What is still held back (as U+FFFD); the decoder is then as new.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  bool first_ = true;
  std::string held_;
};

}  // namespace lmxlab::data
