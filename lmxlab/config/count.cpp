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

Whole attention_parameters(const Attention& a, Whole dim, Whole out) {
  const Whole q = Whole(a.heads) * a.head_dim, k = Whole(a.kv_heads) * a.head_dim;
  const Whole v = Whole(a.kv_heads) * a.value_dim(), o = Whole(a.heads) * a.value_dim();
  const auto width = [](const Whole& w) { return static_cast<int>(w.value); };
  Whole n = linear(dim, q, a.qkv_bias) + linear(o, out, a.out_bias);
  if (!a.kv_from) n += linear(dim, k, a.qkv_bias);
  if (!a.kv_from && !a.v_of_k) n += linear(dim, v, a.qkv_bias);
  if (!a.kv_from && a.v_norm) n += norm_parameters(*a.v_norm, a.value_dim());
  if (a.gate) n += linear(dim, a.gate_width(), a.gate_bias);
  if (a.sinks) n += a.heads;
  if (a.out_norm) n += norm_parameters(*a.out_norm, width(o));
  if (!a.qk_norm) return n;
  const auto of = [&](const Whole& all) -> Whole {
    if (a.qk_norm_by_head) return all;
    return norm_parameters(*a.qk_norm, a.qk_norm_joint ? width(all) : a.head_dim);
  };
  return n + of(q) + (a.kv_from ? Whole(0) : of(k));
}

Whole attention_parameters(const Attention& a, int dim) {
  return attention_parameters(a, dim, dim);
}

Whole recurrent_parameters(const RecurrentSize& size) {
  Whole n;
  for (const auto& [rows, columns] : size.parameters) n += Whole(rows) * columns;
  return n;
}

/// Weights of one of the MLPs that compress.
Whole compression(const Nsa& s) {
  return (Whole(s.block) + 1) * s.head_dim * s.hidden;
}

Whole mixer_parameters(const Mixer& mixer, int dim) {
  if (const auto* p = std::get_if<Parallel>(&mixer))
    return attention_parameters(p->attention, dim) + recurrent_parameters(size_of(p->mamba, dim));
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
    if (m->gate) n += Whole(dim) * m->heads;
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
  if (const auto r = recurrent_size(mixer, dim)) return recurrent_parameters(*r);
  const auto* a = std::get_if<Attention>(&mixer);
  return a ? attention_parameters(*a, dim) : Whole(0);
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
  if (m.widths.empty()) {
    n += Whole(experts) * mlp(width, m.hidden, m.bias);
  } else {  // of some, as many as the mean
    const Whole hidden = (m.all_hidden() / std::max(1, m.experts)) * experts;
    n += Whole(matrices + 1) * width * (experts == m.experts ? Whole(m.all_hidden()) : hidden);
  }
  if (m.latent > 0) n += linear(dim, width, m.shared_bias) + linear(width, dim, m.shared_bias);
  if (m.shared > 0) n += mlp(dim, m.shared, m.shared_bias);
  if (m.shared_gate) n += dim;
  return n;
}

Whole ffn_parameters(const Ffn& ffn, int dim) {
  if (const auto* c = std::get_if<Custom>(&ffn))
    return custom_parameters(Part::ffn, c->name, c->values, dim);
  const auto dense = [&](const Mlp& m) {
    Whole n =
        Whole(m.gated ? 2 : 1) * linear(dim, m.hidden, m.bias) + linear(m.hidden, dim, m.bias);
    if (m.norm) n += norm_parameters(*m.norm, m.hidden);
    if (m.act == Act::xielu) n += 2;
    return n;
  };
  if (const auto* m = std::get_if<Moe>(&ffn)) return moe_parameters(*m, dim, m->experts);
  if (const auto* both = std::get_if<MlpAndMoe>(&ffn))
    return dense(both->mlp) + moe_parameters(both->moe, dim, both->moe.experts);
  const auto* m = std::get_if<Mlp>(&ffn);
  return m ? dense(*m) : Whole(0);
}

/// Keys that a query sees, averaged over the positions of a causal sequence.
double mean_keys(double length, const std::optional<int>& window) {
  if (!window || length <= *window) return (length + 1) / 2;
  const double w = *window;  // the first w queries see 1, 2, ..., w keys, the others w
  return (w * (w + 1) / 2 + (length - w) * w) / length;
}

double attention_flops(const Attention& a, int dim, double length) {
  const double q = double(a.heads) * a.head_dim, k = double(a.kv_heads) * a.head_dim;
  const double v = double(a.kv_heads) * a.value_dim(), o = double(a.heads) * a.value_dim();
  double projections = q + o;
  if (!a.kv_from) projections += k;
  if (!a.kv_from && !a.v_of_k) projections += v;
  if (a.gate) projections += a.gate_width();
  return 2 * double(dim) * projections + 2 * (q + o) * mean_keys(length, a.window);
}

double recurrent_flops(const RecurrentSize& r) {
  return 2.0 * static_cast<double>(recurrent_parameters(r).value) +
         2.0 * r.products * double(r.state[0]) * double(r.state[1]) * double(r.state[2]);
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
  if (const auto* p = std::get_if<Parallel>(&mixer))
    return attention_flops(p->attention, dim, length) + recurrent_flops(size_of(p->mamba, dim));
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
  if (const auto r = recurrent_size(mixer, dim)) return recurrent_flops(*r);
  if (const auto* a = std::get_if<Attention>(&mixer)) return attention_flops(*a, dim, length);
  return 2.0 * static_cast<double>(mixer_parameters(mixer, dim).value);
}

double moe_flops(const Moe& m, int dim) {
  const double width = m.latent > 0 ? m.latent : dim, matrices = m.gated ? 3 : 2;
  double n =
      double(dim) * m.choices() +
      double(m.top_k) * width * (double(m.all_hidden()) / std::max(1, m.experts)) * matrices +
      double(dim) * m.shared * matrices;
  if (m.latent > 0) n += 2 * double(dim) * width;
  if (m.shared_gate) n += dim;
  return 2 * n;
}

double ffn_flops(const Ffn& ffn, int dim) {
  const auto dense = [&](const Mlp& m) { return 2 * double(dim) * m.hidden * (m.gated ? 3 : 2); };
  if (const auto* m = std::get_if<Moe>(&ffn)) return moe_flops(*m, dim);
  if (const auto* both = std::get_if<MlpAndMoe>(&ffn))
    return dense(both->mlp) + moe_flops(both->moe, dim);
  if (const auto* m = std::get_if<Mlp>(&ffn)) return dense(*m);
  return 2.0 * static_cast<double>(ffn_parameters(ffn, dim).value);
}

/// Of a shared block, without norms.
Whole shared_parameters(const SharedBlock& s, int dim) {
  return attention_parameters(s.attention, Whole(2) * dim, dim) + ffn_parameters(s.mlp, dim);
}
/// Of what each block adds to it.
Whole addition_parameters(const SharedBlock& s, int dim) {
  Whole n = Whole(dim) * dim + Whole(s.rank) * (Whole(dim) + Whole(2) * s.mlp.hidden);
  const Attention& a = s.attention;
  if (s.attention_additions)
    n += Whole(s.rank) * (Whole(6) * dim + (Whole(a.heads) + a.kv_heads) * a.head_dim +
                          Whole(a.kv_heads) * a.value_dim());
  return n;
}
const SharedBlock* shared_of(const Model& m, const Block& b) {
  return b.shared ? &m.shared_blocks[static_cast<size_t>(*b.shared)] : nullptr;
}

/// Parameters that a block has for what the model gives it beside the stream, without norms.
struct Beside {
  Whole mixer, ffn;
  int norms = 0;
};
// Parameters of a block, parts of a custom one included.
struct BlockCount {
  LayerCount layer;
  int64_t idle = 0;  // of experts that a token does not meet
};
Beside beside(const Model& m, const Block& b);
BlockCount count_block(const Model& m, const Block& b) {
  BlockCount out{{mixer_parameters(b.mixer, m.dim).value, ffn_parameters(b.ffn, m.dim).value}};
  const BlockNorms norms = block_norms(b);
  const Beside more = beside(m, b);
  out.layer.mixer = (Whole(out.layer.mixer) + more.mixer).value;
  out.layer.ffn = (Whole(out.layer.ffn) + more.ffn).value;
  if (const int n = norms.mixer + norms.ffn + more.norms)
    out.layer.norm = n * norm_parameters(b.norm, m.dim);
  if (const auto* e = experts_in(b))
    out.idle = moe_parameters(*e, m.dim, e->experts).value -
               moe_parameters(*e, m.dim, std::min(e->top_k, e->experts)).value;
  return out;
}
Beside beside(const Model& m, const Block& b) {
  Beside out;
  if (b.shortcut) out.ffn += moe_parameters(*b.shortcut, m.dim, b.shortcut->experts);
  if (b.laurel > 0) out.mixer += Whole(2) * m.dim * b.laurel, ++out.norms;
  if (b.layer_scale) out.ffn += 1;
  if (const auto* s = shared_of(m, b)) out.mixer += addition_parameters(*s, m.dim);
  if (m.layer_inputs) out.ffn += Whole(2) * m.dim * m.layer_inputs->width, ++out.norms;
  if (const auto& a = m.altup) {
    const Whole n = a->streams;
    out.ffn += n * n * n + n * n + n * m.dim + Whole(m.dim);  // two lists of weights, router, scale
    ++out.norms;
  }
  return out;
}

}  // namespace

BlockNorms block_norms(const Block& block) {
  const bool mixer = !std::holds_alternative<Nothing>(block.mixer);
  const bool ffn = !std::holds_alternative<Nothing>(block.ffn);
  const int inner = std::holds_alternative<MlpAndMoe>(block.ffn) ? 3 : 0;
  switch (block.wiring) {
    case Wiring::sandwich: return {mixer ? 2 : 0, ffn ? 2 + inner : 0};
    case Wiring::parallel: return {1, inner};
    default: return {mixer ? 1 : 0, ffn ? 1 + inner : 0};
  }
}

int64_t count_mixer(const Mixer& mixer, int dim) {
  return mixer_parameters(mixer, dim).value;
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
    const auto [layer, rests] = count_block(m, b);
    idle += rests;
    mixer += layer.mixer, ffn += layer.ffn, norm += layer.norm;
    out.layers.push_back(layer);
  }
  if (m.embed_norm) norm += norm_parameters(*m.embed_norm, m.dim);
  Whole embedding = table;
  if (const auto& l = m.layer_inputs) {
    embedding +=
        Whole(static_cast<int64_t>(m.layers.size())) * l->width * (Whole(l->vocab) + m.dim);
    norm += l->width;
  }
  for (const auto& s : m.shared_blocks) {
    mixer += shared_parameters(s, m.dim);
    norm += Whole(norm_parameters(s.norm, 2 * m.dim)) + norm_parameters(s.norm, m.dim);
  }
  if (m.altup) embedding += Whole(2) * (m.altup->streams - 1) * m.dim * m.dim;
  if (m.score)
    head = m.dim;
  else if (!m.tie_head)
    head = table + Whole(m.head_bias ? m.vocab : 0);
  Whole mtp;
  for (const Block& b : m.mtp_heads)  // a projection and three norms beside the block
    mtp += Whole(2) * m.dim * m.dim + Whole(3) * norm_parameters(m.final_norm, m.dim) +
           count_block(m, b).layer.total();
  out.mtp = mtp.value;
  out.embedding = embedding.value, out.position = position.value, out.mixer = mixer.value;
  out.ffn = ffn.value, out.norm = norm.value, out.head = head.value;
  out.total = (embedding + position + mixer + ffn + norm + head + mtp).value;
  out.active = out.total - idle - out.mtp;
  return out;
}

double flops_per_token(const Model& m, int64_t length) {
  double flops = m.score ? 0 : 2 * double(m.dim) * m.vocab;
  for (const Block& b : m.layers) {
    flops += mixer_flops(b.mixer, m.dim, static_cast<double>(length)) + ffn_flops(b.ffn, m.dim);
    if (b.shortcut) flops += moe_flops(*b.shortcut, m.dim);
    if (const auto* s = shared_of(m, b)) {
      flops += attention_flops(s->attention, 2 * m.dim, static_cast<double>(length)) +
               ffn_flops(s->mlp, m.dim) +
               2.0 * static_cast<double>(addition_parameters(*s, m.dim).value);
      flops -= 2.0 * m.dim * s->attention.heads * s->attention.value_dim();  // it gives one width
    }
    if (b.laurel > 0) flops += 4.0 * m.dim * b.laurel;
    if (const auto& l = m.layer_inputs) flops += 6.0 * m.dim * l->width;
    if (const auto& a = m.altup) flops += 4.0 * m.dim * a->streams * (a->streams + 1);
  }
  if (m.altup) flops += 4.0 * m.dim * m.dim * (m.altup->streams - 1);
  return flops;
}

double mtp_flops_per_token(const Model& m, int64_t length) {
  double flops = 0;
  for (const Block& b : m.mtp_heads)
    flops += 4.0 * m.dim * m.dim + 2 * double(m.dim) * m.vocab + ffn_flops(b.ffn, m.dim) +
             mixer_flops(b.mixer, m.dim, static_cast<double>(length));
  return flops;
}

int64_t state_bytes(const Model& m, int64_t bytes_per_element) {
  Whole bytes;
  for (const Block& b : m.layers)
    if (const auto r = recurrent_size(b.mixer, m.dim)) {
      bytes += Whole(4) * r->state[0] * r->state[1] * r->state[2];
      bytes += Whole(4) * r->beside;
      bytes += Whole(r->window.first) * r->window.second * bytes_per_element;
    }
  return bytes.value;
}

int64_t kv_bytes_per_token(const Model& m, int64_t bytes_per_element) {
  return kv_bytes(m, 1, bytes_per_element) - kv_bytes(m, 0, bytes_per_element);
}

bool keeps_keys(const Model& m) {
  return kv_bytes_per_token(m, 1) > 0;
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
    const auto* shared = shared_of(m, b);
    const auto* a = shared ? &shared->attention : attention_in(b.mixer);
    if (!a || a->kv_from) continue;
    const Whole kept = a->window ? std::min<int64_t>(context, *a->window) : context;
    bytes += kept * a->kv_heads * (row(a->head_dim) + row(a->value_dim()));
  }
  return bytes.value;
}

}  // namespace lmxlab::config
