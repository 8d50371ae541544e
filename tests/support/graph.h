// How much of a graph hangs behind arrays that are not evaluated yet.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <unordered_set>
#include <vector>

namespace lmxlab::test {

/// Arrays that would have to be computed, or are kept, for these; themselves included. Evaluated
/// arrays count one each, having nothing behind them.
inline size_t graph_nodes(const std::vector<mlx::core::array>& arrays) {
  std::unordered_set<std::uintptr_t> seen;
  std::vector<mlx::core::array> left = arrays;
  while (!left.empty()) {
    const auto a = left.back();
    left.pop_back();
    if (!seen.insert(a.id()).second) continue;
    left.insert(left.end(), a.inputs().begin(), a.inputs().end());
    left.insert(left.end(), a.siblings().begin(), a.siblings().end());
  }
  return seen.size();
}

/// Whether nothing hangs behind it: no operation, no inputs.
inline bool is_leaf(const mlx::core::array& a) {
  return !a.has_primitive() && a.inputs().empty() && a.siblings().empty();
}

}  // namespace lmxlab::test
