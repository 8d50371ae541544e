#include "lmxlab/core/recompute.h"

#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/put_rows.h"

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

Arrays joined(Arrays a, const Arrays& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
Arrays some_of(const Arrays& a, size_t from, size_t to) {
  return {a.begin() + static_cast<std::ptrdiff_t>(from),
          a.begin() + static_cast<std::ptrdiff_t>(to)};
}
mx::array after(const mx::array& x, const Arrays& others) {
  return others.empty() ? x : mx::depends({x}, others)[0];
}
// What comes before in the model waits for all of these gradients: otherwise MLX would leave the
// weights' to the end, and hold what they need until then.
Arrays all_at_once(Arrays gradients) {
  gradients[0] = after(gradients[0], some_of(gradients, 1, gradients.size()));
  return gradients;
}

// What a stage leaves behind beside its outputs.
struct Left {
  std::optional<mx::array> key, chosen;
  struct Said {
    Sums::Of of;
    int layer;
    size_t arrays;
  };
  std::vector<Said> sums = {};  // in order; their arrays are behind the outputs

  size_t arrays() const {
    size_t n = 0;
    for (const auto& s : sums) n += s.arrays;
    return n;
  }
};

// mx::custom_vjp differentiates by explicit inputs only, and gives a captured weight a gradient of
// zero. So the trainable parameters are inputs; the others are held, since the model may hold
// something else by the time of the backward pass.
class Part {
 public:
  Part(Stage stage, const std::vector<Entry>& parameters, size_t arrays, const Pass& pass)
      : stage_(std::move(stage)), pass_(pass), arrays_(arrays), collects_(pass.sums) {
    pass_.sums = nullptr;
    for (const auto& e : parameters) {
      const bool varies =
          e.param->trainable && mx::issubdtype(e.param->value.dtype(), mx::floating);
      (varies ? varying_ : fixed_).push_back(e);
    }
    held_ = values(fixed_);
  }
  Arrays parameters() const { return values(varying_); }
  size_t arrays() const { return arrays_; }

  /// @param in  the stage's arrays, then the trainable parameters
  /// @param first  the position of the arrays' first row, among those of the whole
  /// @return  the stage's outputs, then its sums
  Arrays run(const Arrays& in, int first, Left* left = nullptr) const {
    const Lend parameters(varying_, std::span(in).subspan(arrays_)), others(fixed_, held_);
    Pass pass = pass_;
    pass.first_row = first;
    std::vector<Sums> sums;
    if (collects_) pass.sums = &sums;
    auto out = stage_(some_of(in, 0, arrays_), pass);
    if (left) left->key = pass.key, left->chosen = pass.chosen, left->sums.clear();
    for (const auto& s : sums) {
      out.insert(out.end(), s.arrays.begin(), s.arrays.end());
      if (left) left->sums.push_back({s.of, s.layer, s.arrays.size()});
    }
    return out;
  }
  /// Gradients by the inputs.
  Arrays gradients(const Arrays& in, const Arrays& cotangents, int first) const {
    return mx::vjp([&](const Arrays& v) { return run(v, first); }, in, cotangents).second;
  }

 private:
  Stage stage_;
  Pass pass_;  // as it was before the stage
  size_t arrays_;
  bool collects_;
  std::vector<Entry> varying_, fixed_;
  Arrays held_;
};

using Forward = std::function<Arrays(const Arrays&, Left* left)>;
using Backward = std::function<Arrays(const Arrays& in, const Arrays& cotangents, const Left&)>;

Arrays with_backward(Arrays in, Pass& pass, Forward forward, Backward backward) {
  const auto left = std::make_shared<Left>();
  const auto run = [left, forward = std::move(forward)](const Arrays& v) {
    return forward(v, left.get());
  };
  const auto vjp = [left, backward = std::move(backward)](const Arrays& primals,
                                                          const Arrays& cotangents, const Arrays&) {
    return backward(primals, cotangents, *left);
  };
  auto out = mx::custom_vjp(run, vjp)(in);
  pass.key = left->key;
  pass.chosen = std::exchange(left->chosen, std::nullopt);
  const size_t n = out.size() - left->arrays();
  size_t at = n;
  for (const auto& s : left->sums) {
    pass.sums->push_back({s.of, s.layer, some_of(out, at, at + s.arrays)});
    at += s.arrays;
  }
  return some_of(out, 0, n);
}

// Rows of arrays [B, L, ...], which lie as [B L, ...].
struct Rows {
  int all, lot;

  mx::array flat(const mx::array& a) const { return mx::reshape(a, {all, a.shape(-1)}); }
  /// Some rows of a flat array, as [1, rows, ...].
  mx::array cut(const mx::array& a, int first) const {
    const int last = std::min(all, first + lot), width = a.shape(-1);
    return mx::reshape(mx::slice(a, {first, 0}, {last, width}), {1, last - first, width});
  }
  Arrays cut(const Arrays& a, int first) const {
    Arrays out;
    for (const auto& x : a) out.push_back(cut(x, first));
    return out;
  }
  mx::array put(const std::optional<mx::array>& to, const mx::array& part, int first) const {
    const int width = part.shape(-1);
    return kernels::put_rows(to, mx::reshape(part, {-1, width}), first, all);
  }
};

Arrays forward_by_rows(const Part& part, const Rows& rows, const Arrays& in, bool passes,
                       Left* left) {
  const size_t n = part.arrays();
  const auto parameters = some_of(in, n, in.size());
  Arrays flat, out, sums;
  for (size_t i = 0; i < n; ++i) flat.push_back(rows.flat(in[i]));
  for (int first = 0; first < rows.all; first += rows.lot) {
    auto lot = rows.cut(flat, first);
    lot[0] = after(lot[0], out);  // not before the last one is done
    auto got = part.run(joined(lot, parameters), first, left);
    for (size_t i = 0, at = got.size() - left->arrays(); i < left->arrays(); ++i) {
      if (first == 0)
        sums.push_back(got[at + i]);
      else
        sums[i] = mx::add(sums[i], got[at + i]);
    }
    got = some_of(got, 0, got.size() - left->arrays());
    if (passes) got.erase(got.begin());
    for (size_t j = 0; j < got.size(); ++j) {
      if (first == 0)
        out.push_back(rows.put(std::nullopt, got[j], first));
      else
        out[j] = rows.put(out[j], got[j], first);
    }
  }
  for (auto& o : out) o = mx::reshape(o, {in[0].shape(0), in[0].shape(1), o.shape(-1)});
  if (passes) out.insert(out.begin(), in[0]);
  return joined(out, sums);
}

Arrays backward_by_rows(const Part& part, const Rows& rows, const Arrays& in,
                        const Arrays& cotangents, const Left& left) {
  const size_t n = part.arrays(), outputs = cotangents.size() - left.arrays();
  const auto parameters = some_of(in, n, in.size());
  const auto of_sums = some_of(cotangents, outputs, cotangents.size());
  const auto whole = rows.flat(after(in[0], cotangents));
  Arrays gradients{rows.flat(cotangents[0])}, others, sums;
  for (size_t i = 1; i < n; ++i) gradients.push_back(rows.flat(in[i]));
  for (size_t j = 1; j < outputs; ++j) others.push_back(rows.flat(cotangents[j]));
  for (int first = 0; first < rows.all; first += rows.lot) {
    // Of what the lots before wrote over, this one's rows are still as they were.
    auto lot = rows.cut(gradients, first);
    const auto slopes = joined(joined({lot[0]}, rows.cut(others, first)), of_sums);
    lot[0] = after(rows.cut(whole, first), joined(gradients, sums));
    const auto got = part.gradients(joined(lot, parameters), slopes, first);
    for (size_t i = n; i < got.size(); ++i) {
      if (first == 0)
        sums.push_back(got[i]);
      else
        sums[i - n] = mx::add(sums[i - n], got[i]);
    }
    // All of the lot is computed before any of it is written over.
    const auto done = mx::depends(some_of(got, 0, n), joined(sums, some_of(got, 0, n)));
    for (size_t i = 0; i < n; ++i) gradients[i] = rows.put(gradients[i], done[i], first);
  }
  for (size_t i = 0; i < n; ++i) gradients[i] = mx::reshape(gradients[i], in[i].shape());
  return all_at_once(joined(gradients, sums));
}

}  // namespace

Arrays recomputed(const Stage& stage, const std::vector<Entry>& parameters, const Arrays& in,
                  Pass& pass) {
  const auto part = std::make_shared<const Part>(stage, parameters, in.size(), pass);
  const auto inputs = joined(in, part->parameters());
  if (inputs.empty()) return stage(in, pass);  // frozen, and the first: there is no gradient
  return with_backward(
      inputs, pass, [part](const Arrays& v, Left* left) { return part->run(v, 0, left); },
      [part](Arrays v, const Arrays& cotangents, const Left&) {
        v[0] = after(v[0], cotangents);  // not before its turn
        return all_at_once(part->gradients(v, cotangents, 0));
      });
}

Arrays recomputed_by_rows(const Stage& stage, const std::vector<Entry>& parameters,
                          const Arrays& in, Pass& pass, bool passes) {
  const int all = static_cast<int>(in[0].size()) / std::max(1, in[0].shape(-1));
  const Rows rows{all, (all / kMostLots + kRows) / kRows * kRows};
  // Ordinary ops draw a mask for a shape, not for a part of it.
  const bool whole_mask = pass.key && pass.dropout > 0 && !kernels::fused(in[0].dtype());
  if (rows.lot >= rows.all || whole_mask) return recomputed(stage, parameters, in, pass);
  const auto part = std::make_shared<const Part>(stage, parameters, in.size(), pass);
  return with_backward(
      joined(in, part->parameters()), pass,
      [=](const Arrays& v, Left* left) { return forward_by_rows(*part, rows, v, passes, left); },
      [part, rows](const Arrays& v, const Arrays& cotangents, const Left& left) {
        return backward_by_rows(*part, rows, v, cotangents, left);
      });
}

}  // namespace lmxlab::core
