// Small helpers on text: nearest names for error messages, joining, human-readable sizes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab {

/// The candidate with the smallest edit distance, empty if none is within a third of the length (at
/// least 2).
std::string nearest(std::string_view name, const std::vector<std::string>& candidates);

/// `; did you mean "x"?` or a list of what is known, for the end of an error message.
std::string suggestion(std::string_view name, const std::vector<std::string>& candidates);

std::string join(const std::vector<std::string>& parts, std::string_view separator);
std::vector<std::string> split(std::string_view text, char separator);
/// Whether a pattern is the text, where "*" is any text.
bool fits_pattern(std::string_view pattern, std::string_view text);
std::string_view trim(std::string_view text);

/// 1536 -> "1.54 KB" (powers of 1000).
std::string human_bytes(double bytes);
/// 124439808 -> "124.4M".
std::string human_count(double count);
/// 125.4 -> "2m 05s".
std::string human_seconds(double seconds);
/// 124439808 -> "124,439,808".
std::string with_commas(int64_t value);

/// Shortest decimal that reads back as the same float, as a double (so that 1e-5f is written
/// 1e-05).
double shortest(float value);

/// Offset of the first byte that is not valid UTF-8, or npos.
size_t invalid_utf8_at(std::string_view text);

/// Appends the UTF-8 form of a code point.
void append_utf8(std::string& out, char32_t code);

}  // namespace lmxlab
