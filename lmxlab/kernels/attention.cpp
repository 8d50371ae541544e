#include "lmxlab/kernels/attention.h"

#include <mlx/fast.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/attention.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#ifndef LMXLAB_KERNELS_ATTENTION_SHAPE
#define LMXLAB_KERNELS_ATTENTION_SHAPE
namespace lmxlab::kernels {
struct SoftmaxShape {
  int64_t queries, keys;  // queries counts only where causal
  float scale;
  bool causal;

  int64_t visible(int64_t row) const { return causal ? keys - queries + row % queries + 1 : keys; }
};
}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Highway's Exp answers 0 for NaN: a weight that is not a number must stay seen.
HWY_INLINE V exp_keeping_nan(D d, V x) {
  return hn::IfThenElse(hn::Eq(x, x), hn::Exp(d, x), x);
}

// x and y may be the same.
void softmax_rows(const float* x, float* y, int64_t first, int64_t last, SoftmaxShape s) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V scale = hn::Set(d, s.scale);
  for (int64_t r = first; r < last; r++) {
    const float* const in = x + r * s.keys;
    float* const out = y + r * s.keys;
    const int64_t n = s.visible(r);
    V largest = hn::Set(d, -std::numeric_limits<float>::infinity());
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      largest = hn::Max(largest, hn::Mul(hn::LoadU(d, in + i), scale));
    }
    float top = hn::GetLane(hn::MaxOfLanes(d, largest));
    for (; i < n; i++) {
      top = std::max(top, in[i] * s.scale);
    }
    const V shift = hn::Set(d, top);
    V sums = hn::Zero(d);
    for (i = 0; i + lanes <= n; i += lanes) {
      const V e = exp_keeping_nan(d, hn::MulSub(hn::LoadU(d, in + i), scale, shift));
      sums = hn::Add(sums, e);
      hn::StoreU(e, d, out + i);
    }
    float total = hn::GetLane(hn::SumOfLanes(d, sums));
    for (; i < n; i++) {
      const V e = exp_keeping_nan(d, hn::MulSub(hn::Set(d, in[i]), scale, shift));
      out[i] = hn::GetLane(e);
      total += out[i];
    }
    const float inverse = 1 / total;
    const V factor = hn::Set(d, inverse);
    for (i = 0; i + lanes <= n; i += lanes) {
      hn::StoreU(hn::Mul(hn::LoadU(d, out + i), factor), d, out + i);
    }
    for (; i < n; i++) {
      out[i] *= inverse;
    }
    std::fill(out + n, out + s.keys, 0.0f);
  }
}

// dx = scale p (g - <g, p>); g and dx may be the same.
void softmax_rows_grad(const float* p, const float* g, float* dx, int64_t first, int64_t last,
                       SoftmaxShape s) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = first; r < last; r++) {
    const float* const weight = p + r * s.keys;
    const float* const grad = g + r * s.keys;
    float* const out = dx + r * s.keys;
    const int64_t n = s.visible(r);
    V sums = hn::Zero(d);
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      sums = hn::MulAdd(hn::LoadU(d, weight + i), hn::LoadU(d, grad + i), sums);
    }
    float dot = hn::GetLane(hn::SumOfLanes(d, sums));
    for (; i < n; i++) {
      dot += weight[i] * grad[i];
    }
    const V mean = hn::Set(d, dot), scale = hn::Set(d, s.scale);
    for (i = 0; i + lanes <= n; i += lanes) {
      const V difference = hn::Sub(hn::LoadU(d, grad + i), mean);
      hn::StoreU(hn::Mul(hn::Mul(scale, hn::LoadU(d, weight + i)), difference), d, out + i);
    }
    for (; i < n; i++) {
      out[i] = s.scale * weight[i] * (grad[i] - dot);
    }
    std::fill(out + n, out + s.keys, 0.0f);
  }
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(softmax_rows);
HWY_EXPORT(softmax_rows_grad);

array plain_softmax(const array& x, float scale, bool causal) {
  auto scores = mx::multiply(x, array(scale, x.dtype()));
  if (causal) {
    const int queries = x.shape(-2), keys = x.shape(-1);
    const auto last = mx::expand_dims(mx::arange(keys - queries, keys, mx::int32), 1);
    const auto seen = mx::less_equal(mx::arange(0, keys, mx::int32), last);
    const auto hidden = array(-std::numeric_limits<float>::infinity(), x.dtype());
    scores = mx::where(seen, scores, hidden);
  }
  return mx::softmax(scores, -1, true);
}

int64_t grain(int64_t keys) {
  return std::max<int64_t>(1, 4096 / std::max<int64_t>(1, keys));
}

class SoftmaxOp : public Op {
 public:
  SoftmaxOp(float scale, bool causal) : scale_(scale), causal_(causal) {}
  bool same(const Op& other) const override {
    const auto& op = static_cast<const SoftmaxOp&>(other);
    return scale_ == op.scale_ && causal_ == op.causal_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }

 protected:
  SoftmaxShape shape(const array& x) const {
    return {x.ndim() > 1 ? x.shape(-2) : 1, x.shape(-1), scale_, causal_};
  }
  static int64_t rows(const array& x) {
    return x.size() == 0 ? 0 : static_cast<int64_t>(x.size()) / x.shape(-1);
  }

  float scale_;
  bool causal_;
};

class SoftmaxGrad : public SoftmaxOp {  // the weights, cotangent -> dx
 public:
  using SoftmaxOp::SoftmaxOp;
  const char* name() const override { return "lmxlab::SoftmaxGrad"; }

  Arrays plain(const Arrays& in) const override {
    const auto& p = in[0];
    const auto difference = in[1] - mx::sum(mx::multiply(in[1], p), -1, true);
    return {mx::multiply(mx::multiply(p, array(scale_, p.dtype())), difference)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0], in[1]);
    task([p = in[0].data<float>(), g = in[1].data<float>(), dx = out[0].data<float>(),
          n = rows(in[0]), s = shape(in[0])] {
      parallel_for(n, grain(s.keys), [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(softmax_rows_grad)(p, g, dx, first, last, s);
      });
    });
  }
};

class Softmax : public SoftmaxOp {
 public:
  using SoftmaxOp::SoftmaxOp;
  const char* name() const override { return "lmxlab::Softmax"; }
  Arrays plain(const Arrays& in) const override { return {plain_softmax(in[0], scale_, causal_)}; }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0], in[0]);
    task([x = in[0].data<float>(), y = out[0].data<float>(), n = rows(in[0]), s = shape(in[0])] {
      parallel_for(n, grain(s.keys), [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(softmax_rows)(x, y, first, last, s);
      });
    });
  }

  Arrays vjp(const Arrays&, const Arrays& cotangents, const std::vector<int>&,
             const Arrays& outputs) override {
    return {output_like(outputs[0], std::make_shared<SoftmaxGrad>(scale_, causal_),
                        {outputs[0], dense(cotangents[0])})};
  }
};

void check_causal(int queries, int keys) {
  if (queries > keys) {
    throw Error(Kind::usage,
                "[attention] a causal mask needs a key for every query: expected at least " +
                    std::to_string(queries) + " keys, got " + std::to_string(keys) + ".");
  }
}

}  // namespace

array scaled_softmax(const array& x, float scale, bool causal) {
  if (x.ndim() < (causal ? 2 : 1)) {
    throw Error(Kind::usage, "[scaled_softmax] too few axes: expected " +
                                 std::to_string(causal ? 2 : 1) + " or more, got " +
                                 std::to_string(x.ndim()) + ".");
  }
  if (causal) {
    check_causal(x.shape(-2), x.shape(-1));
  }
  if (x.dtype() != mx::float32 || !fused(x.dtype())) {
    return plain_softmax(x, scale, causal);
  }
  return output_like(x, std::make_shared<Softmax>(scale, causal), {dense(x)});
}

array attention(const array& q, const array& k, const array& v, float scale, bool causal) {
  const int batch = q.shape(0), heads = q.shape(1), queries = q.shape(2), width = q.shape(3);
  const int groups = k.shape(1), keys = k.shape(2);
  if (groups == 0 || heads % groups != 0) {
    throw Error(Kind::usage,
                "[attention] the heads must be a multiple of the key/value heads: got " +
                    std::to_string(heads) + " and " + std::to_string(groups) + ".");
  }
  if (causal) {
    check_causal(queries, keys);
  }
  if (q.dtype() != mx::float32 || !fused(q.dtype()) || k.dtype() != q.dtype() || v.dtype() != q.dtype()) {
    return mx::fast::scaled_dot_product_attention(q, k, v, scale, causal ? "causal" : "");
  }
  if (groups == heads) {
    const auto weights = scaled_softmax(mx::matmul(q, mx::swapaxes(k, -1, -2)), scale, causal);
    return mx::matmul(weights, v);
  }
  const auto grouped = mx::reshape(q, {batch, groups, heads / groups, queries, width});
  const auto keys_t = mx::swapaxes(mx::expand_dims(k, 2), -1, -2);
  const auto weights = scaled_softmax(mx::matmul(grouped, keys_t), scale, causal);
  const auto out = mx::matmul(weights, mx::expand_dims(v, 2));
  return mx::reshape(out, {batch, heads, queries, v.shape(3)});
}

}  // namespace lmxlab::kernels
#endif
