#include "lmxlab/core/recompute.h"

#include "lmxlab/kernels/fused.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>
#include <mlx/utils.h>

#include <algorithm>
#include <memory>
#include <utility>

namespace lmxlab::core {
namespace {

// Positions of a lot: a multiple of what dropout's masks and the matrix engine count in; at most so
// many lots, since each is a piece of the graph.
constexpr int kRows = 1024, kMostLots = 64;

using Function = std::function<Arrays(const Arrays&)>;

// mx::custom_vjp differentiates by explicit inputs only, and gives a captured weight a gradient of
// zero. So the trainable parameters are inputs; the others are held, since the model may hold
// something else by the time of the backward pass.
class Part {
 public:
  Part(Stage stage, const std::vector<Entry>& parameters, const Pass& pass)
      : stage_(std::move(stage)), pass_(pass) {
    for (const auto& e : parameters) {
      const bool varies =
          e.param->trainable && mx::issubdtype(e.param->value.dtype(), mx::floating);
      (varies ? varying_ : fixed_).push_back(e);
    }
    held_ = values(fixed_);
  }
  /// x, then the trainable parameters.
  Arrays inputs(const mx::array& x) const {
    Arrays in{x};
    const auto parameters = values(varying_);
    in.insert(in.end(), parameters.begin(), parameters.end());
    return in;
  }
  /// @param first  the position of x's first row, among those of the whole.
  mx::array run(const Arrays& in, int first, std::optional<mx::array>* key = nullptr) const {
    const Lend parameters(varying_, std::span(in).subspan(1)), others(fixed_, held_);
    Pass pass = pass_;
    pass.first_row = first;
    auto y = stage_(in[0], pass);
    if (key) *key = pass.key;
    return y;
  }
  /// Gradients by the inputs.
  Arrays gradients(const Arrays& in, const mx::array& cotangent, int first) const {
    return mx::vjp([&](const Arrays& v) -> Arrays { return {run(v, first)}; }, in, {cotangent})
        .second;
  }

 private:
  Stage stage_;
  Pass pass_;  // as it was before the stage
  std::vector<Entry> varying_, fixed_;
  Arrays held_;
};

mx::array after(const mx::array& x, const Arrays& others) {
  return others.empty() ? x : mx::depends({x}, others)[0];
}

// What comes before in the model waits for all of these gradients: otherwise MLX would leave the
// weights' to the end, and hold what they need until then.
Arrays all_at_once(Arrays gradients) {
  gradients[0] = after(gradients[0], {gradients.begin() + 1, gradients.end()});
  return gradients;
}

// @param backward  of the primals and the cotangent.
mx::array with_backward(const std::shared_ptr<const Part>& part, const mx::array& x, Pass& pass,
                        std::function<Arrays(const Arrays&, const mx::array&)> backward) {
  const auto key = std::make_shared<std::optional<mx::array>>();
  const auto forward = [part, key](const Arrays& in) -> Arrays {
    return {part->run(in, 0, key.get())};
  };
  const auto vjp = [backward = std::move(backward)](const Arrays& primals, const Arrays& cotangents,
                                                    const Arrays&) {
    return backward(primals, cotangents[0]);
  };
  const auto y = mx::custom_vjp(forward, vjp)(part->inputs(x))[0];
  pass.key = *key;
  return y;
}

}  // namespace

mx::array recomputed(const Stage& stage, const std::vector<Entry>& parameters, const mx::array& x,
                     Pass& pass) {
  const auto part = std::make_shared<const Part>(stage, parameters, pass);
  return with_backward(part, x, pass, [part](Arrays in, const mx::array& cotangent) {
    in[0] = after(in[0], {cotangent});  // not before its turn
    return all_at_once(part->gradients(in, cotangent, 0));
  });
}

mx::array recomputed_by_rows(const Stage& stage, const std::vector<Entry>& parameters,
                             const mx::array& x, Pass& pass) {
  const auto part = std::make_shared<const Part>(stage, parameters, pass);
  const int width = x.shape(-1), rows = static_cast<int>(x.size()) / std::max(1, width);
  int lot = (rows / kMostLots + kRows) / kRows * kRows;
  // Ordinary ops draw a mask for a shape, not for a part of it.
  if (pass.key && pass.dropout > 0 && !kernels::fused(x.dtype())) lot = rows;
  if (lot >= rows) return recomputed(stage, parameters, x, pass);

  return with_backward(part, x, pass, [=](Arrays in, const mx::array& cotangent) {
    const auto whole = mx::reshape(after(in[0], {cotangent}), {rows, width});
    auto gradient = mx::reshape(cotangent, {rows, width});
    Arrays sums;
    for (int first = 0; first < rows; first += lot) {
      const int last = std::min(rows, first + lot);
      const mx::Shape from{first, 0}, to{last, width}, shape{1, last - first, width};
      const auto some = [&](const mx::array& a) {
        return mx::reshape(mx::slice(a, from, to), shape);
      };
      Arrays waits_for = sums;
      waits_for.push_back(gradient);
      in[0] = after(some(whole), waits_for);
      auto got = part->gradients(in, some(gradient), first);
      for (size_t i = 1; i < got.size(); ++i) {
        if (first == 0)
          sums.push_back(got[i]);
        else
          sums[i - 1] = mx::add(sums[i - 1], got[i]);
      }
      // In place: nobody reads the lot's cotangent any more.
      const auto mine = mx::reshape(after(got[0], sums), {last - first, width});
      gradient = mx::slice_update(gradient, mine, from, to);
    }
    Arrays out{mx::reshape(gradient, cotangent.shape())};
    out.insert(out.end(), sums.begin(), sums.end());
    return all_at_once(std::move(out));
  });
}

}  // namespace lmxlab::core
