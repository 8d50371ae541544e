#include "lmxlab/data/tokenizer_parts.h"

#include "lmxlab/base/text.h"

#include <algorithm>
#include <array>

namespace lmxlab::data {
namespace {

struct Letters {
  std::array<std::string, 256> of_byte;
  std::array<int, 0x144> of_code;
  Letters() {
    of_code.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const char32_t code = printable ? static_cast<char32_t>(b) : next++;
      append_utf8(of_byte[static_cast<size_t>(b)], code);
      of_code[code] = b;
    }
  }
};
const Letters& letters() {
  static const Letters table;
  return table;
}

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word(std::string_view character) {
  static const Regex word(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}])");
  size_t begin = 0, end = 0;
  return word.find(character, 0, begin, end);
}

// Start of the character that ends at `end`.
size_t character_before(std::string_view text, size_t end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

}  // namespace

const std::string& byte_letter(unsigned char byte) {
  return letters().of_byte[byte];
}

int byte_of_letter(char32_t letter) {
  return letter < letters().of_code.size() ? letters().of_code[letter] : -1;
}

void append_letters(std::string& out, std::string_view bytes) {
  for (const char c : bytes) out += byte_letter(static_cast<unsigned char>(c));
}

bool append_bytes(std::string& out, std::string_view text) {
  const size_t before = out.size();
  for (size_t at = 0, length = 0; at < text.size(); at += length) {
    const int byte = byte_of_letter(code_point(text, at, length));
    if (byte < 0) return out.resize(before), false;
    out += static_cast<char>(byte);
  }
  return true;
}

const Regex& gpt2_regex() {
  static const Regex regex(
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
  return regex;
}

namespace {

void cut_pieces(Pieces& pieces, const Regex& regex) {
  std::vector<size_t> ends;
  size_t begin = 0;
  for (const size_t end : pieces.ends) {
    regex.cut(pieces.text.substr(begin, end - begin), begin, ends);
    begin = end;
  }
  pieces.ends = std::move(ends);
}

}  // namespace

void SplitStep::apply(Pieces& pieces) const {
  cut_pieces(pieces, regex);
}

void ByteLevel::apply(Pieces& pieces) const {
  std::string text;
  if (add_prefix_space) {
    size_t begin = 0;
    for (size_t& end : pieces.ends) {
      const std::string_view piece = pieces.text.substr(begin, end - begin);
      if (!piece.starts_with(' ')) text += ' ';
      text += piece;
      begin = end;
      end = text.size();
    }
    pieces.owned = std::move(text);
    pieces.text = pieces.owned;
  }
  if (use_regex) cut_pieces(pieces, gpt2_regex());
  text.clear();
  text.reserve(pieces.text.size() + pieces.text.size() / 2);
  size_t begin = 0;
  for (size_t& end : pieces.ends) {
    append_letters(text, pieces.text.substr(begin, end - begin));
    begin = end;
    end = text.size();
  }
  pieces.owned = std::move(text);
  pieces.text = pieces.owned;
  pieces.letters = true;
}

AddedMatcher::AddedMatcher(const std::vector<AddedToken>& tokens, bool normalized)
    : tokens_(&tokens), values_{-1}, edges_([&] {
        size_t bytes = 0;
        for (const auto& t : tokens) bytes += t.content.size();
        return bytes;
      }()) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i].normalized != normalized || tokens[i].content.empty()) continue;
    ++count_;
    int node = 0;
    for (const char c : tokens[i].content) {
      const uint64_t key = PairTable::key(node, static_cast<unsigned char>(c));
      int child = edges_.find(key);
      if (child < 0) {
        child = static_cast<int>(values_.size());
        values_.push_back(-1);
        edges_.put(key, child);
      }
      node = child;
    }
    values_[static_cast<size_t>(node)] = static_cast<int>(i);
    first_[static_cast<unsigned char>(tokens[i].content[0])] = true;
  }
}

void AddedMatcher::split(std::string_view text, const std::function<void(size_t, size_t)>& on_text,
                         const std::function<void(const AddedToken&)>& on_token) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    if (!first_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    int node = 0, found = -1;
    for (size_t k = at; k < text.size(); ++k) {
      node = edges_.find(PairTable::key(node, static_cast<unsigned char>(text[k])));
      if (node < 0) break;
      if (values_[static_cast<size_t>(node)] >= 0) found = values_[static_cast<size_t>(node)];
    }
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = (*tokens_)[static_cast<size_t>(found)];
    size_t begin = at, end = at + token.content.size(), length = 0;
    at = end;  // the next match begins behind this one, also where the flags reject it
    if (token.single_word) {
      if (begin > 0 && is_word(text.substr(character_before(text, begin),
                                           begin - character_before(text, begin))))
        continue;
      if (end < text.size()) {
        code_point(text, end, length);
        if (is_word(text.substr(end, length))) continue;
      }
    }
    if (token.lstrip)
      while (begin > done) {
        const size_t previous = character_before(text, begin);
        if (!is_space(code_point(text, previous, length))) break;
        begin = previous;
      }
    if (token.rstrip)
      while (end < text.size() && is_space(code_point(text, end, length))) end += length;
    begin = std::max(begin, done);
    if (begin > done) on_text(done, begin);
    on_token(token);
    done = std::max(done, end);
  }
  if (done < text.size()) on_text(done, text.size());
}

size_t utf8_length(std::string_view bytes, size_t at, bool& valid, bool& incomplete) {
  valid = true, incomplete = false;
  const auto byte = [&](size_t k) { return static_cast<unsigned char>(bytes[at + k]); };
  const unsigned char c = byte(0);
  if (c < 0x80) return 1;
  const size_t need = c >= 0xC2 && c <= 0xDF   ? 2
                      : c >= 0xE0 && c <= 0xEF ? 3
                      : c >= 0xF0 && c <= 0xF4 ? 4
                                               : 0;
  if (need == 0) return valid = false, 1;
  for (size_t k = 1; k < need; ++k) {
    if (at + k >= bytes.size()) return valid = false, incomplete = true, k;
    const unsigned char low = k > 1 ? 0x80 : c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = k > 1 ? 0xBF : c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (byte(k) < low || byte(k) > high) return valid = false, k;
  }
  return need;
}

}  // namespace lmxlab::data
