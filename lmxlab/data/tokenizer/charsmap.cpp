#include "lmxlab/data/tokenizer/charsmap.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"

namespace lmxlab::data {

Charsmap::Charsmap(std::string_view blob) : blob_(blob) {
  if (blob.empty()) return;
  const auto word = [&](size_t at) {
    uint32_t value = 0;
    for (size_t k = 4; k-- > 0;) value = value << 8 | static_cast<unsigned char>(blob[at + k]);
    return value;
  };
  const size_t bytes = blob.size() > 4 ? word(0) : 0;
  if (bytes < 4 || bytes % 4 != 0 || bytes > blob.size() - 4)
    throw Error(Kind::bad_data,
                "[tokenizer] the precompiled character map: expected an array of 4 to " +
                    std::to_string(blob.size() < 4 ? 0 : blob.size() - 4) + " bytes, got " +
                    std::to_string(bytes) + ". The file is damaged; get it again.");
  replacements_ = 4 + bytes;
  if (const size_t bad = invalid_utf8_at(blob.substr(replacements_)); bad != std::string_view::npos)
    throw Error(Kind::bad_data,
                "[tokenizer] the precompiled character map: a replacement is not UTF-8 at byte " +
                    std::to_string(replacements_ + bad) + ". The file is damaged; get it again.");
  units_.resize(bytes / 4);
  for (size_t i = 0; i < units_.size(); ++i) units_[i] = word(4 + 4 * i);
}

Charsmap::Match Charsmap::search(std::string_view text, bool first) const {
  Match found;
  if (units_.empty()) return found;
  const auto offset = [](uint32_t unit) {
    return static_cast<size_t>((unit >> 10) << ((unit & 0x200) >> 6));
  };
  constexpr size_t kLongestRule = 256;  // a damaged array may have circles
  text = text.substr(0, kLongestRule);
  size_t node = offset(units_[0]);
  for (size_t k = 0; k < text.size() && text[k] != 0; ++k) {
    const auto byte = static_cast<unsigned char>(text[k]);
    node ^= byte;
    if (node >= units_.size()) break;
    const uint32_t unit = units_[node];
    if ((unit & 0x800000FFu) != byte) break;
    node ^= offset(unit);
    if (node >= units_.size()) break;
    if ((unit >> 8 & 1) == 0) continue;
    const size_t at = replacements_ + (units_[node] & 0x7FFFFFFFu);
    if (at >= blob_.size()) continue;
    const size_t end = blob_.find('\0', at);
    const std::string_view text_of =
        std::string_view(blob_).substr(at, end == std::string::npos ? end : end - at);
    // A place inside a character would give half of it.
    if (!text_of.empty() && (text_of[0] & 0xC0) == 0x80) continue;
    found = {k + 1, text_of};
    if (first) break;
  }
  return found;
}

}  // namespace lmxlab::data
