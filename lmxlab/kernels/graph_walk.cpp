#include "lmxlab/kernels/graph_walk.h"

#include <mlx/allocator.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/primitives.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/rehearsal.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

constexpr size_t kWidth = 20;  // MLX's own, of its breadth-first order

bool waits(const array& a) {
  return a.status() == array::Status::unscheduled;
}

// Joins the outputs, as MLX's own root does.
class Root : public mx::UnaryPrimitive {
 public:
  using UnaryPrimitive::UnaryPrimitive;
  const char* name() const override { return "lmxlab::Root"; }
  void eval_cpu(const Arrays&, array&) override {}
  void eval_gpu(const Arrays&, array&) override {}
};

// How many of the graph's edges lead to each array that waits; siblings count as one.
using Degrees = std::unordered_map<uintptr_t, int>;

Degrees count_edges(const array& root) {
  Degrees degrees;
  std::vector<array> open{root};
  while (!open.empty()) {
    const array a = std::move(open.back());
    open.pop_back();
    for (const auto& in : a.inputs()) {
      if (!waits(in)) continue;
      if (!in.has_primitive())
        throw Error(Kind::internal, "[rehearsal] an array without a value or an op");
      const bool first = degrees.find(in.id()) == degrees.end();
      degrees[in.id()]++;
      for (const auto& s : in.siblings()) degrees[s.id()]++;
      if (first) open.push_back(in);
    }
  }
  return degrees;
}

// What is evaluated last comes first: breadth first from the root, but no wider than kWidth; where
// it would be, what is left of an array waits until the rest is done.
Arrays order(const array& root) {
  auto degrees = count_edges(root);
  Arrays tape{root};
  std::vector<std::pair<array, size_t>> later;
  for (size_t at = 0; !degrees.empty() && (at < tape.size() || !later.empty());) {
    const bool resumed = at >= tape.size();
    const array a = resumed ? later.back().first : tape[at];
    size_t i = resumed ? later.back().second : 0;
    if (resumed)
      later.pop_back();
    else
      at++;
    for (; i < a.inputs().size(); i++) {
      const auto& in = a.inputs()[i];
      if (!waits(in)) continue;
      if (tape.size() - at >= kWidth) {
        later.emplace_back(a, i);
        break;
      }
      const bool last = --degrees[in.id()] == 0;
      for (const auto& s : in.siblings()) {
        if (last)
          degrees.erase(s.id());
        else
          degrees[s.id()]--;
      }
      if (!last) continue;
      degrees.erase(in.id());
      tape.push_back(in);
    }
  }
  return tape;
}

void fresh(array& out) {
  out.set_data(mx::allocator::malloc(out.nbytes()));
}
// In the place of the input where nobody else reads it.
bool given(array& out, const array& in) {
  if (!in.is_donatable() || in.nbytes() != out.nbytes() || !in.flags().row_contiguous) return false;
  out.copy_shared_buffer(in);
  return true;
}

// Normalizations: over the input, or over the copy of one that is not in rows.
void normalize(const Arrays& in, Arrays& out) {
  if (!given(out[0], in[0])) fresh(out[0]);
}
// The gradient of x over x or over that of the output, and a place for the weight's, row by row.
void normalize_vjp(const Arrays& in, Arrays& out) {
  const auto& g = in.back();
  const bool over_x = given(out[0], in[0]);
  const bool over_g = !over_x && given(out[0], g);
  if (!over_x && !over_g) fresh(out[0]);
  array rows(g.shape(), g.dtype(), nullptr, {});
  if (over_g || !given(rows, g)) fresh(rows);
  for (size_t i = 1; i < out.size(); i++) fresh(out[i]);
}
// Elementwise, fused: outputs take the inputs' buffers in turn.
void fused(const Arrays& in, Arrays& out) {
  size_t next = 0;
  for (const auto& x : in) {
    if (next < out.size() && x.size() == out[next].size() && x.ndim() > 0 && given(out[next], x))
      next++;
  }
  for (; next < out.size(); next++) fresh(out[next]);
}
void all_fresh(const Arrays&, Arrays& out) {
  for (auto& o : out) fresh(o);
}

// What has no evaluation on a CPU, or another one.
bool on_gpu(std::string_view name, const Arrays& in, Arrays& out) {
  static const std::unordered_map<std::string_view, std::function<void(const Arrays&, Arrays&)>>
      known{{"RMSNorm", normalize},
            {"LayerNorm", normalize},
            {"RMSNormVJP", normalize_vjp},
            {"LayerNormVJP", normalize_vjp},
            {"RoPE", normalize},
            {"ScaledDotProductAttention", all_fresh},
            {"ScaledDotProductAttentionVJP", all_fresh},
            {"Quantize", all_fresh},
            {"CrossEntropy", all_fresh},
            {"CrossEntropyVJP", all_fresh}};
  if (name.starts_with("Compiled")) return fused(in, out), true;
  const auto at = known.find(name);
  if (at == known.end()) return false;
  at->second(in, out);
  return true;
}

void run(array& a) {
  auto outputs = a.outputs();
  const auto stream = a.primitive().stream();
  {
    Arrays held;  // a tracer's inputs are not given away
    if (a.is_tracer()) held = a.inputs();
    const bool gpu = stream.device == mx::Device::gpu;
    if (!gpu || !on_gpu(a.primitive().name(), a.inputs(), outputs))
      a.primitive().eval_cpu(a.inputs(), outputs);
  }
  mx::cpu::get_command_encoder(stream).temporaries().clear();
  wait_for_stream(stream);
  for (auto& o : outputs) o.set_status(array::Status::available);
  if (!a.is_tracer()) a.detach();
}

}  // namespace

void walk_graph(Arrays outputs) {
  Arrays tape;
  {
    const array root({}, mx::bool_,
                     std::make_shared<Root>(mx::default_stream(mx::default_device())),
                     std::move(outputs));
    tape = order(root);
  }
  while (tape.size() > 1) {
    array a = std::move(tape.back());
    tape.pop_back();
    run(a);
  }
}

}  // namespace lmxlab::kernels
