#include "lmxlab/data/tokenizer/byte_level.h"

#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/unicode.h"

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

int hex_digit(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                : -1;
}

}  // namespace

const std::string& byte_letter(unsigned char byte) {
  return letters().of_byte[byte];
}

int byte_of_letter(char32_t letter) {
  return letter < letters().of_code.size() ? letters().of_code[letter] : -1;
}

void append_letters(std::string& out, std::string_view bytes) {
  const auto& table = letters().of_byte;
  const size_t before = out.size();
  out.resize(before + 2 * bytes.size());
  char* at = out.data() + before;
  for (const char c : bytes) {
    const std::string& letter = table[static_cast<unsigned char>(c)];
    *at++ = letter[0];
    if (letter.size() > 1) *at++ = letter[1];
  }
  out.resize(static_cast<size_t>(at - out.data()));
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

int byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  // The library parses the digits as an integer, which may have a sign.
  const int high = token[3] == '+' ? 0 : hex_digit(token[3]), low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::string byte_token(unsigned char byte) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  return std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + ">";
}

const Regex& gpt2_regex() {
  static const Regex regex(
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
  return regex;
}

}  // namespace lmxlab::data
