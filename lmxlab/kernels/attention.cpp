#include "lmxlab/kernels/attention.h"

#include <mlx/fast.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lmxlab/kernels/attention_parts.h"
#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/one_order.h"
#include "lmxlab/kernels/op.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

struct Settings {
  float scale, softcap;
  bool causal;
  int window;

  bool operator==(const Settings&) const = default;
};

// bool, [L, S] or [B, 1, L, S]; none where every query sees every key.
std::optional<array> seen_keys(const Settings& s, int queries, int keys,
                               const std::optional<array>& padding) {
  std::optional<array> seen;
  const auto key = mx::arange(0, keys, mx::int32);
  const auto and_also = [&](const array& more) {
    seen = seen ? mx::logical_and(*seen, more) : more;
  };
  if (s.causal) {
    const auto own = mx::expand_dims(mx::arange(keys - queries, keys, mx::int32), 1);
    and_also(mx::less_equal(key, own));
    if (s.window > 0) and_also(mx::greater(key, mx::subtract(own, array(s.window))));
  }
  if (padding) {
    const int each = padding->ndim() == 2 ? queries : 1;
    const auto first = mx::reshape(*padding, {-1, 1, each, 1});
    and_also(
        mx::broadcast_to(mx::greater_equal(key, first), {padding->shape(0), 1, queries, keys}));
  }
  return seen;
}

// The output and the log-sum-exp of the scores, in ordinary ops and in float32. in: q, k, v and, if
// there is, the padding.
Arrays plain_attention(const Arrays& in, const Settings& s) {
  const auto& q = in[0];
  const int batch = q.shape(0), heads = q.shape(1), queries = q.shape(2), width = q.shape(3);
  const int groups = in[1].shape(1), keys = in[1].shape(2), value = in[2].shape(3);
  const auto f32 = [](const array& a) { return mx::astype(a, mx::float32); };
  if (keys == 0) {
    return {mx::zeros({batch, heads, queries, value}, q.dtype()),
            mx::full({batch, heads, queries}, array(-std::numeric_limits<float>::infinity()))};
  }
  const auto grouped = mx::reshape(f32(q), {batch, groups, heads / groups, queries, width});
  const auto k = mx::expand_dims(f32(in[1]), 2), v = mx::expand_dims(f32(in[2]), 2);
  auto scores = mx::multiply(mx::matmul(grouped, mx::swapaxes(k, -1, -2)), array(s.scale));
  scores = mx::reshape(scores, {batch, heads, queries, keys});
  if (s.softcap > 0) {
    const array cap(s.softcap);
    scores = mx::multiply(mx::tanh(mx::divide(scores, cap)), cap);
  }
  const auto seen =
      seen_keys(s, queries, keys, in.size() > 3 ? std::optional(in[3]) : std::nullopt);
  if (seen) scores = mx::where(*seen, scores, array(std::numeric_limits<float>::lowest()));
  auto weights = mx::softmax(scores, -1, true);
  auto lse = mx::logsumexp(scores, -1);
  if (seen) {
    const auto anything = mx::any(*seen, -1, true);
    weights = mx::where(anything, weights, array(0.0f));
    lse = mx::where(mx::squeeze(anything, -1), lse, array(-std::numeric_limits<float>::infinity()));
  }
  weights = mx::reshape(weights, {batch, groups, heads / groups, queries, keys});
  const auto out = mx::reshape(mx::matmul(weights, v), {batch, heads, queries, value});
  return {mx::astype(out, q.dtype()), lse};
}

// Other devices: MLX's fused form where it has one.
array fast_attention(const array& q, const array& k, const array& v, const Settings& s,
                     const std::optional<array>& padding) {
  if (s.softcap > 0 || k.shape(2) == 0) {
    Arrays in{q, k, v};
    if (padding) in.push_back(*padding);
    return plain_attention(in, s)[0];
  }
  if (!padding && s.window == 0) {
    return mx::fast::scaled_dot_product_attention(q, k, v, s.scale, s.causal ? "causal" : "");
  }
  // A row of false is not defined there: such a query sees key 0, and its output is dropped.
  const auto seen = *seen_keys(s, q.shape(2), k.shape(2), padding);
  const auto anything = mx::any(seen, -1, true);
  const auto mask = mx::logical_or(
      seen, mx::logical_and(mx::logical_not(anything),
                            mx::equal(mx::arange(0, k.shape(2), mx::int32), array(0))));
  const auto out = mx::fast::scaled_dot_product_attention(q, k, v, s.scale, "array", mask);
  return mx::where(anything, out, array(0.0f, out.dtype()));
}

// An input [B, H, L, D]: its own memory where the elements of a head are adjacent, or a copy.
class Heads {
 public:
  explicit Heads(const array& x) : data_(const_cast<char*>(x.data<char>())) {
    const auto& strides = x.strides();
    view_ = {data_, strides[0], strides[1], strides[2]};
    if (strides[3] != 1 && x.shape(3) != 1) {
      const int64_t length = x.shape(2), width = x.shape(3);
      copy_.emplace(Dense(x));
      view_ = {nullptr, x.shape(1) * length * width, length * width, width};
    }
  }
  /// Once, in the task.
  HeadView read() const {
    HeadView view = view_;
    if (copy_) view.data = static_cast<char*>(const_cast<void*>(copy_->read()));
    return view;
  }

 private:
  char* data_;
  HeadView view_;
  std::optional<Dense> copy_;
};

// An output [B, H, L, D] that lies in memory as [B, L, H, D]: an input's own, where it lies so and
// nobody else will read it.
HeadView give_heads(array& out, const array* in = nullptr) {
  const int64_t heads = out.shape(1), length = out.shape(2), width = out.shape(3);
  const mx::Strides strides{length * heads * width, width, heads * width, 1};
  array::Flags flags{};
  flags.contiguous = true;
  flags.row_contiguous = heads <= 1 || length <= 1 || out.size() == 0;
  flags.col_contiguous = out.size() <= 1;
  if (in && in->is_donatable() && in->strides() == strides && in->data_size() == out.size()) {
    out.copy_shared_buffer(*in);
  } else {
    out.set_data(mx::allocator::malloc(out.nbytes()), out.size(), strides, flags);
  }
  return {out.data<char>(), strides[0], strides[1], strides[2]};
}

// k: [B, K, S, anything].
AttentionShape shape_of(const Settings& s, const array& q, const array& k, int value,
                        const array* padding) {
  return {q.shape(0),
          q.shape(1),
          k.shape(1),
          q.shape(2),
          k.shape(2),
          q.shape(3),
          value,
          type_of(q.dtype()),
          s.scale,
          s.softcap,
          s.causal,
          s.window,
          padding ? padding->data<int32_t>() : nullptr,
          padding && padding->ndim() == 2};
}

class AttentionOp : public Op {
 public:
  explicit AttentionOp(const Settings& settings) : settings_(settings) {}
  bool same(const Op& other) const override {
    return settings_ == static_cast<const AttentionOp&>(other).settings_;
  }

 protected:
  AttentionShape shape(const Arrays& in, const array* padding) const {
    return shape_of(settings_, in[0], in[1], in[2].shape(3), padding);
  }

  Settings settings_;
};

// q, k, v, output, log-sum-exp, cotangent of the output[, padding] -> dq, dk, dv
class AttentionGrad : public AttentionOp {
 public:
  using AttentionOp::AttentionOp;
  const char* name() const override { return "lmxlab::AttentionGrad"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {in[0].shape(), in[1].shape(), in[2].shape()};
  }
  // Of q, k, v and the cotangent: the output is a function of those.
  Arrays plain(const Arrays& in) const override {
    const auto f = [&](const Arrays& qkv) -> Arrays {
      Arrays all = qkv;
      if (in.size() > 6) all.push_back(in[6]);
      return {plain_attention(all, settings_)[0]};
    };
    return mx::vjp(f, {in[0], in[1], in[2]}, {in[5]}).second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    const auto s = shape(in, in.size() > 6 ? &in[6] : nullptr);
    release_inputs(in, out);
    AttentionGradViews views{};
    views.dq = give_heads(out[0], &in[0]);
    views.dk = give_heads(out[1], &in[1]);
    views.dv = give_heads(out[2], &in[2]);
    views.lse = in[4].data<float>();
    if (s.batch == 0 || s.heads == 0 || s.queries == 0 || s.keys == 0) {
      for (auto& o : out) std::fill_n(o.data<char>(), o.nbytes(), char{0});
      return;
    }
    const auto plan = plan_backward(s);
    const Scratch<char> memory(plan.bytes);
    task([=, q = Heads(in[0]), k = Heads(in[1]), v = Heads(in[2]), o = Heads(in[3]),
          g = Heads(in[5])]() mutable {
      views.q = q.read();
      views.k = k.read();
      views.v = v.read();
      views.out = o.read();
      views.cotangent = g.read();
      attention_backward(s, plan, views, memory.get());
    });
  }
};

// q, k, v[, padding] -> output, log-sum-exp, which only the gradient reads
class Attention : public AttentionOp {
 public:
  using AttentionOp::AttentionOp;
  const char* name() const override { return "lmxlab::Attention"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    const auto& q = in[0];
    return {{q.shape(0), q.shape(1), q.shape(2), in[2].shape(3)},
            {q.shape(0), q.shape(1), q.shape(2)}};
  }
  Arrays plain(const Arrays& in) const override { return plain_attention(in, settings_); }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    const auto s = shape(in, in.size() > 3 ? &in[3] : nullptr);
    const HeadView to = give_heads(out[0]);
    give(out[1]);
    if (s.batch == 0 || s.heads == 0 || s.queries == 0) return;
    const bool few = is_decode(s), ordered = one_order();
    const auto plan = ordered ? plan_one_order(s) : few ? plan_decode(s) : plan_forward(s);
    const Scratch<char> memory(plan.bytes);
    task([=, of_k = type_of(in[1].dtype()), q = Heads(in[0]), k = Heads(in[1]), v = Heads(in[2]),
          lse = out[1].data<float>()] {
      if (ordered) {
        attention_one_order(s, plan, q.read(), {k.read(), of_k}, {v.read(), of_k}, to, lse,
                            memory.get());
      } else if (few) {
        attention_decode(s, plan, q.read(), {k.read(), of_k}, {v.read(), of_k}, to, lse,
                         memory.get());
      } else {
        attention_forward(s, plan, q.read(), k.read(), v.read(), to, lse, memory.get());
      }
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    Arrays in{primals[0], primals[1], primals[2], outputs[0], outputs[1], cotangents[0]};
    if (primals.size() > 3) in.push_back(primals[3]);
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    for (int i = 0; i < 3; i++) {
      shapes.push_back(primals[i].shape());
      dtypes.push_back(primals[i].dtype());
    }
    auto all = array::make_arrays(shapes, dtypes, std::make_shared<AttentionGrad>(settings_), in);
    if (primals.size() > 3) all.push_back(mx::zeros_like(primals[3]));
    Arrays asked;
    for (const int i : argnums) asked.push_back(all[i]);
    return asked;
  }
};

// What an op keeps of quantized keys; their three arrays are inputs.
struct Packing {
  int group, bits;

  bool operator==(const Packing&) const = default;
};

int width_of(const array& packed, int bits) {
  return static_cast<int>(int64_t{packed.shape(3)} * 32 / bits);
}

array numbers(const array& packed, const array& scales, const array& biases, Packing packing) {
  if (packed.size() == 0) {  // which mx::dequantize refuses
    auto shape = packed.shape();
    shape[3] = width_of(packed, packing.bits);
    return mx::zeros(shape);
  }
  const auto f32 = [](const array& a) { return mx::astype(a, mx::float32); };
  return mx::dequantize(packed, f32(scales), f32(biases), packing.group, packing.bits);
}

// As they lie in memory.
class Packed {
 public:
  Packed(const Arrays& in, size_t first, Packing packing)
      : packed_(in[first]),
        scales_(in[first + 1]),
        biases_(in[first + 2]),
        packing_(packing),
        type_(type_of(in[first + 1].dtype())) {}
  /// Once, in the task.
  CacheView read() const {
    return {packed_.read(), type_, packing_.bits, packing_.group, scales_.read(), biases_.read()};
  }

 private:
  Heads packed_, scales_, biases_;
  Packing packing_;
  Type type_;
};

// q, three arrays of k, three of v[, padding] -> output
class QuantizedAttention : public Op {
 public:
  QuantizedAttention(const Settings& settings, Packing k, Packing v)
      : settings_(settings), k_(k), v_(v) {}
  const char* name() const override { return "lmxlab::QuantizedAttention"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const QuantizedAttention&>(other);
    return settings_ == op.settings_ && k_ == op.k_ && v_ == op.v_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    const auto& q = in[0];
    return {{q.shape(0), q.shape(1), q.shape(2), width_of(in[4], v_.bits)}};
  }
  Arrays plain(const Arrays& in) const override {
    Arrays all{in[0], numbers(in[1], in[2], in[3], k_), numbers(in[4], in[5], in[6], v_)};
    if (in.size() > 7) all.push_back(in[7]);
    return {plain_attention(all, settings_)[0]};
  }

  AttentionShape shape(const Arrays& in) const {
    return shape_of(settings_, in[0], in[1], width_of(in[4], v_.bits),
                    in.size() > 7 ? &in[7] : nullptr);
  }
  void eval_cpu(const Arrays& in, Arrays& out) override {
    const auto s = shape(in);
    const HeadView to = give_heads(out[0]);
    if (s.batch == 0 || s.heads == 0 || s.queries == 0) return;
    const auto plan = plan_decode(s);
    const Scratch<char> memory(plan.bytes);
    task([=, q = Heads(in[0]), k = Packed(in, 1, k_), v = Packed(in, 4, v_)] {
      attention_decode(s, plan, q.read(), k.read(), v.read(), to, nullptr, memory.get());
    });
  }

 private:
  Settings settings_;
  Packing k_, v_;
};

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Kind::usage, "[attention] " + what);
}

std::string of_shape(const array& a) {
  std::string text = "[";
  for (const auto n : a.shape()) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + "]";
}

// `width`: of the keys.
void check(const array& q, const array& k, int width, const array& v, const AttentionMask& mask) {
  const bool fits = q.ndim() == 4 && k.ndim() == 4 && v.ndim() == 4 && k.shape(0) == q.shape(0) &&
                    v.shape(0) == q.shape(0) && v.shape(1) == k.shape(1) &&
                    v.shape(2) == k.shape(2) && width == q.shape(3);
  if (!fits) {
    refuse(
        "the shapes do not fit: expected q [B, H, L, Dh], k [B, K, S, Dh], v [B, K, S, Dv], got " +
        of_shape(q) + ", " + of_shape(k) + ", " + of_shape(v) + ".");
  }
  if (k.shape(1) == 0 || q.shape(1) % k.shape(1) != 0) {
    refuse("the heads must be a multiple of the key/value heads: got " +
           std::to_string(q.shape(1)) + " and " + std::to_string(k.shape(1)) + ".");
  }
  if (mask.causal && q.shape(2) > k.shape(2)) {
    refuse("a causal mask needs a key for every query: expected at least " +
           std::to_string(q.shape(2)) + " keys, got " + std::to_string(k.shape(2)) + ".");
  }
  if (mask.window < 0 || (mask.window > 0 && !mask.causal)) {
    refuse("a window must be positive and causal: got " + std::to_string(mask.window) +
           (mask.causal ? "." : ", not causal."));
  }
  const mx::Shape rows{q.shape(0)}, each{q.shape(0), q.shape(2)};
  if (mask.padding && ((mask.padding->shape() != rows && mask.padding->shape() != each) ||
                       mask.padding->dtype() != mx::int32)) {
    refuse("the padding must be int32 [" + std::to_string(rows[0]) + "] or [" +
           std::to_string(rows[0]) + ", " + std::to_string(each[1]) + "], got " +
           of_shape(*mask.padding) + ".");
  }
}

void check(const QuantizedKeys& x, const char* what) {
  const auto& p = x.packed;
  const bool known = (x.group == 32 || x.group == 64 || x.group == 128) && x.bits >= 2 &&
                     x.bits <= 8 && x.bits != 7;
  const bool shape = known && p.ndim() == 4 && x.scales.ndim() == 4 &&
                     x.scales.shape() == x.biases.shape() &&
                     std::equal(p.shape().begin(), p.shape().end() - 1, x.scales.shape().begin()) &&
                     int64_t{x.scales.shape(3)} * x.group == width_of(p, x.bits);
  const bool dtype =
      p.dtype() == mx::uint32 && has_type(x.scales.dtype()) && x.biases.dtype() == x.scales.dtype();
  if (!shape || !dtype) {
    refuse(std::string("the parts of ") + what +
           " do not fit: expected what mx::quantize gives for " + std::to_string(x.bits) +
           " bits in groups of " + std::to_string(x.group) + ", got " + of_shape(p) + ", " +
           of_shape(x.scales) + ", " + of_shape(x.biases) + ".");
  }
}

}  // namespace

array attention(const array& q, const array& k, const array& v, float scale,
                const AttentionMask& mask) {
  check(q, k, k.ndim() == 4 ? k.shape(3) : 0, v, mask);
  const Settings settings{scale, mask.softcap, mask.causal, mask.window};
  const auto dtype = mx::result_type(q, k, v);
  if (!fused(dtype)) return fast_attention(q, k, v, settings, mask.padding);
  // Of few queries keys and values are read as they are: a cache may keep them in float16.
  const bool kept = k.dtype() == mx::float16 && v.dtype() == mx::float16 && !q.is_tracer() &&
                    !k.is_tracer() && !v.is_tracer() &&
                    is_decode(shape_of(settings, q, k, v.shape(3), nullptr));
  Arrays in{mx::astype(q, dtype)};
  for (const auto* a : {&k, &v}) in.push_back(kept ? *a : mx::astype(*a, dtype));
  if (mask.padding) in.push_back(dense(*mask.padding));
  return array::make_arrays(
      {{q.shape(0), q.shape(1), q.shape(2), v.shape(3)}, {q.shape(0), q.shape(1), q.shape(2)}},
      {dtype, mx::float32}, std::make_shared<Attention>(settings), in)[0];
}

array quantized_attention(const array& q, const QuantizedKeys& k, const QuantizedKeys& v,
                          float scale, const AttentionMask& mask) {
  check(k, "k");
  check(v, "v");
  check(q, k.packed, width_of(k.packed, k.bits), v.packed, mask);
  const Settings settings{scale, mask.softcap, mask.causal, mask.window};
  const auto in_place = [](const QuantizedKeys& x) { return x.bits == 8 || x.bits == 4; };
  if (fused(q.dtype()) && in_place(k) && in_place(v)) {
    const auto op = std::make_shared<QuantizedAttention>(settings, Packing{k.group, k.bits},
                                                         Packing{v.group, v.bits});
    Arrays in{q, k.packed, k.scales, k.biases, v.packed, v.scales, v.biases};
    if (is_decode(op->shape(in), true)) {
      if (mask.padding) in.push_back(dense(*mask.padding));
      return array(op->output_shapes(in)[0], q.dtype(), op, in);
    }
  }
  const auto of = [&](const QuantizedKeys& x) {
    return mx::astype(numbers(x.packed, x.scales, x.biases, {x.group, x.bits}), q.dtype());
  };
  return attention(q, of(k), of(v), scale, mask);
}

}  // namespace lmxlab::kernels
