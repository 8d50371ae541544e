#include "lmxlab/plan/closed.h"

#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/plan/activations.h"
#include "lmxlab/plan/layers.h"

#include <algorithm>
#include <cmath>

namespace lmxlab::plan {
namespace {

using config::Model;

constexpr int kChunk = 512,
              kGrowth = 256;  // positions: of a piece of a prompt, that a cache grows by

int64_t head_matrices(const Model& m) {
  int64_t n = 0;
  for (const auto& b : m.mtp_heads) n += int64_t{2} * m.dim * m.dim + numbers_of(layers_of(m, b));
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
  int64_t matrices = numbers_of(other_layers(m)) + head_matrices(m);
  for (const auto& b : m.layers) matrices += numbers_of(layers_of(m, b));
  const int64_t tables = int64_t{m.vocab} * m.dim + side_table(m);
  const auto rest = config::count(m).total - matrices - tables;
  return Packing{element, bits, group, embedding_bits}(matrices, tables, rest);
}

int64_t bytes_read(const Model& m, int64_t tokens, int element, int bits, int group,
                   int embedding_bits) {
  const auto count = config::count(m);
  int64_t all = numbers_of(other_layers(m)), met = all;
  for (const auto& b : m.layers) {
    const auto* e = config::experts_in(b);
    const auto layers = layers_of(m, b);
    all += numbers_of(layers), met += numbers_of(layers, e ? e->met(double(tokens)) : 1);
  }
  const int64_t table = int64_t{m.vocab} * m.dim;
  const auto rest = count.total - count.mtp - count.position - all - table - side_table(m);
  const bool head = m.tie_head && !m.score;
  return Packing{element, bits, group, embedding_bits}(met, head ? table : 0, rest);
}

int64_t adapter_parameters(const Model& m, int rank) {
  int64_t n = 0;
  for (const auto& b : m.layers)
    for (const auto& l : layers_of(m, b))
      if (l.experts == 0) n += rank * (l.in + l.out);
  return n;
}

int64_t optimizer_bytes(const Model& m, const Settings& s) {
  const bool adapters = s.mode == Mode::lora || s.mode == Mode::qlora;
  const int64_t n = adapters ? adapter_parameters(m, s.rank) : config::count(m).total;
  const int64_t average = s.average ? 4 * n : 0;
  if (s.factored) {
    // A row and a column of each matrix: next to nothing beside the matrix.
    int64_t sum = m.vocab + m.dim;
    for (const auto& b : m.layers)
      for (const auto& l : layers_of(m, b)) sum += std::max<int64_t>(1, l.experts) * (l.in + l.out);
    return 4 * sum + average;
  }
  return average + (s.state_bits == 8 ? 2 * (n + n / 256 * 4) : 8 * n);
}

namespace {

// Of a prompt that is read a piece at a time, and of steps that follow: two of those are in flight
// together, what is small stays until both are done, and half as much again is listed nowhere.
double generation_bytes(const Model& m, const Settings& s, double element, bool fused) {
  constexpr double kSteps = 3, kStates = 5, kLogits = 8;  // times that each is there
  constexpr double kSmall = 64 << 10, kAlways = 150'000;  // bytes
  const double piece = std::min(s.context, kChunk);
  double passing = 0, cut = 0, step = kLogits * 4 * m.vocab, states = 0;
  for (const auto& b : m.layers) {
    const auto made = made_by(m, b, element, fused);
    const double scores = made.scores * s.context;
    passing = std::max({passing, made.passing, 4 * element * m.dim + 2 * scores});
    cut += made.cut, step += kSteps * (made.kept + scores);
    states += (s.batch * made.state < kSmall ? kStates : 2) * made.state;
  }
  return s.batch * (std::max(piece * passing, step) + piece * cut + states) + kAlways;
}

// What backward needs of all blocks, or of those that are computed again their inputs and one
// block's; beside it the loss, or what gradients make on their way through a block.
double training_bytes(const Model& m, const Settings& s, double element, bool fused) {
  constexpr double kTile = 2 << 20;  // numbers of the logits that are there together, fused
  constexpr double kRows = 256;      // whose logits are there together, of a packed head
  const double tokens = double(s.batch) * s.context, logits = 4 * tokens * m.vocab;
  const bool adapters = s.adapts();
  double kept = 0, most = 0, backward = 0, unpacked = 0;
  for (const auto& b : m.layers) {
    const auto made = made_by(m, b, element, fused);
    double all = made.kept + made.scores * s.context;
    for (const auto& l : layers_of(m, b)) {
      if (adapters && l.experts == 0) all += element * s.rank;
      if (s.mode == Mode::qlora) unpacked = std::max(unpacked, 2 * 4.0 * double(l.in * l.out));
    }
    kept += s.checkpointing ? element * m.dim : all;
    if (s.checkpointing) most = std::max(most, all);
    // A block that is computed again has results of its own beside those that it keeps.
    const double anew = s.checkpointing ? std::max(made.kept / 2, 0.6 * made.passing) : 0;
    backward = std::max(backward, std::max(made.backward, anew) + 2 * made.scores * s.context);
  }
  const double loss = s.mode == Mode::qlora ? 8 * std::min(tokens, kRows) * m.vocab
                      : fused               ? std::min(logits, 4 * kTile)
                                            : 2 * logits;
  return tokens * kept +
         std::max(loss + 4 * tokens * element * m.dim, tokens * (most + backward) + unpacked);
}

// Panels that a product of many rows copies its matrices to.
int64_t workspace_of(const Model& m, const Settings& s) {
  constexpr int64_t kLeast = 150'000, kMost = 4 << 20;
  int64_t most = 0;
  for (const auto& b : m.layers)
    for (const auto& l : layers_of(m, b))
      most = std::max(most, int64_t{s.batch} * s.context * std::max(l.in, l.out) + l.in * l.out);
  return std::min(kMost, kLeast + 4 * most);
}

}  // namespace

Parts estimate(const Model& m, const Settings& s, int element, const EstimateOptions& o) {
  Parts p;
  const double compute = s.bf16 ? 2 : 4;
  if (s.mode == Mode::generate) {
    p.weights = weight_bytes(m, element, s.bits.value_or(0), s.group_size, s.embedding_bits);
    p.read = bytes_read(m, s.batch, element, s.bits.value_or(0), s.group_size, s.embedding_bits);
    int64_t positions = int64_t{s.context} + o.new_tokens;
    if (o.max_kv > 0) positions = std::min<int64_t>(positions, o.max_kv);
    positions = (positions + kGrowth - 1) / kGrowth * kGrowth;
    p.kv_cache = s.batch * config::kv_bytes(m, positions, int64_t(compute),
                                            s.kv_bits.value_or(s.bits ? 16 : 0));
    p.activations = static_cast<int64_t>(generation_bytes(m, s, compute, o.fused));
    return p;
  }
  const bool adapters = s.adapts();
  const int64_t base = config::count(m).total;
  const int64_t trained = adapters ? adapter_parameters(m, s.rank) : base;
  p.weights = s.mode == Mode::train  ? 4 * base
              : s.mode == Mode::lora ? element * base + 4 * trained
                                     : weight_bytes(m, element, 4) + 4 * trained;
  p.gradients = 4 * trained;
  p.optimizer = optimizer_bytes(m, s);
  p.workspace = workspace_of(m, s);
  // Where backward begins the head's gradient alone is there, where it ends all are: of a tied head
  // two, before they are added.
  const int64_t head = adapters ? 0 : int64_t{4} * m.vocab * m.dim;
  const auto begins = static_cast<int64_t>(training_bytes(m, s, compute, o.fused)) + head;
  const auto ends = (m.tie_head ? head : 0) + int64_t{4} * s.batch * s.context * m.dim;
  p.activations = std::max(begins - p.gradients, ends);
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
