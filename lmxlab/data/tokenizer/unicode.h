// Unicode behind one private header of ours: properties, case, normal forms and clusters from
// utf8proc, and the steps over UTF-8 that every part of a tokenizer needs.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lmxlab::data {

/// The code point at `at` and its length; `text` is valid UTF-8.
inline char32_t code_point(std::string_view text, size_t at, size_t& length) {
  const auto byte = [&](size_t k) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[at + k]));
  };
  const char32_t c = byte(0);
  if (c < 0x80) return length = 1, c;
  if (c < 0xE0) return length = 2, (c & 0x1F) << 6 | (byte(1) & 0x3F);
  if (c < 0xF0) return length = 3, (c & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  return length = 4,
         (c & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
}
inline size_t character_length(std::string_view text, size_t at) {
  const auto c = static_cast<unsigned char>(text[at]);
  return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}
/// Start of the character that ends at `end` > 0.
inline size_t character_before(std::string_view text, size_t end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}
/// Characters of valid UTF-8.
size_t count_characters(std::string_view text);
/// Calls f(code, begin, end) for each character of valid UTF-8.
template <class F>
void each_character(std::string_view text, F&& f) {
  for (size_t at = 0, length = 0; at < text.size(); at += length) {
    const char32_t code = code_point(text, at, length);
    f(code, at, at + length);
  }
}

/// Length of the UTF-8 character at `at`. valid = false: of the longest part that could begin one
/// (at least 1); incomplete: it reaches the end and more bytes could complete it.
size_t utf8_length(std::string_view bytes, size_t at, bool& valid, bool& incomplete);

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr std::string_view kMetaspace = "\xE2\x96\x81";    // U+2581, what stands for a space

bool is_white_space(char32_t c);      // the property White_Space
bool is_numeric(char32_t c);          // category N
bool is_punctuation(char32_t c);      // category P, and what ASCII calls punctuation
bool is_mark(char32_t c);             // category M
bool is_nonspacing_mark(char32_t c);  // category Mn
bool is_other(char32_t c);            // categories Cc, Cf, Co

enum class NormalForm { nfc, nfd, nfkc, nfkd };
/// Time O(n log n) in the longest run of marks, O(n) otherwise. `text` is valid UTF-8.
std::string normalized(std::string_view text, NormalForm form);

/// The full lower case of one character, appended.
void append_lower_case(std::string& out, char32_t c);

/// End of the extended grapheme cluster that begins at `at`.
size_t cluster_end(std::string_view text, size_t at);

}  // namespace lmxlab::data
