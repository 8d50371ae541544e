#include "lmxlab/config/count.h"

#include "lmxlab/config/custom.h"

#include <algorithm>

namespace lmxlab::config {
namespace {

/// A 64-bit number whose sums and products are checked: sizes come from files and command lines.
struct Whole {
  int64_t value = 0;
  Whole() = default;
  Whole(int64_t v) : value(v) {}
  friend Whole operator*(Whole a, Whole b) {
    Whole out;
    if (__builtin_mul_overflow(a.value, b.value, &out.value)) too_large();
    return out;
  }
  friend Whole operator+(Whole a, Whole b) {
    Whole out;
    if (__builtin_add_overflow(a.value, b.value, &out.value)) too_large();
    return out;
  }
  Whole& operator+=(Whole b) { return *this = *this + b; }
  [[noreturn]] static void too_large() {
    throw Error(
        Kind::usage,
        "[count] the model is larger than a 64-bit number can say. Make its sizes smaller.");
  }
};

Whole linear(Whole in, Whole out, bool bias) {
  return in * out + (bias ? out : Whole(0));
}

Whole mixer_parameters(const Mixer& mixer, int dim) {
  if (const auto* c = std::get_if<Custom>(&mixer))
    return custom_parameters(Part::mixer, c->name, c->values, dim);
  if (const auto r = recurrent_size(mixer, dim)) {
    Whole n;
    for (const auto& [rows, columns] : r->parameters) n += Whole(rows) * columns;
    return n;
  }
  const auto* a = std::get_if<Attention>(&mixer);
  if (!a) return 0;
  const Whole q = Whole(a->heads) * a->head_dim, kv = Whole(a->kv_heads) * a->head_dim;
  Whole n = linear(dim, q, a->qkv_bias) + Whole(2) * linear(dim, kv, a->qkv_bias) +
            linear(q, dim, a->out_bias);
  if (a->qk_norm && a->qk_norm_joint)
    n += Whole(norm_parameters(*a->qk_norm, static_cast<int>(q.value))) +
         norm_parameters(*a->qk_norm, static_cast<int>(kv.value));
  else if (a->qk_norm)
    n += Whole(2) * norm_parameters(*a->qk_norm, a->head_dim);
  return n;
}

Whole ffn_parameters(const Ffn& ffn, int dim) {
  if (const auto* c = std::get_if<Custom>(&ffn))
    return custom_parameters(Part::ffn, c->name, c->values, dim);
  const auto* m = std::get_if<Mlp>(&ffn);
  if (!m) return 0;
  return Whole(m->gated ? 2 : 1) * linear(dim, m->hidden, m->bias) +
         linear(m->hidden, dim, m->bias);
}

/// Keys that a query sees, averaged over the positions of a causal sequence.
double mean_keys(double length, const std::optional<int>& window) {
  if (!window || length <= *window) return (length + 1) / 2;
  const double w = *window;  // the first w queries see 1, 2, ..., w keys, the others w
  return (w * (w + 1) / 2 + (length - w) * w) / length;
}

double mixer_flops(const Mixer& mixer, int dim, double length) {
  const auto* a = std::get_if<Attention>(&mixer);
  if (!a) {
    double flops = 2.0 * static_cast<double>(mixer_parameters(mixer, dim).value);
    if (const auto r = recurrent_size(mixer, dim))
      flops += 2.0 * r->products * double(r->state[0]) * double(r->state[1]) * double(r->state[2]);
    return flops;
  }
  const double q = double(a->heads) * a->head_dim, kv = double(a->kv_heads) * a->head_dim;
  const double projections = 2 * double(dim) * (2 * q + 2 * kv);
  return projections + 2 * (2 * q) * mean_keys(length, a->window);
}

double ffn_flops(const Ffn& ffn, int dim) {
  const auto* m = std::get_if<Mlp>(&ffn);
  if (!m) return 2.0 * static_cast<double>(ffn_parameters(ffn, dim).value);
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
  const Whole table = Whole(m.vocab) * m.dim;
  Whole position, mixer, ffn, norm = norm_parameters(m.final_norm, m.dim), head;
  if (const auto* l = std::get_if<Learned>(&m.position)) position = Whole(l->length) * m.dim;
  out.layers.reserve(m.layers.size());
  for (const Block& b : m.layers) {
    LayerCount layer{mixer_parameters(b.mixer, m.dim).value, ffn_parameters(b.ffn, m.dim).value};
    const BlockNorms norms = block_norms(b);
    if (const int n = norms.mixer + norms.ffn) layer.norm = n * norm_parameters(b.norm, m.dim);
    mixer += layer.mixer, ffn += layer.ffn, norm += layer.norm;
    out.layers.push_back(layer);
  }
  if (!m.tie_head) head = table + Whole(m.head_bias ? m.vocab : 0);
  out.embedding = table.value, out.position = position.value, out.mixer = mixer.value;
  out.ffn = ffn.value, out.norm = norm.value, out.head = head.value;
  out.total = (table + position + mixer + ffn + norm + head).value;
  return out;
}

double flops_per_token(const Model& m, int64_t length) {
  double flops = 2 * double(m.dim) * m.vocab;
  for (const Block& b : m.layers)
    flops += mixer_flops(b.mixer, m.dim, static_cast<double>(length)) + ffn_flops(b.ffn, m.dim);
  return flops;
}

int64_t state_bytes(const Model& m, int64_t bytes_per_element) {
  Whole bytes;
  for (const Block& b : m.layers)
    if (const auto r = recurrent_size(b.mixer, m.dim)) {
      bytes += Whole(4) * r->state[0] * r->state[1] * r->state[2];
      bytes += Whole(r->window.first) * r->window.second * bytes_per_element;
    }
  return bytes.value;
}

int64_t kv_bytes_per_token(const Model& m, int64_t bytes_per_element) {
  return kv_bytes(m, 1, bytes_per_element) - kv_bytes(m, 0, bytes_per_element);
}

int kv_group(int head_dim) {
  return head_dim % 64 == 0 ? 64 : 32;
}

int64_t kv_bytes(const Model& m, int64_t context, int64_t bytes_per_element, int kv_bits) {
  Whole bytes = state_bytes(m, bytes_per_element);
  for (const Block& b : m.layers) {
    const auto* a = std::get_if<Attention>(&b.mixer);
    if (!a) continue;
    const Whole kept = a->window ? std::min<int64_t>(context, *a->window) : context;
    const Whole row =
        kv_bits == 0    ? Whole(a->head_dim) * bytes_per_element
        : kv_bits == 16 ? Whole(a->head_dim) * std::min<int64_t>(2, bytes_per_element)
                        : Whole(int64_t{a->head_dim} * kv_bits / 8) +
                              Whole(2) * (a->head_dim / kv_group(a->head_dim)) * bytes_per_element;
    bytes += Whole(2) * kept * a->kv_heads * row;
  }
  return bytes.value;
}

}  // namespace lmxlab::config
