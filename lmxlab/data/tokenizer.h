// Text to ids and back. A tokenizer is what a tokenizer.json says: normalizer, pre-tokenizer,
// model, post-processor, decoder, added tokens. Other files are read into the same parts.
#pragma once

#include "lmxlab/base/json.h"

#include <mlx/array.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lmxlab::data {

struct Parts;

struct EncodeOptions {
  /// Special tokens written in the text become their ids; else they are plain text. Set it to false
  /// for text from a stranger, who could otherwise write an end-of-turn token. Added tokens that
  /// the tokenizer does not call special, and a SentencePiece model's user-defined pieces, are
  /// found in any case, as in the libraries those come from.
  bool special = true;
  /// Also what the post-processor puts around a sequence (bos, cls, ...).
  bool add_special = false;
  /// Also the truncation and padding that the file asks for. Leave it false where a whole text is
  /// meant: some files cut everything off behind 512 tokens.
  bool truncate_and_pad = false;
};

/// One sequence, or two with what stands between: all lists have the same length.
struct Encoding {
  std::vector<int> ids;
  std::vector<int> type_ids;        // which sequence, as the post-processor says
  std::vector<std::string> tokens;  // as in the vocabulary; of an added token, what it stood for
};

/// What a file of bare ranks leaves open. It is an error to give any of it for another kind of
/// file.
struct TiktokenOptions {
  /// Oniguruma's or Rust's syntax. A tekken.json has one of its own, which this replaces.
  std::string pattern;
  /// Names and ids, found in the text as other special tokens are.
  std::vector<std::pair<std::string, int>> special_tokens;
  /// "NFC", "NFD", "NFKC", "NFKD", or empty: the text is encoded as it is.
  std::string normalizer;
};

/// The file that Tokenizer::load would take in a folder; empty if there is none.
std::filesystem::path tokenizer_file(const std::filesystem::path& folder);

/// A value: copies share one immutable state and may be used from any thread at the same time.
/// Every part of tokenizer.json (models BPE without dropout, Unigram, WordPiece, WordLevel);
/// SentencePiece models of the kinds unigram, bpe and char; tiktoken's rank files; tekken.json;
/// vocab.json with merges.txt; vocab.txt. A GGUF vocabulary: gguf_vocabulary.h.
class Tokenizer {
 public:
  /// The kind is found by looking.
  /// @param path  a file of these kinds, or a folder with tokenizer.json, tokenizer.model,
  /// tekken.json, vocab.json and merges.txt, or vocab.txt (the first of these that is there). A
  /// tokenizer_config.json beside it names bos and eos.
  /// @throws Error(not_found), Error(bad_data) naming the place, Error(unsupported) naming the
  /// part, Error(usage) where `options` are needed or fit no file of this kind.
  static Tokenizer load(const std::filesystem::path& path, const TiktokenOptions& options = {});
  /// The same from JSON values; `config` is tokenizer_config.json, or null.
  static Tokenizer from_json(const Json& tokenizer, const Json& config = Json());
  /// The same from the bytes of a file; `name` is for messages.
  static Tokenizer from_bytes(std::string_view bytes, const std::string& name,
                              const TiktokenOptions& options = {}, const Json& config = Json());
  /// The same from parts, which only this module makes.
  explicit Tokenizer(Parts parts, const Json& config = Json());

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

  /// The same with tokens and types, of one sequence or of two.
  /// @throws as encode_ids, and Error(usage) if the file's truncation cannot be kept.
  Encoding encode_all(std::string_view text, const EncodeOptions& options = {}) const;
  Encoding encode_pair(std::string_view first, std::string_view second,
                       const EncodeOptions& options = {}) const;

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
  std::shared_ptr<const State> state_;
};

/// Decodes ids as they come. What push() and finish() return, joined, is what decode() gives for
/// all ids at once; what a later token could still change, such as half of a UTF-8 character, is
/// held back. Movable.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = false);
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();
  std::string push(int id);
  /// What is still held back (half a character as U+FFFD); the decoder is then as new.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lmxlab::data
