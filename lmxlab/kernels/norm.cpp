#include "lmxlab/kernels/norm.h"

#include <mlx/fast.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/norm.cpp"
#include <hwy/foreach_target.h>
// Highway's header comes after foreach_target.h.
#include <hwy/highway.h>

#ifndef LMXLAB_KERNELS_NORM_SHAPE
#define LMXLAB_KERNELS_NORM_SHAPE
namespace lmxlab::kernels {
struct NormShape {
  int64_t width;
  float eps;
  bool centered;  // LayerNorm; otherwise RMSNorm
};
}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// f(i) adds up vectors, g(i) single elements behind them. Two accumulators hide the latency of the
// addition.
template <class F, class G>
HWY_INLINE float sum(D d, int64_t n, F f, G g) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V a = hn::Zero(d), b = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    a = hn::Add(a, f(i));
    b = hn::Add(b, f(i + lanes));
  }
  for (; i + lanes <= n; i += lanes) {
    a = hn::Add(a, f(i));
  }
  float total = hn::GetLane(hn::SumOfLanes(d, hn::Add(a, b)));
  for (; i < n; i++) {
    total += g(i);
  }
  return total;
}

struct Moments {
  float mean, inverse;  // inverse: 1 / sqrt(variance or mean square + eps)
};
HWY_INLINE Moments moments(D d, const float* x, const NormShape& s) {
  const auto n = static_cast<float>(s.width);
  float mean = 0;
  if (s.centered) {
    mean = sum(
               d, s.width, [&](int64_t i) { return hn::LoadU(d, x + i); },
               [&](int64_t i) { return x[i]; }) /
           n;
  }
  const V m = hn::Set(d, mean);
  const float squares = sum(
      d, s.width,
      [&](int64_t i) {
        const V v = hn::Sub(hn::LoadU(d, x + i), m);
        return hn::Mul(v, v);
      },
      [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  return {mean, 1 / std::sqrt(squares / n + s.eps)};
}

void norm_rows(const float* x, const float* w, const float* b, float* y, int64_t rows,
               NormShape s) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; r++, x += s.width, y += s.width) {
    const auto [mean, inverse] = moments(d, x, s);
    const V m = hn::Set(d, mean), k = hn::Set(d, inverse);
    int64_t i = 0;
    for (; i + lanes <= s.width; i += lanes) {
      const V v = hn::Mul(hn::Sub(hn::LoadU(d, x + i), m), k);
      const V bias = b ? hn::LoadU(d, b + i) : hn::Zero(d);
      hn::StoreU(hn::MulAdd(v, hn::LoadU(d, w + i), bias), d, y + i);
    }
    for (; i < s.width; i++) {
      y[i] = (x[i] - mean) * inverse * w[i] + (b ? b[i] : 0);
    }
  }
}

// With n = (x - mean) * inverse and h = g w:  dx = inverse (h - mean(h) - n mean(h n)), the first
// mean only where centred; dw += g n, db += g.
void norm_rows_grad(const float* x, const float* w, const float* g, float* dx, float* dw, float* db,
                    int64_t rows, NormShape s) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto width = static_cast<float>(s.width);
  for (int64_t r = 0; r < rows; r++, x += s.width, g += s.width, dx += s.width) {
    const auto [mean, inverse] = moments(d, x, s);
    const V m = hn::Set(d, mean), k = hn::Set(d, inverse);
    const float along = sum(
                            d, s.width,
                            [&](int64_t i) {
                              return hn::Mul(hn::Mul(hn::LoadU(d, g + i), hn::LoadU(d, w + i)),
                                             hn::Mul(hn::Sub(hn::LoadU(d, x + i), m), k));
                            },
                            [&, mean = mean, inverse = inverse](int64_t i) {
                              return g[i] * w[i] * ((x[i] - mean) * inverse);
                            }) /
                        width;
    float level = 0;
    if (s.centered) {
      level = sum(
                  d, s.width,
                  [&](int64_t i) { return hn::Mul(hn::LoadU(d, g + i), hn::LoadU(d, w + i)); },
                  [&](int64_t i) { return g[i] * w[i]; }) /
              width;
    }
    const V va = hn::Set(d, along), vl = hn::Set(d, level);
    int64_t i = 0;
    for (; i + lanes <= s.width; i += lanes) {
      const V n = hn::Mul(hn::Sub(hn::LoadU(d, x + i), m), k);
      const V gi = hn::LoadU(d, g + i);
      hn::StoreU(hn::MulAdd(gi, n, hn::LoadU(d, dw + i)), d, dw + i);
      if (db) {
        hn::StoreU(hn::Add(gi, hn::LoadU(d, db + i)), d, db + i);
      }
      const V h = hn::MulSub(gi, hn::LoadU(d, w + i), vl);
      hn::StoreU(hn::Mul(k, hn::NegMulAdd(n, va, h)), d, dx + i);
    }
    for (; i < s.width; i++) {
      const float n = (x[i] - mean) * inverse, gi = g[i];
      dw[i] += gi * n;
      if (db) {
        db[i] += gi;
      }
      dx[i] = inverse * (gi * w[i] - level - n * along);
    }
  }
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(norm_rows);
HWY_EXPORT(norm_rows_grad);

// Inputs: x, weight and, where centred, bias.
Arrays plain_norm(const Arrays& in, float eps, bool centered) {
  return {centered ? mx::fast::layer_norm(in[0], in[1], in[2], eps)
                   : mx::fast::rms_norm(in[0], in[1], eps)};
}

int64_t grain(int64_t width) {
  return std::max<int64_t>(1, 4096 / std::max<int64_t>(1, width));
}

class NormGrad : public Op {  // x, weight, cotangent -> dx, dweight and, where centred, dbias
 public:
  NormGrad(float eps, bool centered) : eps_(eps), centered_(centered) {}
  const char* name() const override { return "lmxlab::NormGrad"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const NormGrad&>(other);
    return eps_ == op.eps_ && centered_ == op.centered_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes{in[0].shape(), in[1].shape()};
    if (centered_) {
      shapes.push_back(in[1].shape());
    }
    return shapes;
  }

  Arrays plain(const Arrays& in) const override {
    Arrays primals{in[0], in[1]};
    if (centered_) {
      primals.push_back(mx::zeros_like(in[1]));
    }
    auto f = [this](const Arrays& v) { return plain_norm(v, eps_, centered_); };
    return mx::vjp(f, primals, {in[2]}).second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    for (auto& o : out) {
      give(o);
    }
    const auto width = static_cast<int64_t>(in[1].size());
    task([x = in[0].data<float>(), w = in[1].data<float>(), g = in[2].data<float>(),
          dx = out[0].data<float>(), dw = out[1].data<float>(),
          db = centered_ ? out[2].data<float>() : nullptr,
          rows = width ? static_cast<int64_t>(in[0].size()) / width : 0,
          s = NormShape{width, eps_, centered_}] {
      // The blocks do not depend on the number of threads, and neither do the sums over rows.
      const int64_t block = std::max<int64_t>(16, (rows + 63) / 64);
      const int64_t blocks = (rows + block - 1) / block;
      const int64_t stride = 2 * s.width;
      std::vector<float> sums(blocks * stride, 0.0f);
      parallel_for(blocks, (grain(s.width) + block - 1) / block, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
          const int64_t at = i * block * s.width;
          float* const part = sums.data() + i * stride;
          HWY_DYNAMIC_DISPATCH(norm_rows_grad)
          (x + at, w, g + at, dx + at, part, db ? part + s.width : nullptr,
           std::min(block, rows - i * block), s);
        }
      });
      for (int64_t c = 0; c < s.width; c++) {
        float weight = 0, bias = 0;
        for (int64_t i = 0; i < blocks; i++) {
          weight += sums[i * stride + c];
          bias += sums[i * stride + s.width + c];
        }
        dw[c] = weight;
        if (db) {
          db[c] = bias;
        }
      }
    });
  }

 private:
  float eps_;
  bool centered_;
};

class Norm : public Op {
 public:
  Norm(float eps, bool centered) : eps_(eps), centered_(centered) {}
  const char* name() const override { return "lmxlab::Norm"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const Norm&>(other);
    return eps_ == op.eps_ && centered_ == op.centered_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  Arrays plain(const Arrays& in) const override { return plain_norm(in, eps_, centered_); }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0], in[0]);
    const auto width = static_cast<int64_t>(in[1].size());
    task([x = in[0].data<float>(), w = in[1].data<float>(),
          b = centered_ ? in[2].data<float>() : nullptr, y = out[0].data<float>(),
          rows = width ? static_cast<int64_t>(in[0].size()) / width : 0,
          s = NormShape{width, eps_, centered_}] {
      parallel_for(rows, grain(s.width), [&](int64_t first, int64_t last) {
        const int64_t at = first * s.width;
        HWY_DYNAMIC_DISPATCH(norm_rows)(x + at, w, b, y + at, last - first, s);
      });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    for (const auto& p : primals) {
      shapes.push_back(p.shape());
      dtypes.push_back(p.dtype());
    }
    const auto all = array::make_arrays(shapes, dtypes, std::make_shared<NormGrad>(eps_, centered_),
                                        {primals[0], primals[1], dense(cotangents[0])});
    Arrays out;
    for (const int i : argnums) {
      out.push_back(all[i]);
    }
    return out;
  }

 private:
  float eps_;
  bool centered_;
};

array make_norm(const char* what, Arrays in, float eps, bool centered) {
  const auto& x = in[0];
  for (size_t i = 1; i < in.size(); i++) {
    if (x.ndim() == 0 || in[i].ndim() != 1 || in[i].size() != static_cast<size_t>(x.shape(-1))) {
      throw Error(Kind::usage,
                  std::string("[") + what +
                      "] weight and bias must be as long as the last axis: expected [" +
                      (x.ndim() ? std::to_string(x.shape(-1)) : "?") + "], got " +
                      std::to_string(in[i].ndim()) + " axes, " + std::to_string(in[i].size()) +
                      " elements.");
    }
    in[i] = mx::astype(in[i], x.dtype());
  }
  if (x.dtype() != mx::float32 || !fused(x.dtype())) {
    return plain_norm(in, eps, centered)[0];
  }
  const auto like = x;
  for (auto& a : in) {
    a = dense(a);
  }
  return output_like(like, std::make_shared<Norm>(eps, centered), std::move(in));
}

}  // namespace

array layer_norm(const array& x, const array& weight, const array& bias, float eps) {
  return make_norm("layer_norm", {x, weight, bias}, eps, true);
}

array rms_norm(const array& x, const array& weight, float eps) {
  return make_norm("rms_norm", {x, weight}, eps, false);
}

}  // namespace lmxlab::kernels
#endif
