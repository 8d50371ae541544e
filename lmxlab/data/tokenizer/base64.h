// Base64 (RFC 4648, with padding). Private.
#pragma once

#include <string>
#include <string_view>

namespace lmxlab::data {

/// @throws Error(bad_data) naming `place`.
std::string decode_base64(std::string_view text, std::string_view place);
std::string encode_base64(std::string_view bytes);

}  // namespace lmxlab::data
