#include "lmxlab/data/tokenizer/unicode.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

namespace lmxlab::data {
namespace {

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}
bool within(char32_t c, utf8proc_category_t first, utf8proc_category_t last) {
  const auto found = category(c);
  return found >= first && found <= last;
}
int combining_class(char32_t c) {
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class;
}

// One run without a boundary inside: decomposed, marks in order, composed if asked.
void append_normalized(std::string& out, std::string_view run, NormalForm form,
                       std::vector<utf8proc_int32_t>& buffer) {
  const bool compat = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
  buffer.clear();
  each_character(run, [&](char32_t c, size_t, size_t) {
    utf8proc_int32_t parts[32];  // the longest decomposition has 18
    const auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32,
                                           static_cast<utf8proc_option_t>(options), nullptr);
    if (n > 0 && n <= 32) buffer.insert(buffer.end(), parts, parts + n);
  });
  const auto starter = [](utf8proc_int32_t c) {
    return combining_class(static_cast<char32_t>(c)) == 0;
  };
  for (auto at = buffer.begin(); at != buffer.end();) {
    at = std::find_if_not(at, buffer.end(), starter);
    const auto end = std::find_if(at, buffer.end(), starter);
    std::stable_sort(at, end, [](auto a, auto b) {
      return combining_class(static_cast<char32_t>(a)) < combining_class(static_cast<char32_t>(b));
    });
    at = end;
  }
  if (form == NormalForm::nfc || form == NormalForm::nfkc) {
    const auto n = utf8proc_normalize_utf32(
        buffer.data(), static_cast<utf8proc_ssize_t>(buffer.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (n >= 0) buffer.resize(static_cast<size_t>(n));
  }
  for (const auto c : buffer) append_utf8(out, static_cast<char32_t>(c));
}

}  // namespace

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
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

bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}
bool is_numeric(char32_t c) {
  return within(c, UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO);
}
bool is_punctuation(char32_t c) {
  if (c < 0x80)
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  return within(c, UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PO);
}
bool is_mark(char32_t c) {
  return c >= 0x300 && within(c, UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME);
}
bool is_nonspacing_mark(char32_t c) {
  return c >= 0x300 && category(c) == UTF8PROC_CATEGORY_MN;
}
bool is_other(char32_t c) {
  const auto found = category(c);
  return found == UTF8PROC_CATEGORY_CC || found == UTF8PROC_CATEGORY_CF ||
         found == UTF8PROC_CATEGORY_CO;
}

std::string normalized(std::string_view text, NormalForm form) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  std::vector<utf8proc_int32_t> buffer;
  const auto ascii = [&](size_t at) { return static_cast<unsigned char>(text[at]) < 0x80; };
  for (size_t at = 0; at < text.size();) {
    // ASCII is in every normal form and composes with what follows it only: a run begins at the
    // last ASCII character before others and ends before the next one.
    size_t end = at;
    while (end < text.size() && ascii(end)) ++end;
    const size_t begin = end < text.size() && end > at ? end - 1 : end;
    out.append(text.substr(at, begin - at));
    while (end < text.size() && !ascii(end)) ++end;
    if (end > begin) append_normalized(out, text.substr(begin, end - begin), form, buffer);
    at = end;
  }
  return out;
}

void append_lower_case(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  } else if (c == 0x130) {
    out += "i\xCC\x87";  // the one character whose lower case is two
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

size_t cluster_end(std::string_view text, size_t at) {
  size_t length = 0;
  char32_t before = code_point(text, at, length);
  at += length;
  utf8proc_int32_t state = 0;
  while (at < text.size()) {
    const char32_t next = code_point(text, at, length);
    if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(before),
                                         static_cast<utf8proc_int32_t>(next), &state))
      break;
    at += length;
    before = next;
  }
  return at;
}

}  // namespace lmxlab::data
