#include "lmxlab/models/convert.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

namespace lmxlab {
namespace {

// [heads * D, ...], pairs (2i, 2i + 1) of each head -> (i, i + D / 2).
mx::array halves(const mx::array& rows, int heads, int rotated) {
  const int width = rows.shape(0) / heads;
  auto shape = rows.shape();
  shape[0] = heads;
  shape.insert(shape.begin() + 1, width);
  const auto by_head = mx::reshape(rows, shape);
  const auto part = [&](int from, int to, int step) {
    auto start = mx::Shape(shape.size(), 0), stop = shape, steps = mx::Shape(shape.size(), 1);
    start[1] = from, stop[1] = to, steps[1] = step;
    return mx::slice(by_head, start, stop, steps);
  };
  std::vector<mx::array> parts{part(0, rotated, 2), part(1, rotated, 2)};
  if (rotated < width) parts.push_back(part(rotated, width, 1));
  return mx::reshape(mx::concatenate(parts, 1), rows.shape());
}

// Heads and rotated rows of a projection whose rotation changes; heads 0: of no such one.
struct Turn {
  int heads = 0, rotated = 0;
};
std::map<std::string, Turn> turns_of(config::Model& model) {
  std::map<std::string, Turn> out;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    auto* a = std::get_if<config::Attention>(&model.layers[i].mixer);
    auto* rope = a ? std::get_if<config::Rope>(&a->position) : nullptr;
    // A norm over each head has its weights in the same order; nothing stores such a model.
    if (!rope || !rope->interleaved || a->qk_norm) continue;
    const int rotated = rope->dims > 0 ? rope->dims : a->head_dim;
    const std::string path = "model.layers." + std::to_string(i) + ".self_attn.";
    out[path + "q_proj"] = {a->heads, rotated};
    out[path + "k_proj"] = {a->kv_heads, rotated};
    rope->interleaved = false;
  }
  return out;
}

}  // namespace

LanguageModel convert_model(LanguageModel model, DType dtype,
                            const std::function<void(int, int)>& progress) {
  auto config = model.config();
  const auto turns = turns_of(config);
  LanguageModel out(config, 0, dtype);
  const Enter enter(out.runtime());
  std::map<std::string, core::Weight*> from;
  for (const auto& [path, w, embedding] : core::weights_of(model.transformer())) from[path] = w;
  std::map<std::string, core::Param*> others;
  for (const auto& e : core::collect(model.transformer())) others[e.path] = e.param;
  const auto put = [&](core::Param& to, mx::array value, const std::string& path) {
    const auto turn = turns.find(path);
    if (turn != turns.end()) value = halves(value, turn->second.heads, turn->second.rotated);
    value = mx::astype(value, to_mlx(dtype));
    mx::eval(value);
    to.value = std::move(value);
  };
  const auto entries = core::collect(out.transformer());
  int done = 0;
  for (const auto& e : entries) {
    if (progress) progress(done++, static_cast<int>(entries.size()));
    const auto dot = e.path.rfind('.');
    const auto path = e.path.substr(0, dot), leaf = e.path.substr(dot + 1);
    const auto weight = from.find(path);
    if (leaf == "weight" && weight != from.end()) {
      auto& w = *weight->second;
      put(*e.param,
          w.quantized() ? w.rows(mx::arange(e.param->value.shape(0), mx::int32), mx::float32)
                        : w.w.value,
          path);
      w = core::Weight{{mx::zeros({0}, mx::float32)}};
    } else {
      put(*e.param, others.at(e.path)->value, path);
    }
  }
  return out;
}

}  // namespace lmxlab
