#include "lmxlab/kernels/norm.h"

#include <mlx/fast.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/reduce.h"
#include "lmxlab/kernels/thread_pool.h"

#ifndef LMXLAB_KERNELS_NORM_ROWS
#define LMXLAB_KERNELS_NORM_ROWS
namespace lmxlab::kernels {
struct NormRows {
  Type type;
  int64_t width;
  float eps;
  bool centered;
  const float *weight, *bias;  // bias: null where there is none

  int64_t bytes(int64_t rows) const { return rows * width * size_of(type); }
};
}  // namespace lmxlab::kernels
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/norm.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

struct Moments {
  float mean, inverse;  // inverse: 1 / sqrt(variance or mean square + eps)
};
template <class T>
HWY_INLINE Moments moments(const T* x, const NormRows& s) {
  const auto n = static_cast<float>(s.width);
  float mean = 0;
  if (s.centered) {
    mean = sum(s.width, [=](int64_t i, auto lanes) { return read(x + i, lanes); }) / n;
  }
  const VF m = hn::Set(DF(), mean);
  const float squares = sum(s.width, [=](int64_t i, auto lanes) {
    const VF v = only(hn::Sub(read(x + i, lanes), m), lanes);
    return hn::Mul(v, v);
  });
  return {mean, 1 / std::sqrt(squares / n + s.eps)};
}

// y = norm(x), or onto + norm(x), or sum = x + branch and y = norm(sum). What is written may lie
// where an input lies.
void norm_rows(const NormRows& s, const void* x_, const void* branch_, const void* onto_,
               void* sum_, void* y_, int64_t rows) {
  with_type(s.type, [&](auto t) {
    using T = decltype(t);
    const auto *x = static_cast<const T*>(x_), *branch = static_cast<const T*>(branch_);
    const auto* onto = static_cast<const T*>(onto_);
    auto *sum = static_cast<T*>(sum_), *y = static_cast<T*>(y_);
    for (int64_t r = 0; r < rows; r++) {
      const int64_t at = r * s.width;
      const T* row = x + at;
      if (branch) {
        each(s.width, [=](int64_t i, auto lanes) {
          write(hn::Add(read(row + i, lanes), read(branch + at + i, lanes)), sum + at + i, lanes);
        });
        row = sum + at;
      }
      const auto [mean, inverse] = moments(row, s);
      const VF m = hn::Set(DF(), mean), k = hn::Set(DF(), inverse);
      each(s.width, [=, &s](int64_t i, auto lanes) {
        VF v = hn::Mul(hn::Sub(read(row + i, lanes), m), k);
        const VF w = read(s.weight + i, lanes);
        v = s.bias ? hn::MulAdd(v, w, read(s.bias + i, lanes)) : hn::Mul(v, w);
        if (onto) v = hn::Add(v, read(onto + at + i, lanes));
        write(v, y + at + i, lanes);
      });
    }
  });
}

// With n = (x - mean) * inverse and h = g weight:  dx = inverse (h - mean(h) - n mean(h n)), the
// first mean only where centered, and + passed, where that is given; dw += g n, db += g.
void norm_rows_grad(const NormRows& s, const void* x_, const void* g_, const void* passed_,
                    void* dx_, float* dw, float* db, int64_t rows) {
  with_type(s.type, [&](auto t) {
    using T = decltype(t);
    const DF d;
    const auto *x = static_cast<const T*>(x_), *g = static_cast<const T*>(g_);
    const auto* passed = static_cast<const T*>(passed_);
    auto* dx = static_cast<T*>(dx_);
    const auto width = static_cast<float>(s.width);
    for (int64_t r = 0; r < rows; r++, x += s.width, g += s.width, dx += s.width) {
      const auto [mean, inverse] = moments(x, s);
      const VF m = hn::Set(d, mean), k = hn::Set(d, inverse);
      const float along = sum(s.width, [=, &s](int64_t i, auto lanes) {
        const VF h = hn::Mul(read(g + i, lanes), read(s.weight + i, lanes));
        return hn::Mul(h, hn::Mul(hn::Sub(read(x + i, lanes), m), k));
      });
      float level = 0;
      if (s.centered) {
        level = sum(s.width, [=, &s](int64_t i, auto lanes) {
          return hn::Mul(read(g + i, lanes), read(s.weight + i, lanes));
        });
      }
      const VF va = hn::Set(d, along / width), vl = hn::Set(d, level / width);
      each(s.width, [=, &s](int64_t i, auto lanes) {
        const VF n = hn::Mul(hn::Sub(read(x + i, lanes), m), k);
        const VF gi = read(g + i, lanes);
        write(hn::MulAdd(gi, n, read(dw + i, lanes)), dw + i, lanes);
        if (db) write(hn::Add(gi, read(db + i, lanes)), db + i, lanes);
        const VF h = hn::MulSub(gi, read(s.weight + i, lanes), vl);
        VF v = hn::Mul(k, hn::NegMulAdd(n, va, h));
        if (passed) v = hn::Add(v, read(passed + i, lanes));
        write(v, dx + i, lanes);
      });
      if (passed) passed += s.width;
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

HWY_EXPORT(norm_rows);
HWY_EXPORT(norm_rows_grad);

enum class With { nothing, residual, branch, itself };  // what else there is: see norm_rows

struct Form {
  NormKind kind;
  float eps, offset;
  bool bias;
  With with;

  bool operator==(const Form&) const = default;
  int other() const { return bias ? 3 : 2; }  // which input is the residual or the branch
  // Whether x, or its sum with the branch, is an output before the norm.
  bool passes() const { return with == With::branch || with == With::itself; }
};

// Inputs: x, weight, bias where there is one.
array plain_norm(const Arrays& in, const Form& f) {
  const auto dtype = in[0].dtype();
  auto weight = in[1];
  if (f.offset != 0) weight = mx::add(mx::astype(weight, mx::float32), array(f.offset));
  weight = mx::astype(weight, dtype);
  if (f.kind == NormKind::rms) return mx::fast::rms_norm(in[0], weight, f.eps);
  std::optional<array> bias;
  if (f.bias) bias = mx::astype(in[2], dtype);
  return mx::fast::layer_norm(in[0], weight, bias, f.eps);
}

// Weights as float32 with the offset added.
class FloatWeights {
 public:
  FloatWeights(const array& a, float offset)
      : data_(a),
        type_(type_of(a.dtype())),
        size_(static_cast<int64_t>(a.size())),
        offset_(offset) {}
  const float* read(std::vector<float>& room) const {
    const void* const p = data_.read();
    if (type_ == Type::f32 && offset_ == 0) return static_cast<const float*>(p);
    room.resize(static_cast<size_t>(size_));
    convert(type_, p, Type::f32, room.data(), size_);
    for (auto& v : room) v += offset_;
    return room.data();
  }

 private:
  Dense data_;
  Type type_;
  int64_t size_;
  float offset_;
};

int64_t row_count(const array& x) {
  return x.size() == 0 ? 0 : static_cast<int64_t>(x.size()) / x.shape(-1);
}
NormRows rows_of(const array& x, const Form& f) {
  return {type_of(x.dtype()), x.shape(-1), f.eps, f.kind == NormKind::layer, nullptr, nullptr};
}
int64_t grain(int64_t width) {
  return std::max<int64_t>(1, 8192 / std::max<int64_t>(1, width));
}
template <class P>
P* at(P* p, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<P>, const char, char>;
  return p ? static_cast<Byte*>(p) + bytes : nullptr;
}

class NormGrad : public Op {  // x, weight, g, what passes by -> dx, dweight, dbias
 public:
  explicit NormGrad(const Form& form) : form_(form) {}
  const char* name() const override { return "lmxlab::NormGrad"; }
  bool same(const Op& other) const override {
    return form_ == static_cast<const NormGrad&>(other).form_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes{in[0].shape(), in[1].shape()};
    if (form_.bias) shapes.push_back(in[1].shape());
    return shapes;
  }

  Arrays plain(const Arrays& in) const override {
    Arrays primals{in[0], in[1]};
    if (form_.bias) primals.push_back(mx::zeros_like(in[1]));
    auto f = [this](const Arrays& v) -> Arrays { return {plain_norm(v, form_)}; };
    auto out = mx::vjp(f, primals, {in[2]}).second;
    if (in.size() > 3) out[0] = mx::add(out[0], in[3]);
    return out;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    const bool passing = in.size() > 3;
    give(out[0], passing && in[3].is_donatable() ? in[3] : in[2]);
    for (size_t i = 1; i < out.size(); i++) give(out[i]);
    const auto shape = rows_of(in[0], form_);
    const RowBlocks blocks(row_count(in[0]));
    const int64_t stride = shape.width * (form_.bias ? 2 : 1);  // the sums of one block
    task([x = Dense(in[0]), w = FloatWeights(in[1], form_.offset), g = Dense(in[2]),
          passed = Dense(in[passing ? 3 : 2]), passing, shape, blocks, stride,
          sums = Scratch<float>(blocks.count * stride), dx = out[0].data<void>(),
          dw = out[1].data<void>(), db = form_.bias ? out[2].data<void>() : nullptr,
          type = type_of(in[1].dtype())] {
      std::vector<float> room;
      auto s = shape;
      s.weight = w.read(room);
      const void *const px = x.read(), *const pg = g.read();
      const void* const pp = passing ? passed.read() : nullptr;
      const int64_t least = std::max<int64_t>(1, grain(s.width) / blocks.block);
      parallel_for(blocks.count, least, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
          const int64_t skip = s.bytes(blocks.begin(i));
          float* const sum = sums.get() + i * stride;
          std::fill(sum, sum + stride, 0.0f);
          HWY_DYNAMIC_DISPATCH(norm_rows_grad)
          (s, at(px, skip), at(pg, skip), at(pp, skip), at(dx, skip), sum,
           db ? sum + s.width : nullptr, blocks.size(i));
        }
      });
      sum_parts(sums.get(), blocks.count, stride, s.width, type, dw);
      if (db) sum_parts(sums.get() + s.width, blocks.count, stride, s.width, type, db);
    });
  }

 private:
  Form form_;
};

class Norm : public Op {  // x, weight, bias?, residual or branch? -> y, or x or sum, and y
 public:
  explicit Norm(const Form& form) : form_(form) {}
  const char* name() const override { return "lmxlab::Norm"; }
  bool same(const Op& other) const override {
    return form_ == static_cast<const Norm&>(other).form_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return std::vector<mx::Shape>(form_.passes() ? 2 : 1, in[0].shape());
  }

  Arrays plain(const Arrays& in) const override {
    if (form_.with == With::nothing) return {plain_norm(in, form_)};
    if (form_.with == With::itself) return {in[0], plain_norm(in, form_)};
    const auto& other = in[form_.other()];
    if (form_.with == With::residual) return {mx::add(other, plain_norm(in, form_))};
    auto sum = in;
    sum[0] = mx::add(in[0], other);
    return {sum[0], plain_norm(sum, form_)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    const bool passes = form_.with == With::itself, adds = form_.with == With::branch;
    const bool alone = passes || form_.with == With::nothing;
    const auto& other = in[alone ? 0 : form_.other()];
    if (passes) {
      out[0].copy_shared_buffer(in[0]);
      give(out[1]);
    } else {
      give(out[0], in[0].is_donatable() ? in[0] : other);
      if (adds) give(out[1], other);
    }
    task([x = Dense(in[0]), w = FloatWeights(in[1], form_.offset),
          b = FloatWeights(in[form_.bias ? 2 : 1], 0), o = Dense(other), alone, adds,
          shape = rows_of(in[0], form_), rows = row_count(in[0]), bias = form_.bias,
          sum = adds ? out[0].data<void>() : nullptr, y = out.back().data<void>()] {
      std::vector<float> weight_room, bias_room;
      auto s = shape;
      s.weight = w.read(weight_room);
      if (bias) s.bias = b.read(bias_room);
      const void *const px = x.read(), *const po = alone ? nullptr : o.read();
      parallel_for(rows, grain(s.width), [&](int64_t first, int64_t last) {
        const int64_t skip = s.bytes(first);
        HWY_DYNAMIC_DISPATCH(norm_rows)
        (s, at(px, skip), adds ? at(po, skip) : nullptr, adds ? nullptr : at(po, skip),
         at(sum, skip), at(y, skip), last - first);
      });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    const bool adds = form_.with == With::branch;
    Arrays in{adds ? outputs[0] : primals[0], primals[1], cotangents.back()};
    std::vector<mx::Shape> shapes{in[0].shape(), in[1].shape()};
    std::vector<mx::Dtype> dtypes{in[0].dtype(), in[1].dtype()};
    if (form_.passes()) in.push_back(cotangents[0]);
    if (form_.bias) shapes.push_back(shapes[1]), dtypes.push_back(dtypes[1]);
    auto gradients = array::make_arrays(shapes, dtypes, std::make_shared<NormGrad>(form_), in);
    gradients.push_back(adds ? gradients[0] : cotangents[0]);  // of the branch or the residual
    Arrays out;
    for (const int i : argnums) out.push_back(gradients[i]);
    return out;
  }

 private:
  Form form_;
};

void check(const array& x, const array& a, const char* what) {
  if (x.ndim() == 0 || a.ndim() != 1 || a.shape(0) != x.shape(-1)) {
    throw Error(Kind::usage,
                std::string("[norm] ") + what + " must be as long as the last axis: expected [" +
                    (x.ndim() ? std::to_string(x.shape(-1)) : "?") + "], got " +
                    std::to_string(a.ndim()) + " axes, " + std::to_string(a.size()) + " elements.");
  }
}

Arrays make(NormKind kind, const array& x, const NormWeights& w, float eps, With with,
            const std::optional<array>& other) {
  check(x, w.weight, "weight");
  if (w.bias) check(x, *w.bias, "bias");
  if (w.bias && kind == NormKind::rms) throw Error(Kind::usage, "[norm] an RMSNorm has no bias.");
  const auto dtype = has_type(w.weight.dtype()) ? w.weight.dtype() : x.dtype();
  Arrays in{x, mx::astype(w.weight, dtype)};
  if (w.bias) in.push_back(mx::astype(*w.bias, dtype));
  if (other) in.push_back(*other);
  const auto op = std::make_shared<Norm>(Form{kind, eps, w.offset, w.bias.has_value(), with});
  const bool alike = !other || (other->shape() == x.shape() && other->dtype() == x.dtype());
  if (!fused(x.dtype()) || !alike) return op->plain(in);
  const auto shapes = op->output_shapes(in);
  return array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), x.dtype()), op, in);
}

}  // namespace

array norm(NormKind kind, const array& x, const NormWeights& w, float eps) {
  return make(kind, x, w, eps, With::nothing, {})[0];
}

array norm_onto(NormKind kind, const array& residual, const array& x, const NormWeights& w,
                float eps) {
  return make(kind, x, w, eps, With::residual, residual)[0];
}

AddedNorm add_norm(NormKind kind, const array& x, const array& branch, const NormWeights& w,
                   float eps) {
  const auto out = make(kind, x, w, eps, With::branch, branch);
  return {out[0], out[1]};
}

AddedNorm norm_passing(NormKind kind, const array& x, const NormWeights& w, float eps) {
  const auto out = make(kind, x, w, eps, With::itself, {});
  return {out[0], out[1]};
}

}  // namespace lmxlab::kernels
#endif
