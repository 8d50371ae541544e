// Which tokens stand for which bytes of a text. Private.
#pragma once

#include "lmxlab/data/tokenizer.h"

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace lmxlab::data {

using ByteSpan = std::pair<size_t, size_t>;  // [begin, end)

/// 1 for each token that has a byte in one of the spans.
/// @param ids  the text, encoded by itself
/// @param spans  in order, apart from each other
/// @cost  Linear where decoding gives the text back; else the text is encoded twice for each
/// border.
std::vector<uint8_t> tokens_in(const Tokenizer& tokenizer, std::string_view text,
                               const std::vector<int>& ids, const std::vector<ByteSpan>& spans);

}  // namespace lmxlab::data
