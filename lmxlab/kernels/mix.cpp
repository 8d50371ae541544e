#include "lmxlab/kernels/mix.h"

#include <algorithm>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/reduce.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/mix.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// `count` results of rows of `width`, from row `first` on. No result lies where an input lies.
void mix_rows(Type type, const void* x_, const void* before_, const float* const* m,
              void* const* to, int64_t count, int64_t width, int64_t first, int64_t last) {
  with_type(type, [=](auto t) {
    using T = decltype(t);
    for (int64_t r = first; r < last; r++) {
      const auto* const x = static_cast<const T*>(x_) + r * width;
      const auto* const before = static_cast<const T*>(before_) + r * width;
      each(width, [=](int64_t i, auto lanes) {
        const VF old = read(before + i, lanes), change = hn::Sub(read(x + i, lanes), old);
        for (int64_t k = 0; k < count; k++)
          write(hn::MulAdd(change, read(m[k] + i, lanes), old),
                static_cast<T*>(to[k]) + r * width + i, lanes);
      });
    }
  });
}

// gx = sum g m, gbefore = sum g - gx; sums += g (x - before), of each m.
void mix_rows_grad(Type type, const void* x_, const void* before_, const float* const* m,
                   const void* const* g, void* gx_, void* gbefore_, float* sums, int64_t count,
                   int64_t width, int64_t first, int64_t last) {
  with_type(type, [=](auto t) {
    using T = decltype(t);
    for (int64_t r = first; r < last; r++) {
      const auto* const x = static_cast<const T*>(x_) + r * width;
      const auto* const before = static_cast<const T*>(before_) + r * width;
      auto* const gx = static_cast<T*>(gx_) + r * width;
      auto* const gbefore = static_cast<T*>(gbefore_) + r * width;
      each(width, [=](int64_t i, auto lanes) {
        const VF change = hn::Sub(read(x + i, lanes), read(before + i, lanes));
        VF now = hn::Zero(DF()), old = now;
        for (int64_t k = 0; k < count; k++) {
          const VF gk = read(static_cast<const T*>(g[k]) + r * width + i, lanes);
          const VF part = hn::Mul(gk, read(m[k] + i, lanes));
          now = hn::Add(now, part), old = hn::Add(old, hn::Sub(gk, part));
          float* const sum = sums + k * width + i;
          write(hn::MulAdd(gk, change, read(sum, lanes)), sum, lanes);
        }
        write(now, gx + i, lanes), write(old, gbefore + i, lanes);
      });
    }
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(mix_rows);
HWY_EXPORT(mix_rows_grad);

int64_t rows_of(const array& x) {
  return static_cast<int64_t>(x.size()) / x.shape(-1);
}
std::vector<Dense> dense_of(const Arrays& in, size_t first, size_t last) {
  std::vector<Dense> out;
  for (size_t i = first; i < last; i++) out.emplace_back(in[i]);
  return out;
}
template <class T>
std::vector<const T*> pointers(const std::vector<Dense>& from) {
  std::vector<const T*> out;
  for (const auto& d : from) out.push_back(static_cast<const T*>(d.read()));
  return out;
}

class MixGrad : public Op {  // x, before, each m, each g -> gx, gbefore, each gm
 public:
  const char* name() const override { return "lmxlab::MixGrad"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> out(in.size() / 2 + 1, in[2].shape());
    out[0] = out[1] = in[0].shape();
    return out;
  }
  Arrays plain(const Arrays& in) const override;

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    give(out[0], in[0]);
    give(out[1], in[1]);
    for (size_t i = 2; i < out.size(); i++) give(out[i]);
    const size_t count = in.size() / 2 - 1;
    const int64_t width = in[0].shape(-1), stride = static_cast<int64_t>(count) * width;
    const RowBlocks blocks(rows_of(in[0]));
    std::vector<float*> gm;
    for (size_t i = 0; i < count; i++) gm.push_back(out[2 + i].data<float>());
    task([x = Dense(in[0]), before = Dense(in[1]), m = dense_of(in, 2, 2 + count),
          g = dense_of(in, 2 + count, in.size()), type = type_of(in[0].dtype()), width, stride,
          blocks, sums = Scratch<float>(blocks.count * stride), gx = out[0].data<void>(),
          gbefore = out[1].data<void>(), gm = std::move(gm)] {
      const void *const px = x.read(), *const pb = before.read();
      const auto pm = pointers<float>(m);
      const auto pg = pointers<void>(g);
      const auto n = static_cast<int64_t>(pm.size());
      const int64_t least = 8192 / (blocks.block * stride) + 1;
      parallel_for(blocks.count, least, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
          float* const sum = sums.get() + i * stride;
          std::fill(sum, sum + stride, 0.0f);
          const int64_t begin = blocks.begin(i);
          HWY_DYNAMIC_DISPATCH(mix_rows_grad)
          (type, px, pb, pm.data(), pg.data(), gx, gbefore, sum, n, width, begin,
           begin + blocks.size(i));
        }
      });
      for (int64_t k = 0; k < n; k++)
        sum_parts(sums.get() + k * width, blocks.count, stride, width, Type::f32,
                  gm[static_cast<size_t>(k)]);
    });
  }
};

class Mix : public Op {  // x, before, each m [D] float32 -> one like x for each
 public:
  const char* name() const override { return "lmxlab::Mix"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return std::vector<mx::Shape>(in.size() - 2, in[0].shape());
  }
  Arrays plain(const Arrays& in) const override {
    const auto old = mx::astype(in[1], mx::float32);
    const auto change = mx::subtract(mx::astype(in[0], mx::float32), old);
    Arrays out;
    for (size_t i = 2; i < in.size(); i++)
      out.push_back(mx::astype(mx::add(old, mx::multiply(change, in[i])), in[0].dtype()));
    return out;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    std::vector<void*> to;
    for (auto& o : out) give(o), to.push_back(o.data<void>());
    task([x = Dense(in[0]), before = Dense(in[1]), m = dense_of(in, 2, in.size()),
          type = type_of(in[0].dtype()), width = int64_t{in[0].shape(-1)}, rows = rows_of(in[0]),
          to = std::move(to)] {
      const void *const px = x.read(), *const pb = before.read();
      const auto pm = pointers<float>(m);
      const auto n = static_cast<int64_t>(pm.size());
      parallel_for(rows, 16384 / (width * n) + 1, [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(mix_rows)
        (type, px, pb, pm.data(), to.data(), n, width, first, last);
      });
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    auto from = in;
    from.insert(from.end(), cotangents.begin(), cotangents.end());
    const auto op = std::make_shared<MixGrad>();
    std::vector<mx::Dtype> types(in.size(), mx::float32);
    types[0] = types[1] = in[0].dtype();
    const auto all = array::make_arrays(op->output_shapes(from), types, op, from);
    Arrays out;
    for (const int i : argnums) out.push_back(all[static_cast<size_t>(i)]);
    return out;
  }
};

Arrays MixGrad::plain(const Arrays& in) const {
  const auto middle = in.begin() + static_cast<std::ptrdiff_t>(in.size() / 2 + 1);
  return mx::vjp([](const Arrays& v) { return Mix().plain(v); }, Arrays(in.begin(), middle),
                 Arrays(middle, in.end()))
      .second;
}

}  // namespace

std::vector<array> mix(const array& x, const array& before, const std::vector<array>& m) {
  const bool fits =
      x.ndim() > 0 && before.shape() == x.shape() && before.dtype() == x.dtype() &&
      mx::issubdtype(x.dtype(), mx::floating) && !m.empty() &&
      std::all_of(m.begin(), m.end(), [&](const array& one) {
        return one.shape() == mx::Shape{x.shape(-1)} && mx::issubdtype(one.dtype(), mx::floating);
      });
  if (!fits)
    throw Error(Kind::usage,
                "[mix] expected x and before [..., D] of one float type and each m [D]");
  Arrays in{x, before};
  for (const auto& one : m) in.push_back(cast(one, mx::float32));
  const auto op = std::make_shared<Mix>();
  if (!fused(x.dtype()) || x.size() == 0) return op->plain(in);
  return array::make_arrays(op->output_shapes(in), std::vector<mx::Dtype>(m.size(), x.dtype()), op,
                            in);
}

}  // namespace lmxlab::kernels
#endif
