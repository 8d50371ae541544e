// Tokens back to text: the decoders of tokenizer.json, and SentencePiece's. Private.
//
// Each decoder is a stage that takes its tokens as they come, and gives what no later token can
// change; so decoding a stream and decoding all at once is the same code.
#pragma once

#include "lmxlab/data/tokenizer/pre_tokenizer.h"

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace lmxlab::data {

struct ByteFallback {};
struct Fuse {};
struct StripDecoder {
  std::string content;  // one character
  size_t start = 0, stop = 0;
};
struct WordPieceDecoder {
  std::string prefix = "##";
  bool cleanup = true;
};
struct BpeDecoder {
  std::string suffix = "</w>";
};
struct Ctc {
  std::string pad_token = "<pad>", word_delimiter_token = "|";
  bool cleanup = true;
};
/// U+2581 is a space, but for those that the normalizer put in front; bytes are joined.
struct SentencePieceDecoder {
  bool strip_first = true;  // the space in front (add_dummy_prefix)
  bool strip_all = true;    // all spaces in front (remove_extra_whitespaces)
  std::string unk_piece, unk_surface;
  std::vector<std::string> controls;  // seen by nobody but who asks for special tokens
};
/// No decoder: tokens with spaces between.
struct Spaced {};

using Decoder = std::variant<ByteLevel, ByteFallback, Fuse, StripDecoder, Replace, Metaspace,
                             WordPieceDecoder, BpeDecoder, Ctc, SentencePieceDecoder, Spaced>;

/// Where a stage puts its text: part of a token; `begins`: of a new one.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void push(std::string_view part, bool begins) = 0;
  /// No more tokens come; after it the stage is as new.
  virtual void finish() = 0;
};

/// The stages of decoders, which must outlive it.
class DecoderChain {
 public:
  explicit DecoderChain(const std::vector<Decoder>& decoders);
  ~DecoderChain();
  DecoderChain(const DecoderChain&) = delete;
  DecoderChain& operator=(const DecoderChain&) = delete;
  /// @throws Error(resource) if the decoders make the text far longer than its tokens.
  void push(std::string_view token);
  void finish();
  /// The text since the last call: whole characters.
  std::string take();

 private:
  struct End;
  std::unique_ptr<End> end_;
  std::vector<std::unique_ptr<Sink>> stages_;  // the last one first
};

}  // namespace lmxlab::data
