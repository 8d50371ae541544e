#include "lmxlab/plan/layers.h"

#include <algorithm>

namespace lmxlab::plan {
namespace {

using Layers = std::vector<Layer>;

struct OfMixer {
  int64_t dim, out;

  Layers operator()(const config::Attention& a) const {
    const int64_t heads = a.heads, keys = a.kv_from ? 0 : a.kv_heads;
    Layers all{{dim, heads * a.head_dim}, {heads * a.value_dim(), out}};
    if (keys > 0) all.push_back({dim, keys * a.head_dim});
    if (keys > 0 && !a.v_of_k) all.push_back({dim, keys * a.value_dim()});
    if (a.gate) all.push_back({dim, a.gate_width()});
    return all;
  }
  Layers operator()(const config::Mla& m) const {
    const int64_t heads = m.heads, q = heads * (m.nope_dim + m.rope_dim), rank = m.kv_rank;
    Layers all{
        {dim, rank + m.rope_dim}, {rank, heads * (m.nope_dim + m.v_dim)}, {heads * m.v_dim, out}};
    if (m.q_rank) all.push_back({dim, *m.q_rank});
    all.push_back({m.q_rank ? *m.q_rank : dim, q});
    if (m.gate) all.push_back({dim, heads});
    if (const auto& x = m.indexer; x && !x->shared) {
      all.push_back({m.q_rank.value_or(0), int64_t{x->heads} * x->head_dim});
      all.push_back({dim, x->head_dim}), all.push_back({dim, x->heads});
    }
    return all;
  }
  Layers operator()(const config::Nsa& s) const {
    const int64_t q = int64_t{s.heads} * s.head_dim, kv = int64_t{s.kv_heads} * s.head_dim;
    return {{dim, q}, {q, out}, {dim, 6 * kv}, {dim, 3 * int64_t{s.heads}}};
  }
  Layers operator()(const config::Parallel& p) const {
    auto all = (*this)(p.attention);
    const auto more = (*this)(p.mamba);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Layers operator()(const config::Nothing&) const { return {}; }
  Layers operator()(const config::Custom&) const { return {}; }
  // Lists of kernels and of numbers a head have few rows.
  template <class Recurrent>
  Layers operator()(const Recurrent& r) const {
    constexpr int64_t kFew = 8;
    Layers all;
    for (const auto& [rows, columns] : size_of(r, static_cast<int>(dim)).parameters)
      if (std::min(rows, columns) >= kFew) all.push_back({rows, columns});
    return all;
  }
};

void add_mlp(Layers& to, int64_t dim, int64_t hidden, bool gated, int64_t experts = 0) {
  to.insert(to.end(), gated ? 2 : 1, {dim, hidden, experts});
  to.push_back({hidden, dim, experts});
}

}  // namespace

std::vector<Layer> layers_of(const config::Model& m, const config::Block& b) {
  auto all = std::visit(OfMixer{m.dim, m.dim}, b.mixer);
  if (const auto* e = config::experts_in(b)) {
    const int64_t width = e->latent > 0 ? e->latent : m.dim;
    for (const auto& [hidden, count] : e->by_width()) add_mlp(all, width, hidden, e->gated, count);
    if (e->latent > 0) all.push_back({m.dim, width}), all.push_back({width, m.dim});
    if (e->shared > 0) add_mlp(all, m.dim, e->shared, e->gated);
  }
  if (const auto* f = config::dense_in(b.ffn)) add_mlp(all, m.dim, f->hidden, f->gated);
  if (b.laurel > 0) all.push_back({m.dim, b.laurel}), all.push_back({b.laurel, m.dim});
  if (const auto& l = m.layer_inputs) {
    all.push_back({m.dim, l->width}), all.push_back({l->width, m.dim});
  }
  if (b.shared) all.push_back({m.dim, m.dim});
  return all;
}

std::vector<Layer> other_layers(const config::Model& m) {
  Layers all;
  if (!m.tie_head && !m.score) all.push_back({m.dim, m.vocab});
  for (const auto& s : m.shared_blocks) {
    const auto attention = OfMixer{2 * m.dim, m.dim}(s.attention);
    all.insert(all.end(), attention.begin(), attention.end());
    add_mlp(all, m.dim, s.mlp.hidden, s.mlp.gated);
  }
  if (const auto& l = m.layer_inputs)
    all.push_back({m.dim, static_cast<int64_t>(m.layers.size()) * l->width});
  return all;
}

int64_t numbers_of(const std::vector<Layer>& layers, double share) {
  double n = 0;
  for (const auto& l : layers)
    n += double(l.in) * double(l.out) * (l.experts > 0 ? share * double(l.experts) : 1);
  return static_cast<int64_t>(n);
}

}  // namespace lmxlab::plan
