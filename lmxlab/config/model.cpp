#include "lmxlab/config/model.h"

#include <algorithm>

namespace lmxlab::config {

bool stands_alone(const Block& b) {
  const auto* a = attention_in(b.mixer);
  const auto* r = std::get_if<Rwkv7>(&b.mixer);
  const auto* l = std::get_if<Mla>(&b.mixer);
  const bool others = (a && a->kv_from) || (r && r->values_from) || (l && l->indexer);
  return !b.shared && !b.shortcut && !others;
}

Block mtp_block(const Model& m) {
  const auto last = std::find_if(m.layers.rbegin(), m.layers.rend(), [](const Block& b) {
    return stands_alone(b) && !std::holds_alternative<Nothing>(b.mixer);
  });
  if (last == m.layers.rend())
    throw Error(Kind::unsupported,
                "[config] every block of the model needs others around it, so that none can be "
                "that of a head: give mtp_heads their blocks");
  return *last;
}

std::vector<Block> cycle(const std::vector<Block>& pattern, int n) {
  std::vector<Block> out;
  for (int i = 0; i < n; ++i) out.push_back(pattern[static_cast<size_t>(i) % pattern.size()]);
  return out;
}

}  // namespace lmxlab::config
