#include "lmxlab/plan/closed.h"

#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"

#include <algorithm>
#include <cmath>

namespace lmxlab::plan {
namespace {

using config::Attention;
using config::Mlp;
using config::Model;

constexpr int kChunk = 512, kGrowth = 256;

// Widths of what a token's pass through a block makes.
struct Widths {
  int64_t dim = 0, q = 0, kv = 0, hidden = 0;
  int gates = 0;
};
const Mlp* dense_of(const config::Block& b) {
  const auto* both = std::get_if<config::MlpAndMoe>(&b.ffn);
  return both ? &both->mlp : std::get_if<Mlp>(&b.ffn);
}
Widths widths_of(const Model& m, const config::Block& b) {
  Widths w;
  w.dim = m.dim;
  if (const auto* a = config::attention_in(b.mixer))
    w.q = int64_t{a->heads} * a->head_dim, w.kv = int64_t{a->kv_heads} * a->head_dim;
  else  // as if its parameters were matrices into it and out of it
    w.q = config::count_mixer(b.mixer, m.dim) / std::max(1, 2 * m.dim);
  // Of experts what a token meets, and what it becomes before and after them.
  if (const auto* e = config::experts_in(b)) {
    w.gates = e->gated ? 2 : 1;
    w.hidden = e->shared;  // rows of every width are there
    for (const auto& width : e->by_width()) w.hidden += int64_t{e->top_k} * (width.first + m.dim);
  }
  if (const auto* f = dense_of(b)) w.hidden += f->hidden, w.gates = f->gated ? 2 : 1;
  return w;
}

// Numbers of the matrices of a mixer, which packing packs; it leaves biases, norms, convolutions.
int64_t mixer_matrices(const config::Mixer& mixer, int64_t dim, int64_t out) {
  const auto of_attention = [&](const Attention& a) {
    int64_t q = a.heads, k = a.kv_from ? 0 : a.kv_heads;
    int64_t n = dim * (q + k) * a.head_dim + q * a.value_dim() * out;
    if (!a.v_of_k) n += dim * k * a.value_dim();
    return n + (a.gate ? dim * a.gate_width() : 0);
  };
  const auto of_states = [](const config::RecurrentSize& r) {
    constexpr int64_t kLeast = 32;  // rows and columns of a matrix, not of a list of kernels
    int64_t n = 0;
    for (const auto& [rows, columns] : r.parameters)
      if (std::min(rows, columns) >= kLeast) n += rows * columns;
    return n;
  };
  if (const auto* p = std::get_if<config::Parallel>(&mixer))
    return of_attention(p->attention) + of_states(size_of(p->mamba, int(dim)));
  if (const auto* a = std::get_if<Attention>(&mixer)) return of_attention(*a);
  if (const auto r = config::recurrent_size(mixer, int(dim))) return of_states(*r);
  return std::holds_alternative<config::Custom>(mixer) ? 0 : config::count_mixer(mixer, int(dim));
}

// Of a block, of its experts a share.
int64_t block_matrices(const Model& m, const config::Block& b, double share = 1) {
  int64_t n = mixer_matrices(b.mixer, m.dim, m.dim);
  const auto matrices = [](bool gated) { return gated ? 3 : 2; };
  if (const auto* e = config::experts_in(b)) {
    const int64_t width = e->latent > 0 ? e->latent : m.dim;
    n += static_cast<int64_t>(share * double(matrices(e->gated) * width * e->all_hidden()));
    n += int64_t{matrices(e->gated)} * m.dim * e->shared + (e->latent > 0 ? 2 * m.dim * width : 0);
  }
  if (const auto* f = dense_of(b)) n += int64_t{matrices(f->gated)} * m.dim * f->hidden;
  return n;
}
// Of all that is no block.
int64_t other_matrices(const Model& m) {
  int64_t n = m.tie_head || m.score ? 0 : int64_t{m.vocab} * m.dim;
  for (const auto& s : m.shared_blocks)
    n += mixer_matrices(s.attention, 2 * m.dim, m.dim) + int64_t{3} * m.dim * s.mlp.hidden;
  if (const auto& l = m.layer_inputs) n += static_cast<int64_t>(m.layers.size()) * l->width * m.dim;
  return n;
}
int64_t head_matrices(const Model& m) {
  int64_t n = 0;
  for (const auto& b : m.mtp_heads) n += int64_t{2} * m.dim * m.dim + block_matrices(m, b);
  return n;
}
// Of tables of which rows are looked up: the embedding, and what the layers get beside it.
int64_t side_table(const Model& m) {
  if (const auto& l = m.layer_inputs)
    return static_cast<int64_t>(m.layers.size()) * l->width * l->vocab;
  return 0;
}

// Numbers to bytes.
struct Packing {
  int element, bits, group, embedding_bits;
  int64_t operator()(int64_t matrices, int64_t tables, int64_t rest) const {
    const auto packed = [&](int64_t n, int to) {
      return bits == 0 ? n * element : n * to / 8 + n / group * 2 * element;
    };
    return packed(matrices, bits) + packed(tables, embedding_bits ? embedding_bits : bits) +
           rest * element;
  }
};

}  // namespace

int64_t weight_bytes(const Model& m, int element, int bits, int group, int embedding_bits) {
  int64_t matrices = other_matrices(m) + head_matrices(m);
  for (const auto& b : m.layers) matrices += block_matrices(m, b);
  const int64_t tables = int64_t{m.vocab} * m.dim + side_table(m);
  const auto rest = config::count(m).total - matrices - tables;
  return Packing{element, bits, group, embedding_bits}(matrices, tables, rest);
}

int64_t bytes_read(const Model& m, int64_t tokens, int element, int bits, int group,
                   int embedding_bits) {
  const auto count = config::count(m);
  int64_t all = other_matrices(m), met = all;
  for (const auto& b : m.layers) {
    const auto* e = config::experts_in(b);
    all += block_matrices(m, b), met += block_matrices(m, b, e ? e->met(double(tokens)) : 1);
  }
  const int64_t table = int64_t{m.vocab} * m.dim;
  const auto rest = count.total - count.mtp - count.position - all - table - side_table(m);
  const bool head = m.tie_head && !m.score;
  return Packing{element, bits, group, embedding_bits}(met, head ? table : 0, rest);
}

int64_t adapter_parameters(const Model& m, int rank) {
  int64_t n = 0;
  for (const auto& b : m.layers) {
    const auto w = widths_of(m, b);
    n += rank * ((w.dim + w.q) + 2 * (w.dim + w.kv) + (w.q + w.dim));
    n += rank * (w.gates + 1) * (w.dim + w.hidden);
  }
  return n;
}

int64_t optimizer_bytes(const Model& m, const Settings& s) {
  const bool adapters = s.mode == Mode::lora || s.mode == Mode::qlora;
  const int64_t n = adapters ? adapter_parameters(m, s.rank) : config::count(m).total;
  const int64_t average = s.average ? 4 * n : 0;
  if (s.factored) {
    // A row and a column of each matrix: next to nothing beside the matrix.
    int64_t sum = m.vocab + m.dim;
    for (const auto& b : m.layers) {
      const auto w = widths_of(m, b);
      sum += 2 * w.dim + 2 * w.q + 2 * (w.dim + w.kv) + (w.gates + 1) * (w.dim + w.hidden);
    }
    return 4 * sum + average;
  }
  return average + (s.state_bits == 8 ? 2 * (n + n / 256 * 4) : 8 * n);
}

Parts estimate(const Model& m, const Settings& s, int element, int new_tokens, int max_kv) {
  Parts p;
  const int64_t rows = s.batch, tokens = rows * s.context;
  const int compute = s.bf16 ? 2 : 4;
  if (s.mode == Mode::generate) {
    p.weights = weight_bytes(m, element, s.bits.value_or(0), s.group_size, s.embedding_bits);
    p.read = bytes_read(m, s.batch, element, s.bits.value_or(0), s.group_size, s.embedding_bits);
    int64_t positions = int64_t{s.context} + new_tokens;
    if (max_kv > 0) positions = std::min<int64_t>(positions, max_kv);
    positions = (positions + kGrowth - 1) / kGrowth * kGrowth;
    p.kv_cache =
        rows * config::kv_bytes(m, positions, compute, s.kv_bits.value_or(s.bits ? 16 : 0));
    int64_t widest = 0;
    for (const auto& b : m.layers) {
      const auto w = widths_of(m, b);
      widest = std::max(widest, 4 * w.dim + std::max(2 * w.q + 2 * w.kv, (w.gates + 1) * w.hidden));
    }
    p.activations = rows * std::min(s.context, kChunk) * widest * compute + rows * m.vocab * 8;
    return p;
  }
  const bool adapters = s.mode != Mode::train;
  const int64_t base = config::count(m).total;
  const int64_t trained = adapters ? adapter_parameters(m, s.rank) : base;
  p.weights = s.mode == Mode::train  ? 4 * base
              : s.mode == Mode::lora ? element * base + 4 * trained
                                     : weight_bytes(m, element, 4) + 4 * trained;
  p.gradients = 4 * trained;
  p.optimizer = optimizer_bytes(m, s);
  // What backward needs of a block: its input and norms, q, k, v and the mixed values, the hidden
  // values and what they were before the activation; one block's again where it is computed anew.
  int64_t kept = 0, most = 0;
  for (const auto& b : m.layers) {
    const auto w = widths_of(m, b);
    const int64_t block = 4 * w.dim + 2 * w.q + 2 * w.kv + (w.gates + 1) * w.hidden;
    kept += s.checkpointing ? w.dim : block;
    most = std::max(most, block + w.hidden * (w.gates + 1) + 2 * w.dim);
  }
  p.activations = tokens * (kept + most) * compute;
  return p;
}

bool may_fit(const Model& m, const Settings& s, const Budget& budget) {
  const auto parts = estimate(m, s, 2);
  return parts.weights + parts.optimizer <= budget.bytes &&
         parts.peak() <= budget.bytes + budget.bytes / 7;
}

Model llama_like(int width, int depth) {
  config::Llama form;
  form.dim = width, form.depth = depth;
  form.heads = std::max(8, width / 128), form.head_dim = 128, form.kv_heads = 8;
  form.hidden = (width * 7 / 2 + 255) / 256 * 256;
  form.vocab = 128'256, form.context = 8192;
  return config::llama(form);
}

Largest largest_that_fits(const Budget& budget, int bits) {
  Settings s;
  s.context = 4096 - 128;
  if (bits < 16) s.bits = bits;
  s.kv_bits = 16;
  Largest best;
  for (int width = 1024; width <= 32768; width += 1024) {
    // About 80 layers at 8,192, and what lies between this width's depth and the next one's.
    for (int depth = width / 128; depth <= width / 85; depth++) {
      const auto model = llama_like(width, depth);
      const auto parts = estimate(model, s, 2);
      if (parts.peak() > budget.bytes) break;
      const auto count = config::count(model);
      if (count.total < best.parameters) continue;
      best = {count.total, parts.peak(), parts.read + parts.kv_cache / 2};
    }
  }
  return best;
}

}  // namespace lmxlab::plan
