// Tokens and what is learned of them as text for a terminal; how long sequences are as a chart.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/data/tokenizer.h"

#include <cstdint>
#include <string>
#include <vector>

namespace lmxlab::cli {

/// Learned tokens in two colours by turns, to tell them apart; between double brackets without
/// colours. Nothing in it moves the cursor or changes its colours. Ends a line.
std::string token_text(const data::Tokenizer& tokenizer, const std::vector<int>& ids,
                       const std::vector<uint8_t>& learned, bool colour);

struct LengthBin {
  size_t from = 0, to = 0, count = 0;  // lengths in [from, to)
};
/// At most a dozen bins, 1, 2 or 5 times a power of ten wide. Of one length at least.
std::vector<LengthBin> length_bins(const std::vector<size_t>& lengths);
std::string length_chart(const std::vector<LengthBin>& bins, bool colour);
Json length_json(const std::vector<LengthBin>& bins);

/// "12.3%"
std::string percent(double share);

}  // namespace lmxlab::cli
