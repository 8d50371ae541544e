#include "lmxlab/data/tokenizer/ranked_merges.h"

#include "lmxlab/base/error.h"
#include "lmxlab/data/tokenizer/unicode.h"

#include <algorithm>
#include <array>
#include <future>
#include <iterator>

namespace lmxlab::data {
namespace {

constexpr size_t kMost = size_t{1} << 25;  // merges of half the tokens; Gemma has half a million

// One walk from each end tells which begins and which ends of a token are tokens.
struct Ends {
  explicit Ends(const std::vector<RankedToken>& tokens) {
    std::vector<std::string> reversed(tokens.size());
    auto other = std::async(std::launch::async, [&] {
      std::vector<ByteTrie::Entry> entries;
      for (size_t i = 0; i < tokens.size(); ++i) {
        const std::string_view text = tokens[i].text;
        reversed[i].assign(text.rbegin(), text.rend());
        entries.emplace_back(reversed[i], tokens[i].id);
      }
      return ByteTrie(std::move(entries));
    });
    std::vector<ByteTrie::Entry> entries;
    for (const auto& t : tokens) entries.emplace_back(t.text, t.id);
    forward = ByteTrie(std::move(entries));
    backward = other.get();
  }
  ByteTrie forward, backward;
};

struct Found {
  std::vector<std::array<int, 3>> ids;
  std::vector<int> ranks;
};

// Of tokens [from, to).
Found merges_of(const Ends& ends, const std::vector<RankedToken>& tokens,
                const std::vector<int>& ranks, size_t from, size_t to, bool characters) {
  Found out;
  std::vector<int> begins;  // the id of the token that so many bytes are, or -1
  for (size_t i = from; i < to; ++i) {
    const std::string_view text = tokens[i].text;
    const auto one_character = [&](size_t begin, size_t end) {
      return characters && character_length(text, begin) == end - begin;
    };
    begins.assign(text.size() + 1, -1);
    int node = 0;
    for (size_t k = 0; k < text.size() && node >= 0; ++k) {
      node = ends.forward.child(node, static_cast<unsigned char>(text[k]));
      if (node >= 0) begins[k + 1] = ends.forward.value(node);
    }
    const auto first = static_cast<std::ptrdiff_t>(out.ids.size());
    node = 0;
    for (size_t k = text.size(); k-- > 1;) {
      if (node >= 0) node = ends.backward.child(node, static_cast<unsigned char>(text[k]));
      if ((text[k] & 0xC0) == 0x80) continue;  // inside a character
      const int end = node >= 0 ? ends.backward.value(node) : -1;
      if ((begins[k] >= 0 || one_character(0, k)) && (end >= 0 || one_character(k, text.size()))) {
        out.ids.push_back({begins[k], end, tokens[i].id});
        out.ranks.push_back(ranks[i]);
      }
    }
    std::reverse(out.ids.begin() + first, out.ids.end());
    if (out.ids.size() > kMost)
      throw Error(Kind::resource,
                  "[tokenizer] the tokens can be put together in more than 64 million ways. Is "
                  "this a tokenizer's vocabulary?");
  }
  return out;
}

}  // namespace

void add_ranked_merges(Bpe::Data& data, std::vector<RankedToken> tokens, bool characters) {
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const auto& a, const auto& b) { return a.rank < b.rank; });
  const Ends ends(tokens);
  std::vector<int> ranks(tokens.size());
  for (size_t i = 1; i < tokens.size(); ++i)
    ranks[i] = ranks[i - 1] + (tokens[i].rank != tokens[i - 1].rank);
  // Half of the tokens each: a large vocabulary is most of the time from the start to the first
  // token of a text.
  const size_t half = tokens.size() / 2;
  auto later = std::async(std::launch::async, [&] {
    return merges_of(ends, tokens, ranks, half, tokens.size(), characters);
  });
  Found found = merges_of(ends, tokens, ranks, 0, half, characters);
  Found rest = later.get();
  const auto take = [](auto& to, auto& first, auto& second) {
    to = std::move(first);
    to.insert(to.end(), std::make_move_iterator(second.begin()),
              std::make_move_iterator(second.end()));
  };
  take(data.merge_ids, found.ids, rest.ids);
  take(data.ranks, found.ranks, rest.ranks);
  // Where no two are equal, the order alone says it.
  if (std::adjacent_find(data.ranks.begin(), data.ranks.end()) == data.ranks.end())
    data.ranks.clear();
}

}  // namespace lmxlab::data
