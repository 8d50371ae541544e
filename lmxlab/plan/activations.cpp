#include "lmxlab/plan/activations.h"

#include "lmxlab/config/count.h"

#include <algorithm>

namespace lmxlab::plan {
namespace {

constexpr double kFloat = 4;  // bytes

// Numbers of the computation to bytes; scores stay.
Made times(Made m, double element) {
  m.kept *= element, m.passing *= element, m.cut *= element;
  return m;
}

// Of a branch, without what it reads of the stream.
struct OfMixer {
  double dim, element;
  bool fused;

  Made operator()(const config::Attention& a) const {
    const double keys = a.kv_from ? 0 : a.kv_heads, heads = a.heads;
    const double q = heads * a.head_dim, o = heads * a.value_dim();
    const double k = keys * a.head_dim, v = keys * a.value_dim();
    Made m{.kept = q + k + v + o + heads, .passing = 2 * (q + k + v) + o};
    if (a.qk_norm) m.kept += q + k;
    if (a.v_norm) m.kept += v;
    if (a.clip) m.kept += 2 * (q + k + v);
    if (a.out_norm) m.kept += o;
    if (a.gate) m.kept += a.gate_width() + o, m.passing += a.gate_width();
    if (a.temperature) m.kept += q;
    const bool whole = std::holds_alternative<config::Alibi>(a.position) || a.sinks || a.chunked;
    if (whole || !fused) m.scores = kFloat * heads;
    if (whole) m.kept += q;
    if (a.window) m.cut = k + v;
    return times(m, element);
  }
  Made operator()(const config::Mla& m) const {
    const double q = double(m.heads) * (m.nope_dim + m.rope_dim), v = double(m.heads) * m.v_dim;
    const double latents = 2 * (m.q_rank.value_or(0) + m.kv_rank) + m.rope_dim;
    Made out{.kept = 3 * q + 2 * v + latents, .passing = 2 * (2 * q + v) + v};
    if (m.gate) out.kept += v + m.heads;
    if (m.indexer || !fused) out.scores = kFloat * m.heads;
    return times(out, element);
  }
  Made operator()(const config::Nsa& s) const {
    const double q = double(s.heads) * s.head_dim, kv = double(s.kv_heads) * s.head_dim;
    Made m{.kept = 6 * q + 12 * kv + 3 * s.heads, .passing = 6 * q + 12 * kv};
    m.scores = kFloat * 3 * s.heads, m.cut = 2 * kv;
    return times(m, element);
  }
  Made operator()(const config::Mamba& m) const {
    const double made = 2 * m.state + m.dt_rank;
    return recurrent(m, 7.25 * m.inner + (m.norms == config::MambaNorms::learned ? 3 : 1) * made,
                     kByPosition);
  }
  Made operator()(const config::Mamba2& m) const {
    const double inner = double(m.heads) * m.head_dim;
    const double channels = inner + 2 * double(m.groups) * m.state;
    return recurrent(m, 3 * inner + 4.25 * channels + 4 * m.heads, kByPosition);
  }
  Made operator()(const config::Mamba3& m) const {
    const double inner = double(m.heads) * m.head_dim;
    return recurrent(m, 6 * inner + 6 * double(m.heads) * m.state + 6 * m.heads);
  }
  Made operator()(const config::GatedDelta& m) const {
    const double keys = double(m.key_heads) * m.key_dim, values = double(m.heads) * m.value_dim;
    const double channels = 2 * keys + values;
    return recurrent(m, 3 * channels + 2 * keys + 2.5 * values + 2 * m.heads);
  }
  Made operator()(const config::KimiDelta& m) const {
    const double inner = double(m.heads) * m.head_dim;
    return recurrent(m, 16 * inner + (m.low_rank ? 2 * m.head_dim : 0) + m.heads);
  }
  Made operator()(const config::Lightning& m) const {
    return recurrent(m, 13 * double(m.heads) * m.head_dim);
  }
  Made operator()(const config::RgLru& m) const { return recurrent(m, 10 * double(m.width)); }
  Made operator()(const config::RwkvTime& m) const {
    return recurrent(m, 4 * dim + 6 * double(m.inner));
  }
  Made operator()(const config::RwkvChannel& m) const {
    return recurrent(m, (m.gate ? 6 : 4) * dim + 2 * double(m.hidden));
  }
  Made operator()(const config::Rwkv7& m) const {
    return recurrent(m, 8 * dim + 16 * double(m.heads) * m.head_dim);
  }
  Made operator()(const config::Mlstm& m) const {
    constexpr double kChunk = 64;  // positions whose scores are there together, five times
    const double keys = double(m.heads) * m.key_dim, values = double(m.heads) * m.value_dim;
    return recurrent(m, 4 * (keys + values + m.heads) + 5 * m.heads * kChunk);
  }
  Made operator()(const config::ShortConv& m) const { return recurrent(m, 6 * dim); }
  Made operator()(const config::Parallel& p) const {
    auto out = (*this)(p.attention);
    const auto more = (*this)(p.mamba);
    out.kept += more.kept, out.passing += more.passing;
    out.backward = std::max(out.backward, more.backward);
    out.cut += more.cut, out.state += more.state;
    return out;
  }
  Made operator()(const config::Nothing&) const { return {}; }
  Made operator()(const config::Custom& c) const {
    // As if its parameters were matrices into it and out of it.
    const double n = double(config::count_mixer(c, int(dim))) / std::max(1.0, dim);
    return times({.kept = 2 * n, .passing = 2 * n}, element);
  }

 private:
  // Shares of what a mixer keeps that are there at once: scans by position and by chunk.
  static constexpr double kByPosition = 0.9, kByChunk = 0.55;
  template <class Recurrent>
  Made recurrent(const Recurrent& mixer, double kept, double share = kByChunk) const {
    const auto r = size_of(mixer, int(dim));
    Made m{.kept = kFloat * kept};
    m.passing = kFloat * ((share == kByChunk ? 0.6 : 0.7) * (kept + 2 * dim) - 4 * dim);
    m.backward = kFloat * share * (kept + 2 * dim);
    if (r.window.first > 0) m.cut = element * double(r.window.second);
    m.state = kFloat * double(r.state[0] * r.state[1] * r.state[2] + r.beside);
    m.state += element * double(r.window.first * r.window.second);
    return m;
  }
};

Made of_dense(const config::Mlp& f, double element) {
  double n = (f.gated ? 3 : 2) * double(f.hidden), wide = 0;
  if (f.norm) n += f.hidden;
  if (f.act == config::Act::xielu) wide = 3.5 * f.hidden;
  if (f.sparsity > 0) n += 6 * double(f.hidden);
  const double kept = element * n + kFloat * wide;
  return {.kept = kept, .passing = kept, .backward = kFloat * 2.5 * wide};
}

Made of_experts(const config::Moe& e, double dim, double element) {
  const double width = e.latent > 0 ? e.latent : dim, matrices = e.gated ? 3 : 2;
  double n = 4 * e.choices();
  for (const auto& [hidden, count] : e.by_width()) {  // rows of every width are there
    n += e.top_k * (2 * width + matrices * hidden);
    if (e.clamp || e.alpha != 1) n += 5 * double(e.top_k) * hidden;
  }
  if (e.input_scaled) n += e.top_k * width;
  if (e.zero_experts > 0) n += 2 * dim;
  if (e.latent > 0) n += width + dim;
  n += matrices * e.shared + (e.shared_gate ? dim + 1 : 0);
  return {.kept = element * n, .passing = element * 0.8 * n};
}

}  // namespace

Made made_by(const config::Model& m, const config::Block& b, double element, bool fused) {
  const double dim = element * m.dim;
  auto out = std::visit(OfMixer{double(m.dim), element, fused}, b.mixer);
  const auto add = [&](const Made& more) {
    out.kept += more.kept, out.passing = std::max(out.passing, more.passing);
    out.backward = std::max(out.backward, more.backward);
  };
  if (const auto* f = config::dense_in(b.ffn)) add(of_dense(*f, element));
  if (const auto* e = config::experts_in(b)) add(of_experts(*e, m.dim, element));
  // What the branches read of the stream, and its norms.
  const bool mixer = !std::holds_alternative<config::Nothing>(b.mixer);
  const bool ffn = !std::holds_alternative<config::Nothing>(b.ffn);
  const bool parallel = b.wiring == config::Wiring::parallel;
  const bool twin = b.wiring == config::Wiring::twin;
  const double branch = b.wiring == config::Wiring::sandwich ? 3 : 2;
  out.kept += dim * ((mixer ? branch : 0) + (!ffn || parallel ? 0 : twin ? 1 : branch));
  if (std::holds_alternative<config::MlpAndMoe>(b.ffn)) out.kept += 3 * dim;
  out.passing += dim * (parallel || twin ? 6 : 4);
  if (b.laurel > 0) out.kept += 2 * dim + element * b.laurel;
  if (const auto& l = m.layer_inputs) out.kept += 2 * element * l->width + 2 * dim;
  if (const auto& a = m.altup) out.kept += 5 * a->streams * dim, out.passing += a->streams * dim;
  if (b.shared) {
    const auto& s = m.shared_blocks[static_cast<size_t>(*b.shared)];
    const auto attention = OfMixer{2.0 * m.dim, element, fused}(s.attention);
    out.scores += attention.scores;
    out.kept += 7 * dim + attention.kept + of_dense(s.mlp, element).kept + 2 * element * s.rank;
    out.passing = std::max(out.passing, 6 * dim + attention.passing);
  }
  out.backward = std::max(out.backward, 2 * dim);
  return out;
}

}  // namespace lmxlab::plan
