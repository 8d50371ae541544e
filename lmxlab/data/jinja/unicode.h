// Characters as Python's str sees them: properties, case, code points of UTF-8 text. Private.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data::jinja {

/// The code point at byte `at` of valid UTF-8; `at` moves behind it.
char32_t next_code(std::string_view text, size_t& at);
size_t count_codes(std::string_view text);
/// Byte offset of code point `index`, the end if there are fewer.
size_t offset_of(std::string_view text, size_t index);
std::u32string decode_utf8(std::string_view text);
std::string encode_utf8(std::u32string_view codes);
std::string encode_utf8(char32_t code);

bool is_space(char32_t c);  // str.isspace
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeric(char32_t c);
bool is_alnum(char32_t c);
bool is_printable(char32_t c);
bool is_lower(char32_t c);
bool is_upper(char32_t c);
bool is_title(char32_t c);
bool is_line_end(char32_t c);  // what str.splitlines cuts at
/// 0 to 9, or -1.
int decimal_value(char32_t c);

std::string lower(std::string_view text);
std::string upper(std::string_view text);
std::string title(std::string_view text);
std::string capitalize(std::string_view text);
std::string swapcase(std::string_view text);
std::string casefold(std::string_view text);

/// Without white space (of Unicode), or without the characters of `chars`, at the chosen ends.
std::string_view strip(std::string_view text, bool left, bool right);
std::string_view strip(std::string_view text, bool left, bool right, std::string_view chars);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

/// Byte offset of the first occurrence at or after `from`, or npos. Linear time, unlike the
/// standard library's search.
size_t find_text(std::string_view text, std::string_view wanted, size_t from = 0);
/// Of the last occurrence, or npos.
size_t rfind_text(std::string_view text, std::string_view wanted);

}  // namespace lmxlab::data::jinja
