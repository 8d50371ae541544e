// The 256 printable letters that stand for bytes in byte-level vocabularies. Private.
#pragma once

#include "lmxlab/data/tokenizer/regex.h"

#include <string>
#include <string_view>

namespace lmxlab::data {

/// As UTF-8, one or two bytes each.
const std::string& byte_letter(unsigned char byte);
/// The byte a letter stands for, or -1.
int byte_of_letter(char32_t letter);
/// Bytes as letters, appended; and back: false, with nothing appended, if a character is no letter.
void append_letters(std::string& out, std::string_view bytes);
bool append_bytes(std::string& out, std::string_view letters);

/// The byte of a fallback token ("<0x0A>"), or -1.
int byte_of_token(std::string_view token);
std::string byte_token(unsigned char byte);

/// The pattern of GPT-2 that ByteLevel cuts with.
const Regex& gpt2_regex();

}  // namespace lmxlab::data
