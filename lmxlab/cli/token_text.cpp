#include "lmxlab/cli/token_text.h"

#include <algorithm>
#include <cstdio>

namespace lmxlab::cli {
namespace {

// Text for a terminal: nothing in it moves the cursor or changes its colours.
std::string visible(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n\n";
    } else if ((code < 0x20 && c != '\t') || code == 0x7F) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02X", code);
      out += escaped;
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

std::string token_text(const data::Tokenizer& tokenizer, const std::vector<int>& ids,
                       const std::vector<uint8_t>& learned_ids, bool colour) {
  std::string out;
  data::StreamDecoder decoder(tokenizer);
  bool inside = false;  // a learned stretch, where there are no colours
  std::string_view now;
  for (size_t i = 0; i < ids.size(); ++i) {
    const bool learned = learned_ids[i] != 0;
    if (colour) {  // learned tokens in two colours by turns, to tell them apart
      const std::string_view style = !learned ? "2" : now == "32" ? "36" : "32";
      if (style != now) out += "\x1b[0;" + std::string(now = style) + "m";
    } else if (inside != learned) {
      out += learned ? "[[" : "]]";
      inside = learned;
    }
    out += visible(decoder.push(ids[i]));
    if (i + 1 == ids.size()) out += visible(decoder.finish());
  }
  return out + (colour ? "\x1b[0m" : inside ? "]]" : "") + "\n";
}

std::vector<LengthBin> length_bins(const std::vector<size_t>& lengths) {
  constexpr size_t kMostBins = 12;
  size_t least = SIZE_MAX, most = 0;
  for (const size_t n : lengths) least = std::min(least, n), most = std::max(most, n);
  size_t width = 1;
  const auto bins = [&] { return most / width - least / width + 1; };
  for (size_t power = 1; bins() > kMostBins; power *= 10)
    for (const size_t step : {1, 2, 5})
      if (bins() > kMostBins) width = step * power;
  std::vector<LengthBin> out(bins());
  for (size_t i = 0; i < out.size(); ++i)
    out[i].from = (least / width + i) * width, out[i].to = out[i].from + width;
  for (const size_t n : lengths) ++out[n / width - least / width].count;
  return out;
}

std::string length_chart(const std::vector<LengthBin>& bins, bool colour) {
  std::string out;
  size_t most = 1, digits = 1;
  for (const auto& bin : bins) {
    most = std::max(most, bin.count);
    digits = std::max(digits, std::to_string(bin.to - 1).size());
  }
  const auto right = [&](size_t n) {
    const auto text = std::to_string(n);
    return std::string(digits - text.size(), ' ') + text;
  };
  for (const auto& bin : bins) {
    const std::string bar((40 * bin.count + most - 1) / most, '#');
    const std::string range =
        bin.to - bin.from == 1 ? right(bin.from) : right(bin.from) + " - " + right(bin.to - 1);
    const std::string green = colour ? "\x1b[32m" + bar + "\x1b[0m" : bar;
    out += range + "  " + green + (bar.empty() ? "" : " ") + std::to_string(bin.count) + "\n";
  }
  return out;
}

Json length_json(const std::vector<LengthBin>& bins) {
  Json out = Json::array();
  for (const auto& bin : bins)
    out.push_back(
        Json::object({{"from", Json(bin.from)}, {"to", Json(bin.to)}, {"count", Json(bin.count)}}));
  return out;
}

std::string percent(double share) {
  char text[16];
  std::snprintf(text, sizeof text, "%.1f%%", 100 * share);
  return text;
}

}  // namespace lmxlab::cli
