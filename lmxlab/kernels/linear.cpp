#include "lmxlab/kernels/linear.h"

#include <mlx/mlx.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/gemm.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/panels.h"
#include "lmxlab/kernels/reduce.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

// An operand as the engine reads it: where it lies, or a copy if the engine would crawl.
class Operand {
 public:
  Operand(const array& x, bool transposed) : type_(type_of(x.dtype())), transposed_(transposed) {
    const auto n = static_cast<int>(x.ndim());
    row_ = x.strides(n - 2), column_ = x.strides(n - 1), batch_ = n > 2 ? x.strides(n - 3) : 0;
    const auto& s = x.strides();
    const bool ahead = std::all_of(s.begin(), s.end(), [](int64_t stride) { return stride >= 0; });
    if (ahead && n <= 3 && (row_ == 1 || column_ == 1)) {
      data_ = x.data<char>();
    } else {
      copy_.emplace(x);
      row_ = x.shape(-1), column_ = 1, batch_ = row_ * x.shape(-2);
    }
  }
  int64_t batch() const { return batch_; }
  /// Once, in the task.
  MatrixView view() const {
    const MatrixView v{copy_ ? copy_->read() : data_, type_, row_, column_};
    return transposed_ ? v.transposed() : v;
  }

 private:
  const void* data_ = nullptr;
  std::optional<Dense> copy_;
  Type type_;
  bool transposed_;
  int64_t row_, column_, batch_;
};

mx::Dtype common(const array& a, const array& b) {
  return a.dtype() == b.dtype() || b.dtype() == mx::float32 ? a.dtype() : mx::float32;
}

// op(a) op(b) [m, n] in any dtype, and where given a bias added to each row: a, b, (bias).
class Product : public Op {
 public:
  Product(bool ta, bool tb, mx::Dtype out) : ta_(ta), tb_(tb), out_(out) {}
  const char* name() const override { return "lmxlab::Product"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const Product&>(other);
    return ta_ == op.ta_ && tb_ == op.tb_ && out_ == op.out_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {shape(in[0], in[1])}; }

  mx::Shape shape(const array& a, const array& b) const {
    auto s = a.shape();
    s[s.size() - 2] = a.shape(ta_ ? -1 : -2);
    s[s.size() - 1] = b.shape(tb_ ? -2 : -1);
    return s;
  }

  Arrays plain(const Arrays& in) const override {
    const auto t = common(in[0], in[1]);
    const auto a = mx::astype(ta_ ? mx::swapaxes(in[0], -1, -2) : in[0], t);
    const auto b = mx::astype(tb_ ? mx::swapaxes(in[1], -1, -2) : in[1], t);
    auto y = mx::matmul(a, b);
    if (in.size() > 2) y = mx::add(y, mx::astype(in[2], t));
    return {mx::astype(y, out_)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& y = out[0];
    give(y);
    const auto& a = in[0];
    const auto& b = in[1];
    const int64_t m = y.shape(-2), n = y.shape(-1), k = a.shape(ta_ ? -2 : -1);
    const int64_t batch = m * n == 0 ? 0 : static_cast<int64_t>(y.size()) / (m * n);
    if (batch == 0) return;
    const MatrixOut to{y.data<char>(), type_of(out_), n};
    const void* bias = in.size() > 2 ? in[2].data<char>() : nullptr;
    const bool wide = bias && in[2].dtype() == mx::float32;
    const Operand oa(a, ta_), ob(b, tb_);
    if (rehearsing())
      expect_workspace(
          static_cast<size_t>(gemm_workspace(bias ? 1 : batch, m, n, k, oa.view(), ob.view(), to)));
    task([=] {
      const MatrixView va = oa.view(), vb = ob.view();
      if (!bias) return gemm_batched(batch, {oa.batch(), ob.batch(), m * n}, m, n, k, va, vb, to);
      // The rows begin as the bias, which the engine adds to.
      parallel_for(m, std::max<int64_t>(1, 16384 / n), [&](int64_t first, int64_t last) {
        const auto bytes = static_cast<size_t>(n * size_of(to.type));
        const MatrixOut rows = panels::at(to, first, 0);
        if (wide)
          return panels::write_tile(static_cast<const float*>(bias), 0, last - first, n, rows,
                                    false);
        for (int64_t i = 0; i < last - first; i++) {
          std::copy_n(static_cast<const char*>(bias), bytes,
                      static_cast<char*>(rows.data) + static_cast<size_t>(i) * bytes);
        }
      });
      gemm(m, n, k, va, vb, to, true);
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override;

 private:
  bool ta_, tb_;
  mx::Dtype out_;
};

array product(const array& a, bool ta, const array& b, bool tb, mx::Dtype dtype,
              const std::optional<array>& bias = std::nullopt) {
  auto op = std::make_shared<Product>(ta, tb, dtype);
  auto shape = op->shape(a, b);
  Arrays in{a, b};
  // A float32 bias stays one, so that its gradient is not rounded.
  if (bias) in.push_back(dense(bias->dtype() == mx::float32 ? *bias : mx::astype(*bias, dtype)));
  return array(std::move(shape), dtype, std::move(op), std::move(in));
}

Arrays Product::vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
                    const Arrays&) {
  const auto& g = cotangents[0];
  Arrays out;
  for (const int i : argnums) {
    if (i == 0) {  // c = a b: da = g b', and its transpose where a came transposed
      out.push_back(ta_ ? product(in[1], tb_, g, true, in[0].dtype())
                        : product(g, false, in[1], !tb_, in[0].dtype()));
    } else if (i == 1) {
      out.push_back(tb_ ? product(g, true, in[0], ta_, in[1].dtype())
                        : product(in[0], !ta_, g, false, in[1].dtype()));
    } else {
      out.push_back(sum_rows(g, in[2].dtype()));
    }
  }
  return out;
}

}  // namespace

array linear(const array& x, const array& w, const std::optional<array>& bias) {
  if (x.ndim() == 0 || w.ndim() != 2 || x.shape(-1) != w.shape(1) ||
      (bias && (bias->ndim() != 1 || bias->shape(0) != w.shape(0)))) {
    throw Error(Kind::usage,
                "[linear] the sizes do not fit: expected [..., in], [out, in] and "
                "[out], got " +
                    std::to_string(x.ndim() ? x.shape(-1) : 0) + " columns of x and a weight of " +
                    std::to_string(w.size()) + " elements.");
  }
  if (!fused(x.dtype()) || !has_type(w.dtype())) {
    const auto y = mx::matmul(x, mx::transpose(mx::astype(w, x.dtype())));
    return bias ? mx::add(y, mx::astype(*bias, x.dtype())) : y;
  }
  const bool flat = x.ndim() == 2;
  const int rows =
      x.size() == 0 ? 0 : static_cast<int>(x.size() / static_cast<size_t>(x.shape(-1)));
  auto y = product(flat ? x : mx::reshape(x, {rows, x.shape(-1)}), false, w, true, x.dtype(), bias);
  if (flat) return y;
  auto shape = x.shape();
  shape.back() = w.shape(0);
  return mx::reshape(y, std::move(shape));
}

array matmul(const array& a, const array& b) {
  const bool alike = a.ndim() >= 2 && a.ndim() == b.ndim() && a.shape(-1) == b.shape(-2) &&
                     std::equal(a.shape().begin(), a.shape().end() - 2, b.shape().begin());
  // More than one batch axis may have no common stride.
  if (!alike || a.ndim() > 3 || !fused(a.dtype()) || !has_type(b.dtype())) return mx::matmul(a, b);
  return product(a, false, b, false, mx::promote_types(a.dtype(), b.dtype()));
}

}  // namespace lmxlab::kernels
