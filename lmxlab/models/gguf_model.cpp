#include "lmxlab/models/gguf_model.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/io/ggml_blocks.h"
#include "lmxlab/kernels/quantized.h"
#include "lmxlab/models/gguf_names.h"
#include "lmxlab/models/language_model.h"

#include <mlx/ops.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace lmxlab {
namespace {

using core::Tensors;

// Rows [from, from + n) of a tensor as it lies.
mx::array rows_of(const mx::array& a, int from, int n) {
  auto start = mx::Shape(a.ndim(), 0), stop = a.shape();
  start[0] = from, stop[0] = from + n;
  return mx::slice(a, start, stop);
}

}  // namespace

Tensors read_gguf_tensors(const io::Gguf& file, core::Transformer& model) {
  const bool whole_norms = gguf_norms_are_whole(file);
  std::map<std::string, core::Weight*> weights;
  for (const auto& [path, w, embedding] : core::weights_of(model)) weights[path + ".weight"] = w;
  const auto& layers = model.config().layers;
  Tensors out;
  const auto put = [&](const std::string& name, const io::Gguf::Tensor& t, int from, int n,
                       const mx::array& bytes) {
    const auto format = kernels::format_of_ggml(t.type->number);
    const auto weight = weights.find(name);
    if (t.type->weights == 1) {
      out.emplace(name, bytes.dtype() == mx::float64
                            ? mx::astype(bytes, mx::float32, mx::Device::cpu)
                            : bytes);
    } else if (!format && io::has_numbers(*t.type)) {
      out.emplace(name, io::block_numbers(*t.type, rows_of(bytes, from, n)));
    } else if (format && weight != weights.end() && t.shape.size() == 2) {
      weight->second->expect_blocks(*format);
      out.emplace(name, n == t.shape[0] ? bytes : rows_of(bytes, from, n));
    } else {
      throw Error(Kind::unsupported, "[gguf] tensor " + name + ": weights of type " +
                                         std::string(t.type->name) + " are not supported here");
    }
  };
  for (const auto& [name, t] : file.tensors()) {
    if (name.starts_with("rope_f")) continue;  // in the config
    const size_t layer = name.starts_with("blk.") ? std::strtoul(name.c_str() + 4, nullptr, 10) : 0;
    const auto* block = layer < layers.size() ? &layers[layer] : nullptr;
    auto a = t.type->weights == 1 ? file.get(name) : file.raw(name);
    auto ours = name_from_gguf(name, block ? block->wiring : config::Wiring::pre);
    const auto* attention = block ? std::get_if<config::Attention>(&block->mixer) : nullptr;
    const auto* mlp = block ? std::get_if<config::Mlp>(&block->ffn) : nullptr;
    const int rows = t.shape.empty() ? 0 : t.shape[0];
    const auto leaf = name.substr(name.rfind('.') + 1);
    const auto path = "model.layers." + std::to_string(layer) + ".";
    std::vector<std::pair<std::string, int>> parts;
    if (attention && name.find(".attn_qkv.") != name.npos) {
      const int q = attention->heads * attention->head_dim,
                kv = attention->kv_heads * attention->head_dim;
      parts = {{"self_attn.q_proj.", q}, {"self_attn.k_proj.", kv}, {"self_attn.v_proj.", kv}};
    } else if (mlp && mlp->gated && name.find(".ffn_up.") != name.npos &&
               rows == int64_t{2} * mlp->hidden) {
      parts = {{"mlp.gate_proj.", mlp->hidden}, {"mlp.up_proj.", mlp->hidden}};
    }
    if (parts.empty()) {
      if (whole_norms && name.ends_with("_norm.weight"))
        a = mx::subtract(a, mx::array(1.0f, a.dtype()));
      put(ours, t, 0, rows, a);
      continue;
    }
    int64_t all = 0;
    for (const auto& [_, n] : parts) all += n;
    if (all != rows)
      throw Error(Kind::mismatch, "[gguf] tensor " + name + ": expected " + std::to_string(all) +
                                      " rows, got " + std::to_string(rows));
    int from = 0;
    for (const auto& [part, n] : parts) {
      const auto piece = t.type->weights == 1 ? rows_of(a, from, n) : a;
      put(path + part + leaf, t, from, n, piece);
      from += n;
    }
  }
  return out;
}

}  // namespace lmxlab
