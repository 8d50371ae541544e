#include "lmxlab/models/rotary_order.h"

#include <mlx/ops.h>

#include <variant>
#include <vector>

namespace lmxlab {
namespace mx = mlx::core;

std::map<std::string, RotaryRows> set_rotary_order(config::Model& model, RotaryOrder order) {
  std::map<std::string, RotaryRows> out;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    auto* a = std::get_if<config::Attention>(&model.layers[i].mixer);
    auto* rope = a ? std::get_if<config::Rope>(&a->position) : nullptr;
    if (!rope || rope->interleaved == (order == RotaryOrder::pairs) || a->qk_norm) continue;
    const int rotated = rope->dims > 0 ? rope->dims : a->head_dim;
    const std::string path = "model.layers." + std::to_string(i) + ".self_attn.";
    out[path + "q_proj"] = {a->heads, rotated};
    out[path + "k_proj"] = {a->kv_heads, rotated};
    rope->interleaved = order == RotaryOrder::pairs;
  }
  return out;
}

mx::array reorder(const mx::array& rows, const RotaryRows& of, RotaryOrder to) {
  const int width = rows.shape(0) / of.heads, half = of.rotated / 2;
  // [heads, D, ...]: the turning part as a table of pairs, transposed.
  auto shape = rows.shape();
  shape[0] = of.heads;
  shape.insert(shape.begin() + 1, width);
  const auto by_head = mx::reshape(rows, shape);
  const auto part = [&](int from, int stop_at) {
    auto start = mx::Shape(shape.size(), 0), stop = shape;
    start[1] = from, stop[1] = stop_at;
    return mx::slice(by_head, start, stop);
  };
  auto table = shape;
  table[1] = to == RotaryOrder::halves ? half : 2;
  table.insert(table.begin() + 2, to == RotaryOrder::halves ? 2 : half);
  const auto turning = part(0, of.rotated);
  std::vector<mx::array> parts{
      mx::reshape(mx::swapaxes(mx::reshape(turning, table), 1, 2), turning.shape())};
  if (of.rotated < width) parts.push_back(part(of.rotated, width));
  return mx::reshape(mx::concatenate(parts, 1), rows.shape());
}

}  // namespace lmxlab
