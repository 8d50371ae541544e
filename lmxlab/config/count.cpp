#include "lmxlab/config/count.h"

#include "lmxlab/config/custom.h"

#include <algorithm>

namespace lmxlab::config {
namespace {

int64_t linear(int64_t in, int64_t out, bool bias) {
  return in * out + (bias ? out : 0);
}

int64_t mixer_parameters(const Mixer& mixer, int64_t dim) {
  if (const auto* c = std::get_if<Custom>(&mixer))
    return custom_parameters(Part::mixer, c->name, c->values, static_cast<int>(dim));
  const auto* a = std::get_if<Attention>(&mixer);
  if (!a) return 0;
  const int64_t q = int64_t{a->heads} * a->head_dim, kv = int64_t{a->kv_heads} * a->head_dim;
  int64_t n =
      linear(dim, q, a->qkv_bias) + 2 * linear(dim, kv, a->qkv_bias) + linear(q, dim, a->out_bias);
  if (a->qk_norm) n += 2 * norm_parameters(*a->qk_norm, a->head_dim);
  return n;
}

int64_t ffn_parameters(const Ffn& ffn, int64_t dim) {
  if (const auto* c = std::get_if<Custom>(&ffn))
    return custom_parameters(Part::ffn, c->name, c->values, static_cast<int>(dim));
  const auto* m = std::get_if<Mlp>(&ffn);
  if (!m) return 0;
  return (m->gated ? 2 : 1) * linear(dim, m->hidden, m->bias) + linear(m->hidden, dim, m->bias);
}

/// Keys that a query sees, averaged over the positions of a causal sequence.
double mean_keys(double length, const std::optional<int>& window) {
  if (!window || length <= *window) return (length + 1) / 2;
  const double w = *window;  // the first w queries see 1, 2, ..., w keys, the others w
  return (w * (w + 1) / 2 + (length - w) * w) / length;
}

double mixer_flops(const Mixer& mixer, int64_t dim, double length) {
  const auto* a = std::get_if<Attention>(&mixer);
  if (!a) return 2.0 * static_cast<double>(mixer_parameters(mixer, dim));
  const double q = double(a->heads) * a->head_dim, kv = double(a->kv_heads) * a->head_dim;
  const double projections = 2 * double(dim) * (2 * q + 2 * kv);
  return projections + 2 * (2 * q) * mean_keys(length, a->window);
}

double ffn_flops(const Ffn& ffn, int64_t dim) {
  const auto* m = std::get_if<Mlp>(&ffn);
  if (!m) return 2.0 * static_cast<double>(ffn_parameters(ffn, dim));
  return 2 * double(dim) * m->hidden * (m->gated ? 3 : 2);
}

}  // namespace

BlockNorms block_norms(const Block& block) {
  const bool mixer = !std::holds_alternative<Nothing>(block.mixer);
  const bool ffn = !std::holds_alternative<Nothing>(block.ffn);
  switch (block.wiring) {
    case Wiring::sandwich: return {mixer ? 2 : 0, ffn ? 2 : 0};
    case Wiring::parallel: return {1, 0};
    default: return {mixer ? 1 : 0, ffn ? 1 : 0};
  }
}

int64_t norm_parameters(const Norm& norm, int dim) {
  if (const auto* c = std::get_if<Custom>(&norm))
    return custom_parameters(Part::norm, c->name, c->values, dim);
  const auto* l = std::get_if<LayerNorm>(&norm);
  return l && l->bias ? 2 * int64_t{dim} : dim;
}

Count count(const Model& m) {
  Count out;
  const int64_t table = int64_t{m.vocab} * m.dim;
  out.embedding = table;
  if (const auto* l = std::get_if<Learned>(&m.position)) out.position = int64_t{l->length} * m.dim;
  out.layers.reserve(m.layers.size());
  for (const Block& b : m.layers) {
    LayerCount layer{mixer_parameters(b.mixer, m.dim), ffn_parameters(b.ffn, m.dim)};
    const BlockNorms norms = block_norms(b);
    if (const int n = norms.mixer + norms.ffn) layer.norm = n * norm_parameters(b.norm, m.dim);
    out.mixer += layer.mixer, out.ffn += layer.ffn, out.norm += layer.norm;
    out.layers.push_back(layer);
  }
  out.norm += norm_parameters(m.final_norm, m.dim);
  if (!m.tie_head) out.head = table + (m.head_bias ? m.vocab : 0);
  out.total = out.embedding + out.position + out.mixer + out.ffn + out.norm + out.head;
  return out;
}

double flops_per_token(const Model& m, int64_t length) {
  double flops = 2 * double(m.dim) * m.vocab;
  for (const Block& b : m.layers)
    flops += mixer_flops(b.mixer, m.dim, static_cast<double>(length)) + ffn_flops(b.ffn, m.dim);
  return flops;
}

int64_t kv_bytes_per_token(const Model& m, int64_t bytes_per_element) {
  return kv_bytes(m, 1, bytes_per_element);
}

int64_t kv_bytes(const Model& m, int64_t context, int64_t bytes_per_element) {
  int64_t bytes = 0;
  for (const Block& b : m.layers) {
    const auto* a = std::get_if<Attention>(&b.mixer);
    if (!a) continue;
    const int64_t kept = a->window ? std::min<int64_t>(context, *a->window) : context;
    bytes += 2 * kept * a->kv_heads * a->head_dim * bytes_per_element;
  }
  return bytes;
}

}  // namespace lmxlab::config
