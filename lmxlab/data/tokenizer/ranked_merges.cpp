#include "lmxlab/data/tokenizer/ranked_merges.h"

#include "lmxlab/base/error.h"
#include "lmxlab/data/tokenizer/unicode.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <future>
#include <iterator>
#include <string>

namespace lmxlab::data {
namespace {

constexpr size_t kMost = size_t{1} << 25;  // merges of half the tokens; Gemma has half a million

constexpr size_t kLongest = 4096;  // bytes of a token
constexpr int kNone = -1;

// Of each text, the longest other one that it begins with (or ends with, read backwards), and so on
// from there: together all that are there. Sorted, a text stands behind its beginnings.
std::vector<int> beginnings(const std::vector<RankedToken>& tokens, bool backward) {
  std::vector<std::string> turned(backward ? tokens.size() : 0);
  std::vector<std::string_view> texts(tokens.size());
  struct Key {
    uint64_t head;  // eight bytes, so that a comparison seldom looks at the text
    int at;
  };
  std::vector<Key> order(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    texts[i] = tokens[i].text;
    if (backward) texts[i] = turned[i].assign(texts[i].rbegin(), texts[i].rend());
    uint64_t head = 0;
    for (size_t k = 0; k < 8; ++k)
      head = head << 8 | (k < texts[i].size() ? static_cast<unsigned char>(texts[i][k]) : 0);
    order[i] = {head, static_cast<int>(i)};
  }
  const auto text = [&](int i) { return texts[static_cast<size_t>(i)]; };
  std::sort(order.begin(), order.end(), [&](const Key& a, const Key& b) {
    if (a.head != b.head) return a.head < b.head;
    const int c = text(a.at).compare(text(b.at));
    return c != 0 ? c < 0 : a.at < b.at;
  });
  std::vector<int> longest(tokens.size(), kNone), open;  // open: each begins the next
  for (const auto& [head, i] : order) {
    while (!open.empty() && !text(i).starts_with(text(open.back()))) open.pop_back();
    if (!open.empty() && text(open.back()) == text(i)) open.pop_back();  // of equals the last
    if (!open.empty()) longest[static_cast<size_t>(i)] = open.back();
    if (!text(i).empty()) open.push_back(i);
  }
  return longest;
}

struct Found {
  std::vector<std::array<int, 3>> ids;
  std::vector<int> ranks;
};

// All ways to cut a token in two. Of tokens [from, to).
struct Cuts {
  const std::vector<RankedToken>& tokens;
  const std::vector<int>& ranks;
  const std::vector<int>& begins;
  const std::vector<int>& ends;
  bool characters;

  Found operator()(size_t from, size_t to) const {
    Found out;
    std::vector<int> ending;  // the id of the token that the bytes from there are, or kNone
    const auto of = [](const std::vector<int>& v, int i) { return v[static_cast<size_t>(i)]; };
    const auto token = [&](int i) -> const RankedToken& { return tokens[static_cast<size_t>(i)]; };
    for (size_t i = from; i < to; ++i) {
      const std::string_view text = tokens[i].text;
      ending.assign(text.size() + 1, kNone);
      for (int e = ends[i]; e != kNone; e = of(ends, e))
        ending[text.size() - token(e).text.size()] = token(e).id;
      const auto cut = [&](size_t k, int begin) {
        if (k >= text.size() || (text[k] & 0xC0) == 0x80) return;  // inside a character
        if (ending[k] == kNone && !(characters && character_length(text, k) == text.size() - k))
          return;
        out.ids.push_back({begin, ending[k], tokens[i].id});
        out.ranks.push_back(ranks[i]);
      };
      const auto first = static_cast<std::ptrdiff_t>(out.ids.size());
      size_t shortest = text.size();
      for (int b = begins[i]; b != kNone; b = of(begins, b))
        cut(shortest = token(b).text.size(), token(b).id);
      if (const size_t one = text.empty() ? 0 : character_length(text, 0);
          characters && one < shortest)
        cut(one, kNone);
      std::reverse(out.ids.begin() + first, out.ids.end());
      if (out.ids.size() > kMost)
        throw Error(Kind::resource,
                    "[tokenizer] the tokens can be put together in more than 64 million ways. Is "
                    "this a tokenizer's vocabulary?");
    }
    return out;
  }
};

}  // namespace

void add_ranked_merges(Bpe::Data& data, std::vector<RankedToken> tokens, bool characters) {
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const auto& a, const auto& b) { return a.rank < b.rank; });
  for (const auto& t : tokens)
    if (t.text.size() > kLongest)
      throw Error(Kind::unsupported, "[tokenizer] a token of " + std::to_string(t.text.size()) +
                                         " bytes: expected 4096 at most. Is this a tokenizer's "
                                         "vocabulary?");
  std::vector<int> ranks(tokens.size());
  for (size_t i = 1; i < tokens.size(); ++i)
    ranks[i] = ranks[i - 1] + (tokens[i].rank != tokens[i - 1].rank);
  // Two threads: a large vocabulary is most of the time from the start to the first token of a
  // text.
  auto backward = std::async(std::launch::async, [&] { return beginnings(tokens, true); });
  const auto begins = beginnings(tokens, false);
  const auto ends = backward.get();
  const Cuts cuts{tokens, ranks, begins, ends, characters};
  const size_t half = tokens.size() / 2;
  auto later = std::async(std::launch::async, [&] { return cuts(half, tokens.size()); });
  Found found = cuts(0, half);
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
