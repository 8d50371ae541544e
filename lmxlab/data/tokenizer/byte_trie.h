// A trie over bytes, built once from all its keys: children lie side by side, so a node costs nine
// bytes and a step looks at neighbours. Private.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace lmxlab::data {

class ByteTrie {
 public:
  using Entry = std::pair<std::string_view, int>;  // key, value >= 0
  /// Empty keys are left out; of equal keys the last counts.
  /// @throws Error(unsupported) if a key is longer than 4 KiB: looking for it takes that long at
  /// each place of a text.
  explicit ByteTrie(std::vector<Entry> entries = {});

  /// The child of a node (0: the root), or -1.
  int child(int node, unsigned char byte) const {
    if (node == 0) return root_[byte];
    uint32_t i = children_[static_cast<size_t>(node)];
    uint32_t end = children_[static_cast<size_t>(node) + 1];
    while (end - i > 8) {
      const uint32_t middle = i + (end - i) / 2;
      (labels_[middle] <= byte ? i : end) = middle;
    }
    for (; i < end; ++i)
      if (labels_[i] >= byte) return labels_[i] == byte ? static_cast<int>(i) : -1;
    return -1;
  }
  /// The value of the key that ends at a node, or -1.
  int value(int node) const { return values_[static_cast<size_t>(node)]; }
  bool empty() const { return values_.size() < 2; }
  bool begins_with(unsigned char byte) const { return root_[byte] >= 0; }

  struct Match {
    size_t length = 0;
    int value = -1;  // -1: no key is a prefix
  };
  /// The longest key that the text has at `at`, walked from `node`.
  Match longest(std::string_view text, size_t at, int node = 0) const {
    Match found;
    for (size_t k = at; k < text.size(); ++k) {
      node = child(node, static_cast<unsigned char>(text[k]));
      if (node < 0) break;
      if (value(node) >= 0) found = {k + 1 - at, value(node)};
    }
    return found;
  }
  /// The node of a prefix of some key, or -1.
  int find(std::string_view prefix) const {
    int node = 0;
    for (const char c : prefix)
      if ((node = child(node, static_cast<unsigned char>(c))) < 0) break;
    return node;
  }

 private:
  std::vector<uint32_t> children_;  // of node n: from children_[n] to children_[n + 1]
  std::vector<uint8_t> labels_;     // the byte that leads to a node
  std::vector<int> values_;
  std::array<int, 256> root_;
};

}  // namespace lmxlab::data
