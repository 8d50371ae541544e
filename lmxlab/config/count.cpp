#include "lmxlab/config/count.h"

#include "lmxlab/config/custom.h"

#include <algorithm>
#include <cmath>

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

/// Weights of one of the MLPs that compress.
Whole compression(const Nsa& s) {
  return (Whole(s.block) + 1) * s.head_dim * s.hidden;
}

Whole mixer_parameters(const Mixer& mixer, int dim) {
  if (const auto* c = std::get_if<Custom>(&mixer))
    return custom_parameters(Part::mixer, c->name, c->values, dim);
  if (const auto* m = std::get_if<Mla>(&mixer)) {
    const Whole q = Whole(m->heads) * (Whole(m->nope_dim) + m->rope_dim);
    const auto latent = [&](int width) { return norm_parameters(m->latent_norm, width); };
    Whole n = m->q_rank
                  ? linear(dim, *m->q_rank, m->bias) + latent(*m->q_rank) + Whole(*m->q_rank) * q
                  : Whole(dim) * q;
    n += linear(dim, Whole(m->kv_rank) + m->rope_dim, m->bias) + latent(m->kv_rank);
    n += Whole(m->kv_rank) * m->heads * (Whole(m->nope_dim) + m->v_dim);
    if (const auto& x = m->indexer; x && !x->shared) {
      n += Whole(m->q_rank.value_or(0)) * x->heads * x->head_dim + Whole(dim) * x->head_dim;
      n += Whole(dim) * x->heads + norm_parameters(x->norm, x->head_dim);
    }
    return n + linear(Whole(m->heads) * m->v_dim, dim, m->bias);
  }
  if (const auto* s = std::get_if<Nsa>(&mixer)) {
    const Whole q = Whole(s->heads) * s->head_dim, kv = Whole(s->kv_heads) * s->head_dim;
    const Whole rows = Whole(2) * q + Whole(6) * kv + Whole(3) * s->heads;
    return rows * dim + Whole(2) * (Whole(s->block) * s->head_dim + compression(*s));
  }
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
  if (a->gate) n += linear(dim, q, a->gate_bias);
  if (a->sinks) n += a->heads;
  if (a->out_norm) n += norm_parameters(*a->out_norm, static_cast<int>(q.value));
  if (a->qk_norm && a->qk_norm_by_head)
    n += q + kv;
  else if (a->qk_norm && a->qk_norm_joint)
    n += Whole(norm_parameters(*a->qk_norm, static_cast<int>(q.value))) +
         norm_parameters(*a->qk_norm, static_cast<int>(kv.value));
  else if (a->qk_norm)
    n += Whole(2) * norm_parameters(*a->qk_norm, a->head_dim);
  return n;
}

/// With so many of its experts.
Whole moe_parameters(const Moe& m, int dim, int experts) {
  const int width = m.latent > 0 ? m.latent : dim, matrices = m.gated ? 2 : 1;
  const auto mlp = [&](int in, int hidden, bool bias) {
    return Whole(matrices) * linear(in, hidden, bias) + linear(hidden, in, bias);
  };
  Whole n = linear(dim, m.choices(), m.router_bias);
  if (m.selection_bias) n += m.choices();
  if (m.router_norm) n += dim;
  if (m.expert_scale) n += m.choices();
  n += Whole(experts) * mlp(width, m.hidden, m.bias);
  if (m.latent > 0) n += linear(dim, width, m.shared_bias) + linear(width, dim, m.shared_bias);
  if (m.shared > 0) n += mlp(dim, m.shared, m.shared_bias);
  if (m.shared_gate) n += dim;
  return n;
}

Whole ffn_parameters(const Ffn& ffn, int dim) {
  if (const auto* c = std::get_if<Custom>(&ffn))
    return custom_parameters(Part::ffn, c->name, c->values, dim);
  if (const auto* m = std::get_if<Moe>(&ffn)) return moe_parameters(*m, dim, m->experts);
  const auto* m = std::get_if<Mlp>(&ffn);
  if (!m) return 0;
  Whole n =
      Whole(m->gated ? 2 : 1) * linear(dim, m->hidden, m->bias) + linear(m->hidden, dim, m->bias);
  if (m->norm) n += norm_parameters(*m->norm, m->hidden);
  if (m->act == Act::xielu) n += 2;
  return n;
}

/// Keys that a query sees, averaged over the positions of a causal sequence.
double mean_keys(double length, const std::optional<int>& window) {
  if (!window || length <= *window) return (length + 1) / 2;
  const double w = *window;  // the first w queries see 1, 2, ..., w keys, the others w
  return (w * (w + 1) / 2 + (length - w) * w) / length;
}

/// Compressed keys of a text of so many tokens.
double compressed_keys(const Nsa& s, double length) {
  return length < s.block ? 0 : std::floor((length - s.block) / s.stride) + 1;
}

double sparse_flops(const Nsa& s, int dim, double length) {
  const double q = double(s.heads) * s.head_dim, kv = double(s.kv_heads) * s.head_dim;
  const double projections = 2 * double(dim) * (2 * q + 6 * kv + 3 * double(s.heads));
  // Compressed keys, each made once and seen from its block's end on.
  const double keys = compressed_keys(s, length);
  const double seen = keys * (length - s.block + 1) - s.stride * keys * (keys - 1) / 2;
  const double made = 2 * 2 * keys * s.kv_heads * double(compression(s).value);
  const double fine = mean_keys(length, s.selected * s.selected_block);
  return projections + (made + 4 * q * seen) / length +
         4 * q * (fine + mean_keys(length, s.window));
}

double mixer_flops(const Mixer& mixer, int dim, double length) {
  if (const auto* s = std::get_if<Nsa>(&mixer)) return sparse_flops(*s, dim, length);
  if (const auto* m = std::get_if<Mla>(&mixer)) {
    // Of the chosen keys as of a window: the first queries see fewer.
    const auto most = m->indexer ? std::optional(m->indexer->top_k) : std::nullopt;
    double flops =
        2.0 * static_cast<double>(mixer_parameters(mixer, dim).value) +
        2.0 * m->heads * (m->nope_dim + m->rope_dim + m->v_dim) * mean_keys(length, most);
    if (const auto& x = m->indexer; x && !x->shared)  // its queries meet all keys
      flops += 2.0 * x->heads * (x->head_dim + 1.0) * mean_keys(length, {});
    return flops;
  }
  const auto* a = std::get_if<Attention>(&mixer);
  if (!a) {
    double flops = 2.0 * static_cast<double>(mixer_parameters(mixer, dim).value);
    if (const auto r = recurrent_size(mixer, dim))
      flops += 2.0 * r->products * double(r->state[0]) * double(r->state[1]) * double(r->state[2]);
    return flops;
  }
  const double q = double(a->heads) * a->head_dim, kv = double(a->kv_heads) * a->head_dim;
  const double projections = 2 * double(dim) * ((a->gate ? 3 : 2) * q + 2 * kv);
  return projections + 2 * (2 * q) * mean_keys(length, a->window);
}

double ffn_flops(const Ffn& ffn, int dim) {
  if (const auto* m = std::get_if<Moe>(&ffn)) {
    const double width = m->latent > 0 ? m->latent : dim, matrices = m->gated ? 3 : 2;
    double n = double(dim) * m->choices() + double(m->top_k) * width * m->hidden * matrices +
               double(dim) * m->shared * matrices;
    if (m->latent > 0) n += 2 * double(dim) * width;
    if (m->shared_gate) n += dim;
    return 2 * n;
  }
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
  return std::visit(
      [&](const auto& n) {
        int64_t out = 0;
        if constexpr (requires { n.weight; }) out += n.weight ? dim : 0;
        if constexpr (requires { n.bias; }) out += n.bias ? dim : 0;
        return out;
      },
      norm);
}

Count count(const Model& m) {
  Count out;
  const Whole table = Whole(m.vocab) * m.dim;
  Whole position, mixer, ffn, norm = norm_parameters(m.final_norm, m.dim), head;
  if (const auto* l = std::get_if<Learned>(&m.position))
    position = (Whole(l->length) + l->offset) * m.dim;
  int64_t idle = 0;  // no more than all of them
  out.layers.reserve(m.layers.size());
  for (const Block& b : m.layers) {
    LayerCount layer{mixer_parameters(b.mixer, m.dim).value, ffn_parameters(b.ffn, m.dim).value};
    const BlockNorms norms = block_norms(b);
    if (const int n = norms.mixer + norms.ffn) layer.norm = n * norm_parameters(b.norm, m.dim);
    if (const auto* e = std::get_if<Moe>(&b.ffn))
      idle += layer.ffn - moe_parameters(*e, m.dim, std::min(e->top_k, e->experts)).value;
    mixer += layer.mixer, ffn += layer.ffn, norm += layer.norm;
    out.layers.push_back(layer);
  }
  if (m.embed_norm) norm += norm_parameters(*m.embed_norm, m.dim);
  if (!m.tie_head) head = table + Whole(m.head_bias ? m.vocab : 0);
  out.embedding = table.value, out.position = position.value, out.mixer = mixer.value;
  out.ffn = ffn.value, out.norm = norm.value, out.head = head.value;
  out.total = (table + position + mixer + ffn + norm + head).value;
  out.active = out.total - idle;
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
  const auto row = [&](int width) {
    return kv_bits == 0    ? Whole(width) * bytes_per_element
           : kv_bits == 16 ? Whole(width) * std::min<int64_t>(2, bytes_per_element)
                           : Whole(int64_t{width} * kv_bits / 8) +
                                 Whole(2) * (width / kv_group(width)) * bytes_per_element;
  };
  for (const Block& b : m.layers) {
    if (const auto* l = std::get_if<Mla>(&b.mixer)) {
      bytes += Whole(context) * (row(l->kv_rank) + row(l->rope_dim));
      if (l->indexer && !l->indexer->shared) bytes += Whole(context) * row(l->indexer->head_dim);
    }
    if (const auto* s = std::get_if<Nsa>(&b.mixer)) {
      const Whole rows = Whole(2) * context + std::min<int64_t>(context, s->window) +
                         static_cast<int64_t>(compressed_keys(*s, double(context)));
      bytes += Whole(2) * rows * s->kv_heads * row(s->head_dim);
    }
    const auto* a = std::get_if<Attention>(&b.mixer);
    if (!a) continue;
    const Whole kept = a->window ? std::min<int64_t>(context, *a->window) : context;
    bytes += Whole(2) * kept * a->kv_heads * row(a->head_dim);
  }
  return bytes.value;
}

}  // namespace lmxlab::config
