#include "lmxlab/data/jinja/unicode.h"

#include "lmxlab/base/text.h"

#include <algorithm>
#include <iterator>

namespace lmxlab::data::jinja {
namespace {

struct Range {
  char32_t first, last;
  uint32_t step;
};
struct Mapping {
  char32_t first, last;
  uint32_t step;
  int32_t delta;
};
struct Special {
  char32_t code;
  int table;
  char32_t to[3];
};

#include "lmxlab/data/jinja/unicode_tables.inc"

enum Case { to_lower, to_upper, to_title, to_folded };
constexpr char32_t kSigma = 0x3A3, kFinalSigma = 0x3C2;

// The range that may hold `c`: ranges are in order, but one of step 2 may enclose nothing else.
template <class R, size_t n>
const R* find_range(const R (&table)[n], char32_t c) {
  const auto* after = std::upper_bound(std::begin(table), std::end(table), c,
                                       [](char32_t x, const R& r) { return x < r.first; });
  if (after == std::begin(table)) return nullptr;
  const R& r = *(after - 1);
  return c <= r.last && (c - r.first) % r.step == 0 ? &r : nullptr;
}

void append_mapped(std::u32string& out, char32_t c, Case to) {
  if (c < 0x80) {
    const bool low = c >= 'a' && c <= 'z', up = c >= 'A' && c <= 'Z';
    const bool lowers = to == to_lower || to == to_folded;
    out += lowers ? (up ? c + 32 : c) : (low ? c - 32 : c);
    return;
  }
  const auto* special = std::lower_bound(std::begin(kSpecial), std::end(kSpecial), c,
                                         [](const Special& s, char32_t x) { return s.code < x; });
  for (; special != std::end(kSpecial) && special->code == c; ++special)
    if (special->table == to) {
      for (const char32_t t : special->to)
        if (t) out += t;
      return;
    }
  const Mapping* m = to == to_lower   ? find_range(kToLower, c)
                     : to == to_upper ? find_range(kToUpper, c)
                     : to == to_title ? find_range(kToTitle, c)
                                      : find_range(kToFolded, c);
  out += m ? static_cast<char32_t>(static_cast<int64_t>(c) + m->delta) : c;
}

bool is_cased(char32_t c) {
  return find_range(kCased, c) != nullptr;
}
bool is_case_ignorable(char32_t c) {
  return find_range(kCaseIgnorable, c) != nullptr;
}

// A capital sigma at the end of a word has a small form of its own.
void append_lower(std::u32string& out, std::u32string_view text, size_t i) {
  if (text[i] != kSigma) return append_mapped(out, text[i], to_lower);
  size_t before = i, after = i + 1;
  while (before > 0 && is_case_ignorable(text[before - 1])) --before;
  while (after < text.size() && is_case_ignorable(text[after])) ++after;
  const bool ends =
      before > 0 && is_cased(text[before - 1]) && !(after < text.size() && is_cased(text[after]));
  out += ends ? kFinalSigma : kSigma + 32;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

}  // namespace

char32_t next_code(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) -> char32_t {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0x80u;
  };
  const char32_t c = byte(at);
  if (c < 0x80) return ++at, c;
  const size_t more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
  char32_t code = c & (0x3Fu >> more);
  for (size_t k = 1; k <= more; ++k) code = code << 6 | (byte(at + k) & 0x3F);
  at = std::min(text.size(), at + more + 1);
  return code;
}

size_t count_codes(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

size_t offset_of(std::string_view text, size_t index) {
  size_t at = 0;
  for (; at < text.size(); ++at)
    if ((static_cast<unsigned char>(text[at]) & 0xC0) != 0x80 && index-- == 0) break;
  return at;
}

std::u32string decode_utf8(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) out += next_code(text, at);
  return out;
}

std::string encode_utf8(std::u32string_view codes) {
  std::string out;
  out.reserve(codes.size());
  for (const char32_t c : codes) append_utf8(out, c);
  return out;
}

std::string encode_utf8(char32_t code) {
  std::string out;
  append_utf8(out, code);
  return out;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}
bool is_alpha(char32_t c) {
  return find_range(kAlpha, c) != nullptr;
}
bool is_decimal(char32_t c) {
  return find_range(kDecimal, c) != nullptr;
}
bool is_digit(char32_t c) {
  return find_range(kDigit, c) != nullptr;
}
bool is_numeric(char32_t c) {
  return find_range(kNumeric, c) != nullptr;
}
bool is_alnum(char32_t c) {
  return is_alpha(c) || is_decimal(c) || is_digit(c) || is_numeric(c);
}
bool is_printable(char32_t c) {
  return find_range(kPrintable, c) != nullptr;
}
bool is_lower(char32_t c) {
  return find_range(kLower, c) != nullptr;
}
bool is_upper(char32_t c) {
  return find_range(kUpper, c) != nullptr;
}
bool is_title(char32_t c) {
  return c == 0x1C5 || c == 0x1C8 || c == 0x1CB || c == 0x1F2 || (c >= 0x1F88 && c <= 0x1F8F) ||
         (c >= 0x1F98 && c <= 0x1F9F) || (c >= 0x1FA8 && c <= 0x1FAF) || c == 0x1FBC ||
         c == 0x1FCC || c == 0x1FFC;
}
bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}
int decimal_value(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9' ? static_cast<int>(c - '0') : -1;
  // Decimal digits come in tens, the zero first; two tens may be neighbours.
  const Range* r = find_range(kDecimal, c);
  return r ? static_cast<int>((c - r->first) % 10) : -1;
}

std::string lower(std::string_view text) {
  std::u32string out;
  if (is_ascii(text)) {
    std::string same(text);
    for (char& c : same)
      if (c >= 'A' && c <= 'Z') c += 32;
    return same;
  }
  const auto codes = decode_utf8(text);
  for (size_t i = 0; i < codes.size(); ++i) append_lower(out, codes, i);
  return encode_utf8(out);
}

std::string upper(std::string_view text) {
  std::u32string out;
  for (size_t at = 0; at < text.size();) append_mapped(out, next_code(text, at), to_upper);
  return encode_utf8(out);
}

std::string title(std::string_view text) {
  const auto codes = decode_utf8(text);
  std::u32string out;
  bool inside = false;
  for (size_t i = 0; i < codes.size(); ++i) {
    inside ? append_lower(out, codes, i) : append_mapped(out, codes[i], to_title);
    inside = is_cased(codes[i]);
  }
  return encode_utf8(out);
}

std::string capitalize(std::string_view text) {
  const auto codes = decode_utf8(text);
  std::u32string out;
  for (size_t i = 0; i < codes.size(); ++i)
    i == 0 ? append_mapped(out, codes[i], to_title) : append_lower(out, codes, i);
  return encode_utf8(out);
}

std::string swapcase(std::string_view text) {
  const auto codes = decode_utf8(text);
  std::u32string out;
  for (size_t i = 0; i < codes.size(); ++i) {
    if (is_upper(codes[i]))
      append_lower(out, codes, i);
    else if (is_lower(codes[i]))
      append_mapped(out, codes[i], to_upper);
    else
      out += codes[i];
  }
  return encode_utf8(out);
}

std::string casefold(std::string_view text) {
  std::u32string out;
  for (size_t at = 0; at < text.size();) append_mapped(out, next_code(text, at), to_folded);
  return encode_utf8(out);
}

namespace {

template <class Drop>
std::string_view strip_where(std::string_view text, bool left, bool right, Drop drop) {
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!drop(next_code(text, next))) break;
    begin = next;
  }
  while (right && end > begin) {
    size_t start = end - 1;
    while (start > begin && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    size_t next = start;
    if (!drop(next_code(text, next))) break;
    end = start;
  }
  return text.substr(begin, end - begin);
}

}  // namespace

std::string_view strip(std::string_view text, bool left, bool right) {
  return strip_where(text, left, right, is_space);
}

std::string_view strip(std::string_view text, bool left, bool right, std::string_view chars) {
  auto set = decode_utf8(chars);
  std::sort(set.begin(), set.end());
  return strip_where(text, left, right,
                     [&](char32_t c) { return std::binary_search(set.begin(), set.end(), c); });
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> out;
  for (size_t start = 0, at = 0; start < text.size();) {
    size_t end = at;
    char32_t c = 0;
    while (at < text.size()) {
      end = at;
      if (is_line_end(c = next_code(text, at))) break;
      end = at;
    }
    if (c == '\r' && end < at && at < text.size() && text[at] == '\n') ++at;
    out.push_back(text.substr(start, (keep_ends ? at : end) - start));
    start = at;
  }
  return out;
}

size_t find_text(std::string_view text, std::string_view wanted, size_t from) {
  if (from > text.size() || wanted.size() > text.size() - from) return std::string_view::npos;
  if (wanted.size() < 16) return text.find(wanted, from);
  // Knuth, Morris and Pratt: border[i] is the longest proper border of the first i bytes.
  std::vector<size_t> border(wanted.size() + 1, 0);
  for (size_t i = 1, k = 0; i < wanted.size(); ++i) {
    while (k > 0 && wanted[i] != wanted[k]) k = border[k];
    if (wanted[i] == wanted[k]) ++k;
    border[i + 1] = k;
  }
  for (size_t i = from, k = 0; i < text.size(); ++i) {
    while (k > 0 && text[i] != wanted[k]) k = border[k];
    if (text[i] == wanted[k]) ++k;
    if (k == wanted.size()) return i + 1 - k;
  }
  return std::string_view::npos;
}

size_t rfind_text(std::string_view text, std::string_view wanted) {
  if (wanted.size() < 16) return text.rfind(wanted);
  const std::string backwards(text.rbegin(), text.rend());
  const size_t at = find_text(backwards, std::string(wanted.rbegin(), wanted.rend()));
  return at == text.npos ? text.npos : text.size() - at - wanted.size();
}

}  // namespace lmxlab::data::jinja
