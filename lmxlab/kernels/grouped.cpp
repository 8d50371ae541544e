#include "lmxlab/kernels/grouped.h"

#include <mlx/mlx.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/gemm.h"
#include "lmxlab/kernels/one_order.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/panels.h"
#include "lmxlab/kernels/quantized_operand.h"
#include "lmxlab/kernels/quantized_parts.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

constexpr int64_t kPieceRows = 32;  // of a product, at least, that another thread takes
constexpr int64_t kPiecesEach = 4;  // for a thread
constexpr int64_t kUnpackedRows = 32;

// Rows next to each other that meet the same matrix.
struct Run {
  int64_t expert, first, last;
  int64_t rows() const { return last - first; }
};

// Without rows of no matrix, whose id is the number of experts.
std::vector<Run> runs_of(const uint32_t* ids, int64_t n, int64_t experts, bool absent) {
  std::vector<Run> runs;
  for (int64_t i = 0; i < n; i++) {
    const int64_t e = ids[i];
    if (absent && e == experts) continue;
    if (e >= experts)
      throw Error(Kind::usage, "[grouped_linear] expert " + std::to_string(e) + " of " +
                                   std::to_string(experts) + ".");
    if (runs.empty() || runs.back().expert != e || runs.back().last != i) runs.push_back({e, i, i});
    runs.back().last = i + 1;
  }
  return runs;
}

// Zeros between the runs of n rows.
void clear_between(const std::vector<Run>& runs, int64_t n, char* rows, size_t row_bytes) {
  int64_t done = 0;
  const auto clear = [&](int64_t to) {
    std::memset(rows + static_cast<size_t>(done) * row_bytes, 0,
                static_cast<size_t>(to - done) * row_bytes);
  };
  for (const auto& run : runs) clear(run.first), done = run.last;
  clear(n);
}

// The same with ordinary ops: an expert for every row, and zeros where there is none.
array some_expert(const array& ids, int experts, bool absent) {
  return absent ? mx::minimum(ids, array(static_cast<uint32_t>(experts - 1))) : ids;
}
array without_absent(const array& y, const array& ids, int experts, bool absent) {
  if (!absent) return y;
  const auto there = mx::expand_dims(mx::less(ids, array(static_cast<uint32_t>(experts))), 1);
  return mx::where(there, y, array(0.0f, y.dtype()));
}

// Rows of a product at most, so that the memory it takes does not hang on how tokens choose: a
// little more than an expert has where all have as many.
int64_t most_rows(int64_t n, int64_t experts) {
  return std::min(n, std::max<int64_t>(64, 5 * n / (4 * experts)));
}

// f(run, begin, end) over the rows of each, `most` at a time, or over `height` rows of what each
// makes. Many pieces share the pool, each on one thread; few go one after another, and f is cut
// over it.
template <class F>
void over_runs(const std::vector<Run>& runs, int64_t all, int64_t most, int64_t height, F&& f) {
  struct Piece {
    const Run* run;
    int64_t begin, end;
  };
  std::vector<Piece> pieces;
  const int64_t share = std::max<int64_t>(1, all / (kPiecesEach * threads()));
  const auto cut = [&](bool shared) {
    pieces.clear();
    for (const auto& run : runs) {
      const int64_t rows = height > 0 ? height : run.rows();
      int64_t n = height > 0 ? 1 : (rows + most - 1) / most;
      if (shared)
        n = std::max(n, std::min(run.rows() / share, std::max<int64_t>(1, rows / kPieceRows)));
      for (int64_t i = 0; i < n; i++) pieces.push_back({&run, rows * i / n, rows * (i + 1) / n});
    }
  };
  cut(true);
  if (static_cast<int64_t>(pieces.size()) >= 2 * threads())
    return parallel_parts(static_cast<int64_t>(pieces.size()),
                          [&](int64_t i) { f(*pieces[i].run, pieces[i].begin, pieces[i].end); });
  cut(false);
  for (const auto& piece : pieces) f(*piece.run, piece.begin, piece.end);
}

// Of n rows in all, those of a piece, at most.
int64_t most_of_a_piece(int64_t n) {
  return std::min(n, std::max(2 * n / (kPiecesEach * threads()), 2 * kPieceRows));
}

// The largest f(i) for i to n, or nearly: what a run takes depends on its rows, and not evenly.
template <class F>
size_t most_of(int64_t n, F&& f) {
  size_t most = 0;
  for (int64_t i = n, step = std::max<int64_t>(16, n / 1024); i > 0; i -= step)
    most = std::max<size_t>(most, f(i));
  return most;
}

const char* at(const void* data, int64_t elements, Type type) {
  return static_cast<const char*>(data) + elements * size_of(type);
}
char* at(void* data, int64_t elements, Type type) {
  return static_cast<char*>(data) + elements * size_of(type);
}

mx::Dtype common(const array& a, const array& b) {
  return a.dtype() == b.dtype() ? a.dtype() : mx::float32;
}

array gradient_of_weight(const array& g, const array& x, const array& ids, int experts, bool sorted,
                         bool absent, mx::Dtype dtype);

// x [n, k], w [E, out, in], ids [n] -> x w_e^T, or with `across` x w_e
class GroupedProduct : public Op {
 public:
  GroupedProduct(bool across, bool sorted, bool absent)
      : across_(across), sorted_(sorted), absent_(absent) {}
  const char* name() const override { return "lmxlab::GroupedProduct"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const GroupedProduct&>(other);
    return across_ == op.across_ && sorted_ == op.sorted_ && absent_ == op.absent_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {{in[0].shape(0), in[1].shape(across_ ? 2 : 1)}};
  }
  static array of(const array& x, const array& w, const array& ids, bool across, bool sorted,
                  bool absent) {
    const auto op = std::make_shared<GroupedProduct>(across, sorted, absent);
    return array(op->output_shapes({x, w})[0], x.dtype(), op, {x, w, ids});
  }

  Arrays plain(const Arrays& in) const override {
    const auto t = common(in[0], in[1]);
    const auto w = mx::astype(across_ ? in[1] : mx::swapaxes(in[1], -1, -2), t);
    const int experts = w.shape(0);
    const auto y = mx::gather_mm(mx::expand_dims(mx::astype(in[0], t), 1), w, std::nullopt,
                                 some_expert(in[2], experts, absent_), sorted_);
    return {without_absent(mx::astype(mx::squeeze(y, 1), in[0].dtype()), in[2], experts, absent_)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& y = out[0];
    give(y);
    const auto &x = in[0], &w = in[1];
    const int64_t n = x.shape(0), experts = w.shape(0), rows = w.shape(1), columns = w.shape(2);
    const int64_t k = across_ ? rows : columns, wide = across_ ? columns : rows;
    const int64_t most = most_rows(n, experts);
    const Type tx = type_of(x.dtype()), tw = type_of(w.dtype());
    if (n == 0 || wide == 0) return;
    const auto view = [=, across = across_](const char* data) {
      const MatrixView v{data, tw, columns, 1};
      return across ? v : v.transposed();
    };
    const Dense dense_x(x), dense_w(w), dense_ids(in[2]);  // copies are there before a workspace
    if (rehearsing()) {
      const MatrixView va{x.data<char>(), tx, k, 1}, vb = view(w.data<char>());
      const MatrixOut c{y.data<char>(), tx, wide};
      expect_workspace(most_of(most, [&](int64_t rows_of_run) {
        return gemm_workspace(1, rows_of_run, wide, k, va, vb, c);
      }));
      expect_workspace(most_of(std::min(most, most_of_a_piece(n)), [&](int64_t rows_of_piece) {
        return gemm_workspace(2 * threads(), rows_of_piece, wide, k, va, vb, c);
      }));
    }
    task([=, x = dense_x, w = dense_w, ids = dense_ids, to = y.data<char>(), absent = absent_] {
      const auto runs = runs_of(static_cast<const uint32_t*>(ids.read()), n, experts, absent);
      if (absent) clear_between(runs, n, to, static_cast<size_t>(wide) * size_of(tx));
      const void *const from = x.read(), *const weights = w.read();
      over_runs(runs, n, most, 0, [&](const Run& run, int64_t begin, int64_t end) {
        // The matrix of a few rows is read as it lies: to pack it would cost more than its
        // product.
        const bool few = end - begin <= kUnpackedRows && !one_order();
        const int64_t step = few ? kFewRows : end - begin;
        for (int64_t r = run.first + begin; r < run.first + end; r += step)
          gemm(std::min(step, run.first + end - r), wide, k, {at(from, r * k, tx), tx, k, 1},
               view(at(weights, run.expert * rows * columns, tw)),
               {at(to, r * wide, tx), tx, wide});
      });
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    const auto& g = cotangents[0];
    Arrays out;
    for (const int i : argnums) {
      if (i == 0)
        out.push_back(of(g, in[1], in[2], !across_, sorted_, absent_));
      else if (i == 1)
        out.push_back(gradient_of_weight(across_ ? in[0] : g, across_ ? g : in[0], in[2],
                                         in[1].shape(0), sorted_, absent_, in[1].dtype()));
      else
        out.push_back(mx::zeros_like(in[2]));
    }
    return out;
  }

 private:
  bool across_, sorted_, absent_;
};

// g [n, out], x [n, in], ids [n] -> [E, out, in]: the sum of g_i x_i^T over each expert's rows
class GroupedGradient : public Op {
 public:
  GroupedGradient(int experts, bool sorted, bool absent, mx::Dtype dtype)
      : experts_(experts), sorted_(sorted), absent_(absent), dtype_(dtype) {}
  const char* name() const override { return "lmxlab::GroupedGradient"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const GroupedGradient&>(other);
    return experts_ == op.experts_ && sorted_ == op.sorted_ && absent_ == op.absent_ &&
           dtype_ == op.dtype_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {{experts_, in[0].shape(1), in[1].shape(1)}};
  }

  Arrays plain(const Arrays& in) const override {
    const auto t = common(in[0], in[1]);
    const auto mine = mx::equal(mx::reshape(mx::arange(experts_, mx::uint32), {experts_, 1, 1}),
                                mx::reshape(in[2], {1, 1, -1}));
    const auto g = mx::multiply(mx::transpose(mx::astype(in[0], t)), mx::astype(mine, t));
    return {mx::astype(mx::matmul(g, mx::astype(in[1], t)), dtype_)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& dw = out[0];
    give(dw);
    const auto &g = in[0], &x = in[1];
    const int64_t n = g.shape(0), rows = g.shape(1), columns = x.shape(1);
    const Type tg = type_of(g.dtype()), tx = type_of(x.dtype()), t = type_of(dtype_);
    const Dense dense_g(g), dense_x(x), dense_ids(in[2]);
    if (rehearsing()) {
      const MatrixView va{g.data<char>(), tg, 1, rows}, vb{x.data<char>(), tx, columns, 1};
      const MatrixOut c{dw.data<char>(), t, columns};
      expect_workspace(most_of(n, [&](int64_t deep) {
        return std::max(gemm_workspace(1, rows, columns, deep, va, vb, c),
                        gemm_workspace(2 * threads(), rows, columns, deep, va, vb, c));
      }));
    }
    task([=, g = dense_g, x = dense_x, ids = dense_ids, to = dw.data<char>(), experts = experts_,
          absent = absent_] {
      const auto runs = runs_of(static_cast<const uint32_t*>(ids.read()), n, experts, absent);
      const void *const from = g.read(), *const inner = x.read();
      const int64_t size = rows * columns;
      std::vector<int> met(static_cast<size_t>(experts), 0);
      for (const auto& run : runs) met[static_cast<size_t>(run.expert)]++;
      parallel_for(experts, 1, [&](int64_t a, int64_t b) {
        for (int64_t e = a; e < b; e++)
          if (met[static_cast<size_t>(e)] == 0)
            std::memset(at(to, e * size, t), 0, static_cast<size_t>(size * size_of(t)));
      });
      const auto product = [&](const Run& run, int64_t begin, int64_t end, bool add) {
        gemm(end - begin, columns, run.rows(),
             {at(from, run.first * rows + begin, tg), tg, 1, rows},
             {at(inner, run.first * columns, tx), tx, columns, 1},
             {at(to, run.expert * size + begin * columns, t), t, columns}, add);
      };
      // An expert of several runs gets one after another.
      if (std::all_of(met.begin(), met.end(), [](int m) { return m < 2; })) {
        over_runs(runs, n, n, rows, [&](const Run& run, int64_t begin, int64_t end) {
          product(run, begin, end, false);
        });
        return;
      }
      std::fill(met.begin(), met.end(), 0);
      for (const auto& run : runs)
        product(run, 0, rows, met[static_cast<size_t>(run.expert)]++ > 0);
    });
  }

 private:
  int experts_;
  bool sorted_, absent_;
  mx::Dtype dtype_;
};

array gradient_of_weight(const array& g, const array& x, const array& ids, int experts, bool sorted,
                         bool absent, mx::Dtype dtype) {
  const auto op = std::make_shared<GroupedGradient>(experts, sorted, absent, dtype);
  return array(op->output_shapes({g, x})[0], dtype, op, {g, x, ids});
}

// x [n, k], ids [n], packed w [E out, in] -> x w_e^T, or with `across` x w_e
class GroupedQuantized : public Op {
 public:
  GroupedQuantized(const QuantSpec& spec, int experts, bool across, bool sorted, bool absent,
                   Activations activations)
      : spec_(spec),
        experts_(experts),
        across_(across),
        sorted_(sorted),
        absent_(absent),
        activations_(activations) {}
  const char* name() const override { return "lmxlab::GroupedQuantized"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const GroupedQuantized&>(other);
    return spec_ == op.spec_ && experts_ == op.experts_ && across_ == op.across_ &&
           sorted_ == op.sorted_ && absent_ == op.absent_ && activations_ == op.activations_;
  }
  int rows() const { return spec_.out / experts_; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {{in[0].shape(0), across_ ? spec_.in : rows()}};
  }
  /// The same op, or its transpose, of other inputs.
  array of(Arrays in, bool across) const {
    const auto op =
        std::make_shared<GroupedQuantized>(spec_, experts_, across, sorted_, absent_, activations_);
    auto shape = op->output_shapes(in)[0];
    const auto dtype = in[0].dtype();
    return array(std::move(shape), dtype, op, std::move(in));
  }

  Arrays plain(const Arrays& in) const override {
    const auto w = spec_.arrays(in, 2);
    const auto x = mx::expand_dims(in[0], 1);
    const auto ids = some_expert(in[1], experts_, absent_);
    const auto result = [&](const array& y) {
      return mx::astype(without_absent(mx::squeeze(y, 1), in[1], experts_, absent_), in[0].dtype());
    };
    if (spec_.format == QuantFormat::affine) {
      const auto stack = [&](size_t i) { return mx::reshape(w[i], {experts_, rows(), -1}); };
      return {result(mx::gather_qmm(x, stack(0), stack(1), stack(2), std::nullopt, ids, !across_,
                                    spec_.group, spec_.bits, "affine", std::nullopt, sorted_))};
    }
    const auto all =
        mx::reshape(dequantize_rows(block_weight(spec_.format, mx::reshape(w[0], {spec_.out, -1})),
                                    mx::arange(spec_.out, mx::int32), in[0].dtype()),
                    {experts_, rows(), spec_.in});
    return {result(
        mx::gather_mm(x, across_ ? all : mx::swapaxes(all, -1, -2), std::nullopt, ids, sorted_))};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& y = out[0];
    give(y);
    const auto& x = in[0];
    const int64_t n = x.shape(0), k = x.shape(1), wide = y.shape(1), height = rows();
    const int64_t most = most_rows(n, experts_);
    const Type type = type_of(x.dtype());
    if (n == 0 || wide == 0) return;
    const auto format = panels::format(many_rows_type(type, activations_));
    const int64_t few = one_order() ? 0 : kFewRows;
    const Dense dense_x(x), dense_ids(in[1]);
    if (rehearsing()) {
      auto one = spec_.view();
      one.out = height;
      expect_workspace(std::max(
          many_room(one, across_, format, most, type),
          static_cast<size_t>(threads()) *
              many_room_in_part(one, across_, format, std::min(most, most_of_a_piece(n)), type)));
    }
    const auto precision = activations_ == Activations::bf16 ? Activations::int16 : activations_;
    task([=, x = dense_x, ids = dense_ids, w = Operand(spec_, in, 2), to = y.data<char>(),
          experts = experts_, across = across_, absent = absent_] {
      const auto runs = runs_of(static_cast<const uint32_t*>(ids.read()), n, experts, absent);
      if (absent) clear_between(runs, n, to, static_cast<size_t>(wide) * size_of(type));
      const auto whole = w.view();
      const void* const from = x.read();
      over_runs(runs, n, most, 0, [&](const Run& run, int64_t begin, int64_t end) {
        const int64_t first = run.first + begin, m = end - begin;
        const auto one = expert_of(whole, run.expert, height);
        const void* const rows = at(from, first * k, type);
        const MatrixOut made{at(to, first * wide, type), type, wide};
        if (across || m > few) return multiply_many(one, across, format, m, type, rows, made);
        const std::vector<FewProduct> product{{one, dot_kernel(one, precision), made}};
        const Scratch<char> room(few_room(product, m));
        multiply_few(product, m, type, rows, room.get());
      });
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays out;
    for (const int i : argnums) {
      if (i != 0) {
        out.push_back(mx::zeros_like(in[static_cast<size_t>(i)]));
        continue;
      }
      Arrays back = in;
      back[0] = cotangents[0];
      out.push_back(of(std::move(back), !across_));
    }
    return out;
  }

 private:
  static QuantView expert_of(QuantView v, int64_t expert, int64_t rows) {
    const int64_t first = expert * rows;
    v.bytes += first * row_bytes(v);
    if (v.format == QuantFormat::affine) {
      const int64_t scales = first * (v.in / v.group);
      v.scales = at(v.scales, scales, v.scale_type);
      if (v.biases) v.biases = at(v.biases, scales, v.scale_type);
    }
    v.out = rows;
    return v;
  }

  QuantSpec spec_;
  int experts_;
  bool across_, sorted_, absent_;
  Activations activations_;
};

[[noreturn]] void misfit(const array& x, int64_t experts, int64_t out, int64_t in,
                         const array& ids) {
  throw Error(
      Kind::usage,
      "[grouped_linear] the sizes do not fit: expected x [n, in], w [E, out, in] and uint32 "
      "ids [n], got x of " +
          std::to_string(x.size()) + " elements, w [" + std::to_string(experts) + ", " +
          std::to_string(out) + ", " + std::to_string(in) + "] and " + std::to_string(ids.size()) +
          " ids.");
}

bool fits(const array& x, int in, const array& ids) {
  return x.ndim() == 2 && x.shape(1) == in && ids.ndim() == 1 && ids.shape(0) == x.shape(0) &&
         ids.dtype() == mx::uint32;
}

}  // namespace

array grouped_linear(const array& x, const array& w, const array& ids, bool sorted, bool absent) {
  if (w.ndim() != 3) misfit(x, w.ndim() ? w.shape(0) : 0, 0, 0, ids);
  if (!fits(x, w.shape(2), ids)) misfit(x, w.shape(0), w.shape(1), w.shape(2), ids);
  if (fused(x.dtype()) && has_type(w.dtype()))
    return GroupedProduct::of(x, w, ids, false, sorted, absent);
  return GroupedProduct(false, sorted, absent).plain({x, w, ids})[0];
}

array grouped_linear(const array& x, const QuantizedWeight& w, int experts, const array& ids,
                     bool sorted, Activations activations, bool absent) {
  if (experts < 1 || w.out % experts != 0 || !fits(x, w.in, ids))
    misfit(x, experts, experts > 0 ? w.out / experts : 0, w.in, ids);
  if (w.interleaved)
    throw Error(Kind::usage,
                "[grouped_linear] weights of experts are not interleaved; call separate.");
  if (w.floats != FloatFormat::none) {
    const auto [name, group, bits] = float_groups(w.floats);
    const auto stack = [&](const array& a) {
      return mx::reshape(a, {experts, w.out / experts, a.shape(-1)});
    };
    const auto y = mx::gather_qmm(mx::expand_dims(x, 1), stack(w.packed), stack(*w.scales),
                                  std::nullopt, std::nullopt, some_expert(ids, experts, absent),
                                  true, group, bits, name, std::nullopt, sorted);
    return without_absent(mx::astype(mx::squeeze(y, 1), x.dtype()), ids, experts, absent);
  }
  const bool ours = fused(x.dtype());
  const QuantSpec spec(w, ours);
  const GroupedQuantized op(spec, experts, false, sorted, absent, activations);
  Arrays in{x, ids};
  spec.append_to(in, w);
  return ours ? op.of(std::move(in), false) : op.plain(in)[0];
}

}  // namespace lmxlab::kernels
