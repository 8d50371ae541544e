#include "lmxlab/data/token_spans.h"

#include <algorithm>
#include <optional>

namespace lmxlab::data {
namespace {

// The bytes of each token, where decoding gives the text back as it was.
std::optional<std::vector<ByteSpan>> spans_by_decoding(const Tokenizer& tokenizer,
                                                       std::string_view text,
                                                       const std::vector<int>& ids) {
  // Tokens that give nothing begin a character that a later one ends: all of them have its bytes.
  constexpr size_t kMostHeldBack = 3;
  StreamDecoder decoder(tokenizer);
  std::vector<ByteSpan> out(ids.size());
  size_t at = 0, held = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string part = decoder.push(ids[i]);
    if (text.substr(at, part.size()) != part) return std::nullopt;
    if (part.empty()) {
      if (++held > kMostHeldBack) return std::nullopt;
      continue;
    }
    for (size_t k = i - held; k <= i; ++k) out[k] = {at, at + part.size()};
    at += part.size(), held = 0;
  }
  // A decoder that lags behind its tokens has something left.
  if (!decoder.finish().empty() || held > 0 || at != text.size()) return std::nullopt;
  return out;
}

// Tokens before the byte `at`, and tokens that begin before what follows it: two numbers where a
// token has bytes of both sides.
std::pair<size_t, size_t> border(const Tokenizer& tokenizer, std::string_view text,
                                 const std::vector<int>& ids, size_t at) {
  if (at == text.size()) return {ids.size(), ids.size()};
  const auto left = tokenizer.encode_ids(text.substr(0, at));
  const auto same = static_cast<size_t>(
      std::mismatch(left.begin(), left.end(), ids.begin(), ids.end()).first - left.begin());
  if (same == left.size()) return {same, same};
  const auto right = tokenizer.encode_ids(text.substr(at));
  const auto behind = static_cast<size_t>(
      std::mismatch(right.rbegin(), right.rend(), ids.rbegin(), ids.rend()).first - right.rbegin());
  return {same, std::max(same, ids.size() - behind)};
}

}  // namespace

std::vector<uint8_t> tokens_in(const Tokenizer& tokenizer, std::string_view text,
                               const std::vector<int>& ids, const std::vector<ByteSpan>& spans) {
  std::vector<uint8_t> out(ids.size());
  if (const auto bytes = spans_by_decoding(tokenizer, text, ids)) {
    size_t s = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto [begin, end] = (*bytes)[i];
      while (s < spans.size() && spans[s].second <= begin) ++s;
      out[i] = s < spans.size() && spans[s].first < end;
    }
    return out;
  }
  for (const auto& [begin, end] : spans) {
    if (begin == end) continue;
    const size_t first = border(tokenizer, text, ids, begin).first,
                 last = border(tokenizer, text, ids, end).second;
    for (size_t i = first; i < last; ++i) out[i] = 1;
  }
  return out;
}

}  // namespace lmxlab::data
