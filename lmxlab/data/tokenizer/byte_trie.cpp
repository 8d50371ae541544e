#include "lmxlab/data/tokenizer/byte_trie.h"

#include "lmxlab/base/error.h"

#include <algorithm>
#include <string>

namespace lmxlab::data {

ByteTrie::ByteTrie(std::vector<Entry> entries) {
  root_.fill(-1);
  constexpr size_t kLongest = 4096;
  for (const auto& [key, value] : entries)
    if (key.size() > kLongest)
      throw Error(Kind::unsupported, "[tokenizer] a token of " + std::to_string(key.size()) +
                                         " bytes: expected 4096 at most. Is this a tokenizer's "
                                         "vocabulary?");
  std::erase_if(entries, [](const Entry& e) { return e.first.empty(); });
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.first < b.first; });
  // Level by level: a node stands for the entries that share its bytes, which are neighbours.
  struct Range {
    size_t begin, end;
  };
  std::vector<Range> level{{0, entries.size()}};
  labels_ = {0};
  values_ = {-1};
  for (size_t depth = 0; !level.empty(); ++depth) {
    std::vector<Range> below;
    for (const Range& node : level) {
      children_.push_back(static_cast<uint32_t>(labels_.size()));
      for (size_t i = node.begin; i < node.end;) {
        if (entries[i].first.size() <= depth) {  // it ends at this node
          ++i;
          continue;
        }
        const char byte = entries[i].first[depth];
        size_t end = i;
        int ends_here = -1;
        for (; end < node.end && entries[end].first[depth] == byte; ++end)
          if (entries[end].first.size() == depth + 1) ends_here = entries[end].second;
        if (depth == 0) root_[static_cast<unsigned char>(byte)] = static_cast<int>(labels_.size());
        labels_.push_back(static_cast<uint8_t>(byte));
        values_.push_back(ends_here);
        below.push_back({i, end});
        i = end;
      }
    }
    level = std::move(below);
  }
  children_.push_back(static_cast<uint32_t>(labels_.size()));
}

}  // namespace lmxlab::data
