#include "lmxlab/config/documents.h"

#include "lmxlab/config/rope.h"

#include <variant>

namespace lmxlab::config {
namespace {

const char* carried_by(const Mixer& mixer) {
  if (const auto* a = std::get_if<Attention>(&mixer)) {
    const auto* rope = std::get_if<Rope>(&a->position);
    if (rope && depends_on_length(*rope)) return "a rotation that depends on the row's length";
    return a->chunked ? "chunks counted from the row's beginning" : nullptr;
  }
  if (const auto* m = std::get_if<Mla>(&mixer)) {
    if (m->indexer) return "an indexer";
    const auto* rope = std::get_if<Rope>(&m->position);
    return rope && depends_on_length(*rope) ? "a rotation that depends on the row's length"
                                            : nullptr;
  }
  return std::visit(
      [](const auto& m) -> const char* {
        using T = std::decay_t<decltype(m)>;
        return std::is_same_v<T, Nothing> ? nullptr : T::kind;
      },
      mixer);
}

}  // namespace

std::optional<std::string> carries_over(const Model& model) {
  for (size_t i = 0; i < model.layers.size(); ++i)
    if (const char* what = carried_by(model.layers[i].mixer))
      return "layers." + std::to_string(i) + ".mixer: " + what;
  for (const auto& head : model.mtp_heads)
    if (const char* what = carried_by(head.mixer)) return std::string("mtp_heads: ") + what;
  for (const auto& shared : model.shared_blocks)
    if (const char* what = carried_by(Mixer(shared.attention)))
      return std::string("shared_blocks: ") + what;
  return std::nullopt;
}

}  // namespace lmxlab::config
