#include "lmxlab/kernels/cross_entropy.h"

#include <limits>
#include <string>
#include <vector>

#include "lmxlab/kernels/cross_entropy_tiles.h"
#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/rehearsal.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

class CrossEntropyGrad : public Op {  // logits, targets, lse, slopes of nll and lse -> dlogits
 public:
  explicit CrossEntropyGrad(const CrossEntropyOptions& options) : options_(options) {}
  const char* name() const override { return "lmxlab::CrossEntropyGrad"; }
  bool same(const Op& other) const override {
    return options_ == static_cast<const CrossEntropyGrad&>(other).options_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }

  Arrays plain(const Arrays& in) const override {
    const auto f = [&](const Arrays& v) -> Arrays {
      const auto c = plain::cross_entropy(v[0], in[1], options_);
      return {c.nll, c.lse};
    };
    return mx::vjp(f, {in[0]}, {in[3], in[4]}).second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    // The forward pass may still be queued, and hold the logits until it has run. They are large:
    // waiting for it is cheaper than memory for a second copy.
    if (!in[0].is_donatable()) wait_for_stream(stream());
    give(out[0], in[0]);
    const int64_t n = static_cast<int64_t>(in[1].size()), vocabulary = in[0].shape(-1);
    task([n, vocabulary, logits = Dense(in[0]), targets = Dense(in[1]), lse = Dense(in[2]),
          g = Dense(in[3]), more = Dense(in[4]), to = out[0].data<void>(), o = options_,
          type = type_of(in[0].dtype())] {
      const Tile all{const_cast<void*>(logits.read()), type, n, vocabulary, vocabulary, 0};
      const TileGradient k{static_cast<const int32_t*>(targets.read()),
                           static_cast<const float*>(lse.read()),
                           static_cast<const float*>(g.read()),
                           static_cast<const float*>(more.read()),
                           vocabulary,
                           o,
                           {}};
      tile_gradient(all, k, to, type, vocabulary);
    });
  }

 private:
  CrossEntropyOptions options_;
};

class CrossEntropyOp : public Op {  // logits, targets -> nll, lse
 public:
  explicit CrossEntropyOp(const CrossEntropyOptions& options) : options_(options) {}
  const char* name() const override { return "lmxlab::CrossEntropy"; }
  bool same(const Op& other) const override {
    return options_ == static_cast<const CrossEntropyOp&>(other).options_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {in[1].shape(), in[1].shape()};
  }
  Arrays plain(const Arrays& in) const override {
    const auto c = plain::cross_entropy(in[0], in[1], options_);
    return {c.nll, c.lse};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0]), give(out[1]);
    const int64_t n = static_cast<int64_t>(in[1].size()), vocabulary = in[0].shape(-1);
    task([n, vocabulary, logits = Dense(in[0]), targets = Dense(in[1]), nll = out[0].data<float>(),
          lse = out[1].data<float>(), o = options_, type = type_of(in[0].dtype())] {
      const Tile all{const_cast<void*>(logits.read()), type, n, vocabulary, vocabulary, 0};
      const auto* ids = static_cast<const int32_t*>(targets.read());
      std::vector<LogitSums> sums(static_cast<size_t>(n));
      add_tile(all, ids, o.label_smoothing != 0, sums.data());
      finish(sums.data(), ids, n, vocabulary, o, nll, lse);
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    Arrays out;
    for (const int i : argnums) {
      out.push_back(i == 0 ? output_like(in[0], std::make_shared<CrossEntropyGrad>(options_),
                                         {in[0], in[1], outputs[1], cotangents[0], cotangents[1]})
                           : mx::zeros_like(in[1]));
    }
    return out;
  }

 private:
  CrossEntropyOptions options_;
};

}  // namespace

CrossEntropy cross_entropy(const array& logits, const array& targets,
                           const CrossEntropyOptions& options) {
  const auto ids = mx::astype(targets, mx::int32);
  auto rows = logits.shape();
  if (!rows.empty()) rows.pop_back();
  if (logits.ndim() == 0 || logits.shape(-1) == 0 || rows != targets.shape()) {
    throw Error(Kind::usage, "[cross_entropy] expected logits [..., V] and targets [...]");
  }
  if (!fused(logits.dtype())) return plain::cross_entropy(logits, ids, options);
  const auto out = array::make_arrays({rows, rows}, {mx::float32, mx::float32},
                                      std::make_shared<CrossEntropyOp>(options), {logits, ids});
  return {out[0], out[1]};
}

CrossEntropy plain::cross_entropy(const array& logits, const array& targets,
                                  const CrossEntropyOptions& o) {
  const auto z = mx::astype(logits, mx::float32);
  const auto lse = mx::logsumexp(z, -1);
  const auto ids = mx::astype(targets, mx::int32), zero = array(0);
  const auto inside =
      mx::logical_and(mx::greater_equal(ids, zero), mx::less(ids, array(logits.shape(-1))));
  const auto at = mx::expand_dims(mx::where(inside, ids, zero), -1);
  auto nll = lse - array(1 - o.label_smoothing) * mx::squeeze(mx::take_along_axis(z, at, -1), -1);
  if (o.label_smoothing != 0) nll = nll - array(o.label_smoothing) * mx::mean(z, -1);
  nll = mx::where(inside, nll, array(std::numeric_limits<float>::quiet_NaN()));
  return {mx::where(mx::equal(ids, array(o.ignore_index)), array(0.0f), nll), lse};
}

}  // namespace lmxlab::kernels
