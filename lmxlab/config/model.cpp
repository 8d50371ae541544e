#include "lmxlab/config/model.h"

namespace lmxlab::config {

std::vector<Block> cycle(const std::vector<Block>& pattern, int n) {
  std::vector<Block> out;
  for (int i = 0; i < n; ++i) out.push_back(pattern[static_cast<size_t>(i) % pattern.size()]);
  return out;
}

}  // namespace lmxlab::config
