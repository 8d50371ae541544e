#include "lmxlab/kernels/graph_walk.h"

#include <mlx/allocator.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/fast_primitives.h>
#include <mlx/primitives.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/cublas_workspace.h"
#include "lmxlab/kernels/overrides/hooks.h"
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
// The same with its axes in the order in which `like` has them in memory.
void fresh_as(array& out, const array& like) {
  if (like.flags().row_contiguous) return fresh(out);
  std::vector<int> axes(like.ndim());
  std::iota(axes.begin(), axes.end(), 0);
  std::stable_sort(axes.begin(), axes.end(), [&](int i, int j) {
    return std::max<int64_t>(like.strides(i), 1) < std::max<int64_t>(like.strides(j), 1);
  });
  mx::Strides strides(like.ndim());
  int64_t stride = 1;
  for (const int i : axes) strides[size_t(i)] = stride, stride *= out.shape(i);
  out.set_data(mx::allocator::malloc(out.nbytes()), out.size(), strides, {true, false, false});
}
// In the place of the input where nobody else reads it.
bool given(array& out, const array& in) {
  if (!in.is_donatable() || in.nbytes() != out.nbytes() || !in.flags().row_contiguous) return false;
  out.copy_shared_buffer(in);
  return true;
}

using Primitive = mx::Primitive;

// What an op holds beside its output while it runs.
void temporary(Primitive& op, const mx::Shape& shape, mx::Dtype dtype) {
  array part(shape, dtype, nullptr, {});
  fresh(part);
  mx::cpu::get_command_encoder(op.stream()).add_temporary(part);
}

// Normalizations: over the input, or over the copy of one that is not in rows.
void normalize(Primitive&, const Arrays& in, Arrays& out) {
  if (!given(out[0], in[0])) fresh(out[0]);
}
// The gradient of x over x or over that of the output, and a place for the weight's, row by row.
void normalize_vjp(Primitive& op, const Arrays& in, Arrays& out) {
  const auto& g = in.back();
  const bool over_x = given(out[0], in[0]);
  const bool over_g = !over_x && given(out[0], g);
  if (!over_x && !over_g) fresh(out[0]);
  array rows(g.shape(), g.dtype(), nullptr, {});
  if (over_g || !given(rows, g)) temporary(op, g.shape(), g.dtype());
  for (size_t i = 1; i < out.size(); i++) fresh(out[i]);
}
// As the input lies, which may be as a projection wrote it, a position's heads side by side.
void rotate(Primitive& op, const Arrays& in, Arrays& out) {
  const auto& x = in[0];
  const int dims = std::get<1>(static_cast<mx::fast::RoPE&>(op).state());
  if (x.ndim() > 4 && !x.flags().row_contiguous) return fresh(out[0]);
  if (x.is_donatable()) return out[0].copy_shared_buffer(x);
  if (dims < x.shape(-1)) return fresh(out[0]);
  out[0].set_data(mx::allocator::malloc(x.data_size() * x.itemsize()), x.data_size(), x.strides(),
                  x.flags());
}
// Of few queries by a kernel that splits a long text, else by cuDNN.
void attend(Primitive& op, const Arrays& in, Arrays& out) {
  constexpr int kFew = 4, kLong = 1024, kParts = 32;
  const auto &q = in[0], &k = in[1];
  const bool half = q.dtype() != mx::float32;
  if (q.shape(2) >= kFew || (half && q.shape(2) > 1)) {
    fresh_as(out[0], q);
    for (size_t i = 1; i < out.size(); i++) fresh(out[i]);
    return;
  }
  if (!given(out[0], q)) {
    const auto& o = out[0];
    const int64_t heads = o.shape(1), length = o.shape(2), dim = o.shape(3);
    out[0].set_data(mx::allocator::malloc(o.nbytes()), o.size(),
                    {length * heads * dim, dim, heads * dim, 1},
                    {true, length == 1, o.size() == size_t(dim)});
  }
  if (k.shape(2) <= kLong) return;
  auto shape = out[0].shape();
  shape.back() *= kParts;
  for (const int last : {shape.back(), kParts, kParts}) {
    shape.back() = last;
    temporary(op, shape, mx::float32);
  }
}
void attend_vjp(Primitive&, const Arrays& in, Arrays& out) {
  for (size_t i = 0; i < out.size(); i++) fresh_as(out[i], in[i]);
}
// Whether outputs of a fused kernel lie as its inputs do: no holes, and all in the same order.
bool as_they_lie(const Arrays& in, const mx::Shape& shape) {
  int several = 0;
  bool dense = true, rows = true, columns = true;
  for (const auto& x : in) {
    if (x.ndim() == 0) continue;
    const bool same = x.shape() == shape;
    dense &= same && x.flags().contiguous;
    rows &= same && x.flags().row_contiguous;
    columns &= same && x.flags().col_contiguous;
    several++;
  }
  return several > 1 ? rows || columns : several == 1 ? dense : shape.empty();
}
// Elementwise, fused: outputs take the inputs' buffers in turn.
void fused(const Arrays& in, Arrays& out) {
  const bool lie = as_they_lie(in, out[0].shape());
  const array* like = nullptr;
  size_t next = 0;
  for (const auto& x : in) {
    if (next == out.size()) break;
    if (x.ndim() == 0) continue;
    if (lie && !like && x.size() == out[0].size()) like = &x;
    const bool fits = x.itemsize() == out[next].itemsize() && x.size() == out[next].size();
    if (fits && x.is_donatable() && (lie || x.flags().row_contiguous))
      out[next++].copy_shared_buffer(x);
  }
  for (; next < out.size(); next++) {
    auto& o = out[next];
    if (like)
      o.set_data(mx::allocator::malloc(like->data_size() * o.itemsize()), like->data_size(),
                 like->strides(), like->flags());
    else
      fresh(o);
  }
}
void all_fresh(Primitive&, const Arrays&, Arrays& out) {
  for (auto& o : out) fresh(o);
}
// Inputs that are not in rows are copied first: columns of a cache that is not full, say.
void quantize(Primitive& op, const Arrays& in, Arrays& out) {
  const bool unpacks = out.size() == 1;
  for (const auto& x : in) {
    if (!x.flags().row_contiguous && (unpacks || !x.flags().col_contiguous))
      temporary(op, x.shape(), x.dtype());
  }
  for (auto& o : out) fresh(o);
}
// Whether a product can read matrices that follow each other as they lie.
bool matrices(const array& x) {
  if (x.flags().row_contiguous) return true;
  for (int i = 0; i + 3 < int(x.ndim()); i++) {
    if (x.strides(i + 1) * x.shape(i) != x.strides(i)) return false;
  }
  return lies_as_matrix(x);
}
void product(Primitive& op, const Arrays& in, Arrays& out) {
  fresh(out[0]);
  for (size_t i = 0; i < 2 && in[0].size() && in[1].size(); i++) {
    if (!lies_as_matrix(in[i])) temporary(op, in[i].shape(), in[i].dtype());
  }
  const auto asked = cublas_product(in, out[0]);
  if (!asked) return;
  if (asked->by_pointers) temporary(op, {asked->batch * int(in.size() + 1)}, mx::uint64);
  if (const size_t bytes = cublas_workspace(*asked))
    temporary(op, {int((bytes + 255) / 256 * 256)}, mx::uint8);
}
void gather_product(Primitive& op, const Arrays& in, Arrays& out) {
  fresh(out[0]);
  for (size_t i = 0; i < 2; i++) {
    if (!matrices(in[i])) temporary(op, in[i].shape(), in[i].dtype());
  }
}

// What has no evaluation on a CPU, or another one.
bool on_gpu(Primitive& op, const Arrays& in, Arrays& out) {
  using Rule = void (*)(Primitive&, const Arrays&, Arrays&);
  static const std::unordered_map<std::string_view, Rule> known{
      {"RMSNorm", normalize},
      {"LayerNorm", normalize},
      {"RMSNormVJP", normalize_vjp},
      {"LayerNormVJP", normalize_vjp},
      {"RoPE", rotate},
      {"ScaledDotProductAttention", attend},
      {"ScaledDotProductAttentionVJP", attend_vjp},
      {"Quantize", quantize},
      {"Matmul", product},
      {"AddMM", product},
      {"GatherMM", gather_product},
      {"CrossEntropy", all_fresh},
      {"CrossEntropyVJP", all_fresh}};
  const std::string_view name = op.name();
  if (name.starts_with("Compiled")) return fused(in, out), true;
  const auto at = known.find(name);
  if (at == known.end()) return false;
  at->second(op, in, out);
  return true;
}

// Outputs that lie in a buffer of the inputs, views left out: where the queue runs ahead it still
// holds the inputs for ops before, and these get buffers of their own.
size_t taken_over(const array& a, const Arrays& outputs) {
  static const std::unordered_set<std::string_view> views{
      "AsStrided",        "Broadcast", "BroadcastAxes", "Copy",
      "CustomTransforms", "Depends",   "ExpandDims",    "Flatten",
      "Reshape",          "Slice",     "Split",         "Squeeze",
      "StopGradient",     "Transpose", "Unflatten",     "View"};
  size_t bytes = 0;
  if (views.count(a.primitive().name())) return bytes;
  for (const auto& o : outputs) {
    for (const auto& in : a.inputs()) {
      if (in.data_shared_ptr() != o.data_shared_ptr()) continue;
      bytes += o.nbytes();
      break;
    }
  }
  return bytes;
}

void run(array& a) {
  auto outputs = a.outputs();
  const auto stream = a.primitive().stream();
  detail::begin_op();
  {
    Arrays held;  // a tracer's inputs are not given away
    if (a.is_tracer()) held = a.inputs();
    const bool gpu = stream.device == mx::Device::gpu;
    if (!gpu || !on_gpu(a.primitive(), a.inputs(), outputs))
      a.primitive().eval_cpu(a.inputs(), outputs);
  }
  detail::end_op(taken_over(a, outputs));
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
