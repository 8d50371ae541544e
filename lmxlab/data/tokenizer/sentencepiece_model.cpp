// SentencePiece's model file, a protobuf message, read by a reader of the wire format of our own.
//   message: fields; a field: varint key (number << 3 | kind), then by kind 0 a varint, 1 eight
//   bytes, 2 a varint length and so many bytes, 5 four bytes.
//   ModelProto: 1 pieces (1 text, 2 score, 3 type), 2 trainer (3 model kind, 24 suffix, 35 byte
//   fallback, 44 unk surface), 3 normalizer (2 map, 3 dummy prefix, 4 fold spaces, 5 escape), 5
//   denormalizer.
#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/byte_level.h"
#include "lmxlab/data/tokenizer/parts.h"
#include "lmxlab/data/tokenizer/ranked_merges.h"
#include "lmxlab/data/tokenizer/sentencepiece.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <unordered_set>

namespace lmxlab::data {
namespace {

[[noreturn]] void bad(const std::string& what) {
  throw Error(Kind::bad_data,
              "[tokenizer] SentencePiece model: " + what + ". The file is damaged; get it again.");
}

// Fields of one message, every length checked before it is believed.
class Message {
 public:
  Message(std::string_view bytes, size_t offset) : bytes_(bytes), offset_(offset) {}

  struct Field {
    uint64_t number = 0;
    int kind = 0;
    uint64_t value = 0;      // kinds 0, 1 and 5
    std::string_view bytes;  // kind 2
    size_t offset = 0;       // of these in the file
  };
  bool next(Field& f) {
    if (at_ >= bytes_.size()) return false;
    const uint64_t key = varint();
    f = {};
    f.number = key >> 3, f.kind = static_cast<int>(key & 7);
    if (f.number == 0) bad("the field number 0" + place());
    switch (f.kind) {
      case 0: f.value = varint(); break;
      case 1: f.value = fixed(8); break;
      case 2: {
        const uint64_t length = varint();
        if (length > bytes_.size() - at_)
          bad("a field of " + std::to_string(length) + " bytes where " +
              std::to_string(bytes_.size() - at_) + " are left" + place());
        f.offset = offset_ + at_;
        f.bytes = bytes_.substr(at_, static_cast<size_t>(length));
        at_ += static_cast<size_t>(length);
        break;
      }
      case 5: f.value = fixed(4); break;
      default: bad("a field of the unknown kind " + std::to_string(f.kind) + place());
    }
    return true;
  }

 private:
  std::string place() const { return " at byte " + std::to_string(offset_ + at_); }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ >= bytes_.size()) bad("it ends inside a number" + place());
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    bad("a number of more than ten bytes" + place());
  }
  uint64_t fixed(size_t size) {
    if (bytes_.size() - at_ < size) bad("it ends inside a number" + place());
    uint64_t value = 0;
    for (size_t k = size; k-- > 0;)
      value = value << 8 | static_cast<unsigned char>(bytes_[at_ + k]);
    at_ += size;
    return value;
  }
  std::string_view bytes_;
  size_t offset_, at_ = 0;
};

SentencePieceModel::Piece read_piece(const Message::Field& field) {
  using Type = SentencePieceModel::Type;
  SentencePieceModel::Piece piece;
  Message message(field.bytes, field.offset);
  for (Message::Field f; message.next(f);) {
    if (f.number == 1 && f.kind == 2) {
      piece.text = f.bytes;
      if (const size_t wrong = invalid_utf8_at(f.bytes); wrong != std::string_view::npos)
        bad("a piece is not UTF-8 at byte " + std::to_string(f.offset + wrong));
    } else if (f.number == 2 && f.kind == 5) {
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(f.value));
    } else if (f.number == 3 && f.kind == 0) {
      if (f.value < 1 || f.value > 6)
        bad("a piece of the unknown type " + std::to_string(f.value) + " at byte " +
            std::to_string(field.offset));
      piece.type = static_cast<Type>(f.value);
    }
  }
  return piece;
}

SentencePieceModel read_model(std::string_view bytes) {
  SentencePieceModel model;
  Message message(bytes, 0);
  for (Message::Field f; message.next(f);) {
    if (f.kind != 2) continue;
    if (f.number == 1) model.pieces.push_back(read_piece(f));
    if (f.number == 5) {
      Message inner(f.bytes, f.offset);
      for (Message::Field g; inner.next(g);)
        if (g.number == 2 && g.kind == 2 && !g.bytes.empty())
          throw Error(Kind::unsupported,
                      "[tokenizer] SentencePiece model: rules for decoded text (denormalizer_spec) "
                      "are not supported. Use a model without them.");
    }
    if (f.number == 2) {
      Message inner(f.bytes, f.offset);
      for (Message::Field g; inner.next(g);) {
        if (g.number == 3 && g.kind == 0) {
          if (g.value < 1 || g.value > 4) bad("the unknown model kind " + std::to_string(g.value));
          model.kind = static_cast<SentencePieceModel::Kind>(g.value);
        }
        if (g.number == 24 && g.kind == 0) model.whitespace_as_suffix = g.value != 0;
        if (g.number == 35 && g.kind == 0) model.byte_fallback = g.value != 0;
        if (g.number == 44 && g.kind == 2) model.unk_surface = g.bytes;
      }
    }
    if (f.number == 3) {
      Message inner(f.bytes, f.offset);
      for (Message::Field g; inner.next(g);) {
        if (g.number == 2 && g.kind == 2) model.charsmap = g.bytes;
        if (g.number == 3 && g.kind == 0) model.add_dummy_prefix = g.value != 0;
        if (g.number == 4 && g.kind == 0) model.remove_extra_whitespaces = g.value != 0;
        if (g.number == 5 && g.kind == 0) model.escape_whitespaces = g.value != 0;
      }
    }
  }
  return model;
}

}  // namespace

bool is_sentencepiece(std::string_view bytes) {
  // Field 1 is a piece, and all of it reads as one.
  if (bytes.size() < 4 || bytes[0] != 0x0A) return false;
  try {
    Message message(bytes, 0);
    Message::Field f;
    if (!message.next(f) || f.bytes.empty()) return false;
    Message inner(f.bytes, 0);
    for (Message::Field g; inner.next(g);)
      if (g.number > 3 || g.kind != (g.number == 1 ? 2 : g.number == 2 ? 5 : 0)) return false;
    return true;
  } catch (const Error&) {
    return false;
  }
}

Parts parts_from_sentencepiece(std::string_view bytes) {
  const SentencePieceModel model = read_model(bytes);
  const auto of_type = [&](SentencePieceModel::Type type) {
    return std::count_if(model.pieces.begin(), model.pieces.end(),
                         [&](const auto& p) { return p.type == type; });
  };
  if (of_type(SentencePieceModel::Type::unknown) != 1)
    bad("expected one piece of the type unknown, got " +
        std::to_string(of_type(SentencePieceModel::Type::unknown)));
  return parts_of_sentencepiece(model);
}

Parts parts_of_sentencepiece(const SentencePieceModel& model) {
  using Type = SentencePieceModel::Type;
  if (model.kind == SentencePieceModel::Kind::word)
    throw Error(Kind::unsupported,
                "[tokenizer] SentencePiece model: the kind word is not supported, but unigram, bpe "
                "and char. Use a model of another kind.");
  if (model.pieces.size() >= static_cast<size_t>(kLargestId))
    bad("expected fewer than 2^24 pieces, got " + std::to_string(model.pieces.size()));
  Parts parts;
  SentencePieceNormalizer normalizer;
  normalizer.map = std::make_shared<Charsmap>(model.charsmap);
  normalizer.add_dummy_prefix = model.add_dummy_prefix;
  normalizer.remove_extra_whitespaces = model.remove_extra_whitespaces;
  normalizer.escape_whitespaces = model.escape_whitespaces;
  normalizer.whitespace_as_suffix = model.whitespace_as_suffix;
  SentencePieceDecoder decoder;
  decoder.strip_first = model.add_dummy_prefix;
  decoder.strip_all = model.remove_extra_whitespaces;
  decoder.unk_surface = model.unk_surface;
  std::optional<int> unk;
  std::vector<int> user_defined, hidden;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& p = model.pieces[i];
    const int id = static_cast<int>(i);
    if (p.text.empty()) bad("piece " + std::to_string(i) + " is empty");
    if (!std::isfinite(p.score)) bad("the score of piece " + std::to_string(i) + " is no number");
    if (p.type == Type::user_defined)
      user_defined.push_back(id), normalizer.kept.push_back(p.text);
    else if (p.type != Type::normal)
      hidden.push_back(id);
    if (p.type == Type::unknown) unk = id, decoder.unk_piece = p.text;
    if (p.type == Type::control || p.type == Type::unknown) {
      AddedToken token;
      token.id = id, token.content = p.text;
      parts.added.push_back(std::move(token));
    }
    if (p.type == Type::control) decoder.controls.push_back(p.text);
    if (p.type == Type::byte && byte_of_token(p.text) < 0)
      bad("piece " + std::to_string(i) + " is of the type byte: expected <0x00> to <0xFF>, got \"" +
          p.text + "\"");
  }
  normalizer.index_kept();
  if (model.kind == SentencePieceModel::Kind::unigram) {
    Unigram::Data data;
    std::unordered_set<std::string_view> seen;  // BPE's vocabulary looks itself
    for (const auto& p : model.pieces)
      if (!seen.insert(p.text).second) bad("the piece \"" + p.text + "\" stands twice");
    for (const auto& p : model.pieces) data.vocab.push_back({p.text, p.score});
    data.unk_id = unk;
    data.byte_fallback = model.byte_fallback;
    data.single_precision = true;
    data.hidden = std::move(hidden);
    data.user_defined = std::move(user_defined);
    parts.model = std::move(data);
  } else {
    Bpe::Data data;
    data.late_fallback = data.fuse_unk = true;
    data.byte_fallback = model.byte_fallback;
    if (unk) data.unk_token = model.pieces[static_cast<size_t>(*unk)].text;
    data.frozen = normalizer.kept;
    std::vector<RankedToken> ranked;
    for (size_t i = 0; i < model.pieces.size(); ++i) {
      const auto& p = model.pieces[i];
      data.vocab.emplace_back(p.text, static_cast<int>(i));
      if (p.type == Type::unused) data.unused.push_back(p.text);
      const bool merges =
          p.type == Type::normal || p.type == Type::user_defined || p.type == Type::unused;
      if (merges && model.kind == SentencePieceModel::Kind::bpe)
        ranked.push_back({p.text, -static_cast<double>(p.score), static_cast<int>(i)});
    }
    add_ranked_merges(data, std::move(ranked), true);
    parts.model = std::move(data);
  }
  parts.normalizers = {std::move(normalizer)};
  parts.decoders = {std::move(decoder)};
  return parts;
}

}  // namespace lmxlab::data
