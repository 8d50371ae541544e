#include "lmxlab/kernels/elementwise.h"

#include <algorithm>
#include <cstring>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/reduce.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/elementwise.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

void convert_run(Type from, const void* x, Type to, void* y, int64_t n) {
  with_type(from, [=](auto source) {
    with_type(to, [=](auto target) {
      auto* const in = static_cast<const decltype(source)*>(x);
      auto* const out = static_cast<decltype(target)*>(y);
      each(n, [=](int64_t i, auto lanes) { write(read(in + i, lanes), out + i, lanes); });
    });
  });
}

// y[i] = a[i] + b[i mod period] for i from `first`; a and y begin there, b at 0.
void add_run(Type type, const void* a, const void* b, void* y, int64_t first, int64_t n,
             int64_t period, bool past) {
  with_type(type, [=](auto t) {
    using T = decltype(t);
    const auto* p = static_cast<const T*>(a);
    auto* out = static_cast<T*>(y);
    int64_t count = 0;
    for (int64_t left = n, at = first % period; left > 0; left -= count, at = 0) {
      count = std::min(left, period - at);
      const T* const q = static_cast<const T*>(b) + at;
      each_to(out, past, count, [=](int64_t i, auto lanes) {
        write(hn::Add(read(p + i, lanes), read(q + i, lanes)), out + i, lanes);
      });
      p += count, out += count;
    }
  });
  if (past) hwy::FlushStream();
}

void scale_run(Type type, const void* x, void* y, int64_t n, float factor, bool past) {
  with_type(type, [=](auto t) {
    using T = decltype(t);
    auto* const in = static_cast<const T*>(x);
    auto* const out = static_cast<T*>(y);
    const VF by = hn::Set(DF(), factor);
    each_to(out, past, n, [=](int64_t i, auto lanes) {
      write(hn::Mul(read(in + i, lanes), by), out + i, lanes);
    });
  });
  if (past) hwy::FlushStream();
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(convert_run);
HWY_EXPORT(add_run);
HWY_EXPORT(scale_run);

constexpr int64_t kGrain = 65536;  // elements of a part: 8 to 20 us

// Whether what is written should pass by the caches: it would not stay there, and it is not there
// already, as an input's memory would be.
bool passes(const array& out, const Arrays& in) {
  constexpr size_t kStays = 16 << 20;
  return out.nbytes() >= kStays && std::none_of(in.begin(), in.end(), [&](const array& x) {
           return x.buffer().ptr() == out.buffer().ptr();
         });
}

const char* at(const void* p, int64_t bytes) {
  return static_cast<const char*>(p) + bytes;
}
char* at(void* p, int64_t bytes) {
  return static_cast<char*>(p) + bytes;
}

class Cast : public Op {
 public:
  explicit Cast(mx::Dtype to) : to_(to) {}
  const char* name() const override { return "lmxlab::Cast"; }
  bool same(const Op& other) const override { return to_ == static_cast<const Cast&>(other).to_; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  Arrays plain(const Arrays& in) const override { return {mx::astype(in[0], to_)}; }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0], in[0]);
    task([x = Dense(in[0]), from = type_of(in[0].dtype()), y = out[0].data<void>(),
          to = type_of(to_), n = static_cast<int64_t>(in[0].size())] {
      const void* const p = x.read();
      parallel_for(n, kGrain, [=](int64_t a, int64_t b) {
        convert(from, at(p, a * size_of(from)), to, at(y, a * size_of(to)), b - a);
      });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&,
             const Arrays&) override {
    return {cast(cotangents[0], primals[0].dtype())};
  }

 private:
  mx::Dtype to_;
};

class Add : public Op {  // a, and b of the shape of a's last axes
 public:
  const char* name() const override { return "lmxlab::Add"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  Arrays plain(const Arrays& in) const override { return {mx::add(in[0], in[1])}; }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0], in[0].is_donatable() ? in[0] : in[1]);
    task([p = Dense(in[0]), q = Dense(in[1]), y = out[0].data<void>(),
          type = type_of(in[0].dtype()), n = static_cast<int64_t>(in[0].size()),
          period = static_cast<int64_t>(in[1].size()), past = passes(out[0], in)] {
      const void *const first = p.read(), *const second = q.read();
      parallel_for(n, kGrain, [=](int64_t a, int64_t b) {
        const int64_t skip = a * size_of(type);
        HWY_DYNAMIC_DISPATCH(add_run)
        (type, at(first, skip), second, at(y, skip), a, b - a, period, past);
      });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    const auto& g = cotangents[0];
    const auto& b = primals[1];
    Arrays out;
    for (const int i : argnums) {
      if (i == 0 || b.size() == g.size()) {
        out.push_back(mx::reshape(g, primals[i].shape()));
      } else {
        const auto rows =
            mx::reshape(g, {static_cast<int>(g.size() / b.size()), static_cast<int>(b.size())});
        out.push_back(mx::reshape(sum_rows(rows, b.dtype()), b.shape()));
      }
    }
    return out;
  }
};

bool ends_with(const mx::Shape& shape, const mx::Shape& end) {
  return shape.size() >= end.size() && std::equal(end.rbegin(), end.rend(), shape.rbegin());
}

class Scale : public Op {
 public:
  explicit Scale(float factor) : factor_(factor) {}
  const char* name() const override { return "lmxlab::Scale"; }
  bool same(const Op& other) const override {
    return factor_ == static_cast<const Scale&>(other).factor_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  Arrays plain(const Arrays& in) const override {
    return {mx::multiply(in[0], array(factor_, in[0].dtype()))};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0], in[0]);
    const auto type = type_of(in[0].dtype());
    char rounded[4];
    float factor = factor_;
    convert(Type::f32, &factor_, type, rounded, 1);
    convert(type, rounded, Type::f32, &factor, 1);
    task([x = Dense(in[0]), y = out[0].data<void>(), type, factor, past = passes(out[0], in),
          n = static_cast<int64_t>(in[0].size())] {
      const void* const p = x.read();
      parallel_for(n, kGrain, [=](int64_t a, int64_t b) {
        const int64_t skip = a * size_of(type);
        HWY_DYNAMIC_DISPATCH(scale_run)(type, at(p, skip), at(y, skip), b - a, factor, past);
      });
    });
  }

  Arrays vjp(const Arrays&, const Arrays& cotangents, const std::vector<int>&,
             const Arrays&) override {
    return {scale(cotangents[0], factor_)};
  }

 private:
  float factor_;
};

}  // namespace

void convert(Type from, const void* x, Type to, void* y, int64_t n) {
  if (from == to) {
    std::memmove(y, x, static_cast<size_t>(n * size_of(from)));
  } else {
    HWY_DYNAMIC_DISPATCH(convert_run)(from, x, to, y, n);
  }
}

array cast(const array& x, mx::Dtype dtype) {
  if (x.dtype() == dtype || !fused(x.dtype()) || !has_type(dtype)) {
    return mx::astype(x, dtype);
  }
  return array(x.shape(), dtype, std::make_shared<Cast>(dtype), {x});
}

array add(const array& a, const array& b) {
  if (a.ndim() < b.ndim()) return kernels::add(b, a);
  const bool short_rows = b.size() < 16 && a.shape() != b.shape();
  if (short_rows || !ends_with(a.shape(), b.shape()) || a.dtype() != b.dtype() ||
      !fused(a.dtype())) {
    return mx::add(a, b);
  }
  return output_like(a, std::make_shared<Add>(), {a, b});
}

array scale(const array& x, float factor) {
  auto op = std::make_shared<Scale>(factor);
  return fused(x.dtype()) ? output_like(x, op, {x}) : op->plain({x})[0];
}

}  // namespace lmxlab::kernels
#endif
