#include "lmxlab/kernels/combine.h"

#include <algorithm>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/combine.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// out = the sum of k rows of y, each times a weight (no weights: as they are). All of width n.
void sum_some(Type type, const void* y, const uint32_t* place, const float* weights, int64_t k,
              int64_t n, void* out) {
  with_type(type, [&](auto t) {
    using T = decltype(t);
    const T* const rows = static_cast<const T*>(y);
    T* const to = static_cast<T*>(out);
    each(n, [&](int64_t i, auto lanes) {
      VF sum = hn::Zero(DF());
      for (int64_t j = 0; j < k; j++) {
        const VF v = read(rows + int64_t{place[j]} * n + i, lanes);
        sum = weights ? hn::MulAdd(v, hn::Set(DF(), weights[j]), sum) : hn::Add(v, sum);
      }
      write(sum, to + i, lanes);
    });
  });
}

// to = g times weight; the product of g and y where it is asked for.
void scale_row(Type type, const void* g, const void* y, float weight, int64_t n, void* to,
               float* product) {
  with_type(type, [&](auto t) {
    using T = decltype(t);
    const T *const from = static_cast<const T*>(g), *const other = static_cast<const T*>(y);
    VF sum = hn::Zero(DF());
    const VF factor = hn::Set(DF(), weight);
    each(n, [&](int64_t i, auto lanes) {
      const VF v = read(from + i, lanes);
      write(hn::Mul(v, factor), static_cast<T*>(to) + i, lanes);
      if (product) sum = hn::MulAdd(v, read(other + i, lanes), sum);
    });
    if (product) *product = sum_of(DF(), sum);
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(sum_some);
HWY_EXPORT(scale_row);

constexpr int64_t kGrain = 16384;  // elements worth another thread

int64_t grain(int64_t row) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, row));
}
array row_of(const array& order, int k) {
  return k == 1 ? order : mx::floor_divide(order, array(static_cast<uint32_t>(k)));
}

// x [T, D], place [T k], order [T k], maybe weights [T, k] -> rows [T k, D] of x times theirs; with
// weights also y [T k, D], and then products [T, k] of x's rows with y's
class SpreadRows : public Op {
 public:
  explicit SpreadRows(bool products) : products_(products) {}
  const char* name() const override { return "lmxlab::SpreadRows"; }
  bool same(const Op& other) const override {
    return products_ == static_cast<const SpreadRows&>(other).products_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    mx::Shape rows{in[2].shape(0), in[0].shape(1)};
    if (!products_) return {rows};
    return {rows, in[3].shape()};
  }

  Arrays plain(const Arrays& in) const override {
    const int tokens = in[0].shape(0), k = tokens == 0 ? 1 : in[2].shape(0) / tokens;
    auto rows = mx::take(in[0], row_of(in[2], k), 0);
    if (!products_) return {rows};
    const auto weights = mx::take(mx::reshape(in[3], {-1, 1}), in[2], 0);
    const auto both =
        mx::sum(mx::multiply(mx::astype(rows, mx::float32), mx::astype(in[4], mx::float32)), 1);
    rows = mx::astype(mx::multiply(mx::astype(rows, mx::float32), weights), in[0].dtype());
    return {rows, mx::reshape(mx::take(both, in[1]), in[3].shape())};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    for (auto& o : out) give(o);
    const int64_t n = in[2].shape(0), width = in[0].shape(1);
    if (n == 0) return;
    const int64_t k = n / in[0].shape(0);
    const Type type = type_of(in[0].dtype());
    std::vector<Dense> more;
    for (size_t i = 3; i < in.size(); i++) more.emplace_back(in[i]);
    task([=, x = Dense(in[0]), order = Dense(in[2]), to = out[0].data<char>(),
          products = products_ ? out[1].data<float>() : nullptr] {
      const auto* const from = static_cast<const char*>(x.read());
      const auto* const who = static_cast<const uint32_t*>(order.read());
      const auto* const weights = products ? static_cast<const float*>(more[0].read()) : nullptr;
      const auto* const y = products ? static_cast<const char*>(more[1].read()) : nullptr;
      const int64_t bytes = width * size_of(type);
      parallel_for(n, grain(width), [&](int64_t a, int64_t b) {
        for (int64_t i = a; i < b; i++) {
          const int64_t at = who[i];
          const auto* const row = from + at / k * bytes;
          if (products) HWY_DYNAMIC_DISPATCH(scale_row)
          (type, row, y + i * bytes, weights[at], width, to + i * bytes, products + at);
          else std::copy_n(row, bytes, to + i * bytes);
        }
      });
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& out) override;

 private:
  bool products_;
};

// y [T k, D], place [T k], order [T k], maybe weights [T, k] -> [T, D]
class CombineRows : public Op {
 public:
  explicit CombineRows(int k) : k_(k) {}
  const char* name() const override { return "lmxlab::CombineRows"; }
  bool same(const Op& other) const override {
    return k_ == static_cast<const CombineRows&>(other).k_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {{in[0].shape(0) / k_, in[0].shape(1)}};
  }
  static array of(Arrays in, int k) {
    const auto op = std::make_shared<CombineRows>(k);
    auto shape = op->output_shapes(in)[0];
    const auto dtype = in[0].dtype();
    return array(std::move(shape), dtype, op, std::move(in));
  }

  Arrays plain(const Arrays& in) const override {
    const int tokens = in[0].shape(0) / k_;
    auto rows = mx::reshape(mx::astype(mx::take(in[0], in[1], 0), mx::float32),
                            {tokens, k_, in[0].shape(1)});
    if (in.size() > 3) rows = mx::multiply(rows, mx::expand_dims(in[3], 2));
    return {mx::astype(mx::sum(rows, 1), in[0].dtype())};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0]);
    const int64_t tokens = out[0].shape(0), width = out[0].shape(1);
    const Type type = type_of(in[0].dtype());
    std::vector<Dense> more;
    if (in.size() > 3) more.emplace_back(in[3]);
    task([=, k = int64_t{k_}, y = Dense(in[0]), place = Dense(in[1]), to = out[0].data<char>()] {
      const void* const rows = y.read();
      const auto* const where = static_cast<const uint32_t*>(place.read());
      const auto* const w = more.empty() ? nullptr : static_cast<const float*>(more[0].read());
      const int64_t bytes = width * size_of(type);
      parallel_for(tokens, grain(k * width), [&](int64_t a, int64_t b) {
        for (int64_t t = a; t < b; t++) HWY_DYNAMIC_DISPATCH(sum_some)
        (type, rows, where + t * k, w ? w + t * k : nullptr, k, width, to + t * bytes);
      });
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    const bool weighted = in.size() > 3;
    Arrays from{cotangents[0], in[1], in[2]};
    auto op = std::make_shared<SpreadRows>(weighted);
    std::vector<mx::Dtype> dtypes{in[0].dtype()};
    if (weighted) from.insert(from.end(), {in[3], in[0]}), dtypes.push_back(mx::float32);
    auto shapes = op->output_shapes(from);
    const auto both = array::make_arrays(std::move(shapes), dtypes, op, from);
    Arrays out;
    for (const int i : argnums)
      out.push_back(i == 0   ? both[0]
                    : i == 3 ? both[1]
                             : mx::zeros_like(in[static_cast<size_t>(i)]));
    return out;
  }

 private:
  int k_;
};

Arrays SpreadRows::vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
                       const Arrays& out) {
  if (products_) return Op::vjp(in, cotangents, argnums, out);
  Arrays gradients;
  const int k = in[0].shape(0) == 0 ? 1 : in[2].shape(0) / in[0].shape(0);
  for (const int i : argnums)
    gradients.push_back(i == 0 ? CombineRows::of({cotangents[0], in[1], in[2]}, k)
                               : mx::zeros_like(in[static_cast<size_t>(i)]));
  return gradients;
}

void expect_permutation(const char* name, const array& rows, int64_t n, const array& place,
                        const array& order) {
  const auto fits = [n](const array& a) {
    return a.ndim() == 1 && a.shape(0) == n && a.dtype() == mx::uint32;
  };
  if (rows.ndim() != 2 || !fits(place) || !fits(order))
    throw Error(Kind::usage, std::string("[") + name +
                                 "] the sizes do not fit: expected rows [., D] and a uint32 "
                                 "permutation of " +
                                 std::to_string(n) + " with its inverse, got " +
                                 std::to_string(place.size()) + " and " +
                                 std::to_string(order.size()) + ".");
}

}  // namespace

array combine_rows(const array& y, const array& weights, const array& place, const array& order) {
  expect_permutation("combine_rows", y, static_cast<int64_t>(weights.size()), place, order);
  if (weights.ndim() != 2 || weights.dtype() != mx::float32 ||
      y.shape(0) != static_cast<int>(weights.size()))
    throw Error(Kind::usage, "[combine_rows] expected float32 weights [T, k] for " +
                                 std::to_string(y.shape(0)) + " rows, got " +
                                 std::to_string(weights.size()) + ".");
  const int k = weights.shape(1);
  if (fused(y.dtype())) return CombineRows::of({y, place, order, weights}, k);
  return CombineRows(k).plain({y, place, order, weights})[0];
}

array spread_rows(const array& x, const array& place, const array& order) {
  const bool whole = x.ndim() == 2 && x.shape(0) > 0 && order.size() % x.shape(0) == 0;
  expect_permutation("spread_rows", x, whole ? static_cast<int64_t>(order.size()) : -1, place,
                     order);
  if (fused(x.dtype())) {
    const auto op = std::make_shared<SpreadRows>(false);
    const Arrays in{x, place, order};
    return array(op->output_shapes(in)[0], x.dtype(), op, in);
  }
  return SpreadRows(false).plain({x, place, order})[0];
}

}  // namespace lmxlab::kernels
#endif  // HWY_ONCE
