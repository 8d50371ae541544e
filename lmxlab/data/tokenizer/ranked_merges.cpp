#include "lmxlab/data/tokenizer/ranked_merges.h"

#include "lmxlab/base/error.h"
#include "lmxlab/data/tokenizer/unicode.h"

#include <algorithm>

namespace lmxlab::data {
namespace {

constexpr size_t kMostBytes = size_t{1} << 30;  // of all merges; real vocabularies have some MiB

}  // namespace

void add_ranked_merges(Bpe::Data& data, std::vector<RankedToken> tokens, bool characters) {
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const auto& a, const auto& b) { return a.rank < b.rank; });
  // One walk from each end tells which begins and which ends of a token are tokens.
  std::vector<std::string> reversed;
  reversed.reserve(tokens.size());
  std::vector<ByteTrie::Entry> forward_entries, backward_entries;
  for (const auto& t : tokens) {
    forward_entries.emplace_back(t.text, 0);
    backward_entries.emplace_back(reversed.emplace_back(t.text.rbegin(), t.text.rend()), 0);
  }
  const ByteTrie forward(std::move(forward_entries)), backward(std::move(backward_entries));
  int rank = -1;
  size_t bytes = 0;
  std::vector<bool> is_begin;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string_view text = tokens[i].text;
    if (i == 0 || tokens[i].rank != tokens[i - 1].rank) ++rank;
    const auto one_character = [&](size_t begin, size_t end) {
      return characters && character_length(text, begin) == end - begin;
    };
    is_begin.assign(text.size() + 1, false);
    int node = 0;
    for (size_t k = 0; k < text.size() && node >= 0; ++k) {
      node = forward.child(node, static_cast<unsigned char>(text[k]));
      is_begin[k + 1] = node >= 0 && forward.value(node) >= 0;
    }
    const size_t first = data.merges.size();
    node = 0;
    for (size_t k = text.size(); k-- > 1;) {
      if (node >= 0) node = backward.child(node, static_cast<unsigned char>(text[k]));
      if ((text[k] & 0xC0) == 0x80) continue;  // inside a character
      const bool is_end = node >= 0 && backward.value(node) >= 0;
      if ((is_begin[k] || one_character(0, k)) && (is_end || one_character(k, text.size()))) {
        data.merges.emplace_back(text.substr(0, k), text.substr(k));
        data.ranks.push_back(rank);
        bytes += text.size();
      }
    }
    std::reverse(data.merges.begin() + static_cast<std::ptrdiff_t>(first), data.merges.end());
    if (bytes > kMostBytes)
      throw Error(Kind::resource,
                  "[tokenizer] the tokens can be put together in more ways than 1 GiB holds. Is "
                  "this a tokenizer's vocabulary?");
  }
  // Where no two are equal, the order alone says it.
  if (std::adjacent_find(data.ranks.begin(), data.ranks.end()) == data.ranks.end())
    data.ranks.clear();
}

}  // namespace lmxlab::data
