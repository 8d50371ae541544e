#include "lmxlab/kernels/state_scan.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/state_scan.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"
#include "lmxlab/kernels/math-inl.h"

#ifndef LMXLAB_KERNELS_STATE_SCAN
#define LMXLAB_KERNELS_STATE_SCAN
namespace lmxlab::kernels {

// What a position takes away before it writes: nothing; what its key finds (the delta rule), which
// is b = beta k, c = exp(g) k and the write beta k; b c^T, whatever they are.
enum class Removal : uint8_t { none, key, any };

struct StateSizes {
  Removal removal;
  int64_t batch, groups, heads, length, rows, columns, decays;  // N, P, 1 or N
  int64_t blocks() const { return (length + kStateBlock - 1) / kStateBlock; }
  int64_t state() const { return rows * columns; }
};
// Of one head: everything begins at its own. Of b, c, beta those that the removal has.
struct StateInputs {
  const float *q, *k, *v, *g, *beta, *b, *c;
};
struct StateForward {
  StateInputs in;
  const float* before;
  float *out, *after, *starts;
};
struct StateBackward {
  StateInputs in;
  const float *starts, *gout, *gafter;
  float *gq, *gk, *gv, *gg, *gbeta, *gb, *gc, *gbefore;
};

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

template <Removal removal>
using RemovalIs = std::integral_constant<Removal, removal>;
template <class F>
void with_removal(Removal removal, F f) {
  switch (removal) {
    case Removal::none: return f(RemovalIs<Removal::none>());
    case Removal::key: return f(RemovalIs<Removal::key>());
    case Removal::any: return f(RemovalIs<Removal::any>());
  }
}

constexpr int kTogether = 4;  // vectors of a row that are summed side by side

// f(column, how many vectors, lanes): all columns, several vectors at once where there are so many.
template <class F>
HWY_INLINE void columns(int64_t P, F f) {
  const int64_t step = lanes();
  int64_t p = 0;
  for (; p + kTogether * step <= P; p += kTogether * step)
    f(p, std::integral_constant<int, kTogether>(), Whole{});
  for (; p + step <= P; p += step) f(p, std::integral_constant<int, 1>(), Whole{});
  if (p < P) f(p, std::integral_constant<int, 1>(), First{P - p});
}

// A position's factors of rows, [N] each: exp(g), and what the removal needs.
struct Factors {
  const float *decay, *write, *b, *c;
};
int64_t factors_size(const StateSizes& z) {
  return 3 * z.rows;
}
template <Removal removal>
HWY_INLINE Factors factors_of(const StateSizes& z, const StateInputs& in, int64_t t,
                              RemovalIs<removal>, float* scratch) {
  const DF d;
  const int64_t N = z.rows;
  float *const decay = scratch, *const write_key = decay + N, *const c = write_key + N;
  const float *const g = in.g + t * z.decays, *const k = in.k + t * N;
  if (z.decays == 1)
    std::fill_n(decay, N, hn::GetLane(fast_exp(d, hn::Set(d, g[0]))));
  else
    each(N, [&](int64_t n, auto some) { write(fast_exp(d, read(g + n, some)), decay + n, some); });
  if constexpr (removal == Removal::none) return {decay, k, nullptr, nullptr};
  if constexpr (removal == Removal::any) return {decay, k, in.b + t * N, in.c + t * N};
  const VF beta = hn::Set(d, in.beta[t]);
  each(N, [&](int64_t n, auto some) {
    const VF key = read(k + n, some);
    write(hn::Mul(key, beta), write_key + n, some);
    write(hn::Mul(key, read(decay + n, some)), c + n, some);
  });
  return {decay, write_key, write_key, c};
}

// s = (diag(decay) - b c^T) old + write v^T, which may lie where old lies; out = s^T q unless null,
// removed = old^T c.
template <Removal removal>
HWY_INLINE void step_state(const StateSizes& z, RemovalIs<removal>, const Factors& f,
                           const float* old, const float* v, const float* q, float* s, float* out,
                           float* removed) {
  const DF d;
  const int64_t N = z.rows, P = z.columns, step = lanes();
  columns(P, [&](int64_t p, auto count, auto some) {
    constexpr int kCount = decltype(count)::value;
    VF u[kCount], value[kCount], sum[kCount];
    for (int j = 0; j < kCount; j++) {
      u[j] = sum[j] = hn::Zero(d);
      value[j] = read(v + p + j * step, some);
    }
    if constexpr (removal != Removal::none) {
      for (int64_t n = 0; n < N; n++) {
        const VF c = hn::Set(d, f.c[n]);
        for (int j = 0; j < kCount; j++)
          u[j] = hn::MulAdd(read(old + n * P + p + j * step, some), c, u[j]);
      }
      for (int j = 0; j < kCount; j++) {
        write(u[j], removed + p + j * step, some);
        if constexpr (removal == Removal::key) value[j] = hn::Sub(value[j], u[j]);
      }
    }
    for (int64_t n = 0; n < N; n++) {
      const VF decay = hn::Set(d, f.decay[n]), key = hn::Set(d, f.write[n]);
      const VF query = hn::Set(d, q[n]);
      for (int j = 0; j < kCount; j++) {
        const int64_t at = n * P + p + j * step;
        VF x = hn::MulAdd(decay, read(old + at, some), hn::Mul(key, value[j]));
        if constexpr (removal == Removal::any) x = hn::NegMulAdd(hn::Set(d, f.b[n]), u[j], x);
        write(x, s + at, some);
        sum[j] = hn::MulAdd(x, query, sum[j]);
      }
    }
    if (out)
      for (int j = 0; j < kCount; j++) write(sum[j], out + p + j * step, some);
  });
}

int64_t state_forward_scratch(const StateSizes& z) {
  return factors_size(z) + z.columns;
}
void state_forward(const StateSizes& z, const StateForward& f, float* scratch) {
  const int64_t N = z.rows, P = z.columns;
  const size_t bytes = static_cast<size_t>(z.state()) * sizeof(float);
  float *const removed = scratch + factors_size(z), *const s = f.after;
  std::memcpy(s, f.before, bytes);
  with_removal(z.removal, [&](auto removal) {
    for (int64_t t = 0; t < z.length; t++) {
      if (t % kStateBlock == 0) std::memcpy(f.starts + t / kStateBlock * z.state(), s, bytes);
      const auto factors = factors_of(z, f.in, t, removal, scratch);
      step_state(z, removal, factors, s, f.in.v + t * P, f.in.q + t * N, s, f.out + t * P, removed);
    }
  });
}

// The gradients of a position's factors, [N] each.
struct FactorGradients {
  float *q, *decay, *write, *b, *c;
};

// From the gradient g of the state `now` behind a position to that of `old` before it.
template <Removal removal>
HWY_INLINE void step_back(const StateSizes& z, RemovalIs<removal>, const Factors& f, const float* q,
                          const float* v, const float* removed, const float* old, const float* now,
                          const float* gout, float* g, float* gv, const FactorGradients& to) {
  const DF d;
  const int64_t N = z.rows, P = z.columns, step = lanes();
  for (float* const x : {to.q, to.decay, to.write, to.b, to.c})
    if (x) std::memset(x, 0, static_cast<size_t>(N) * sizeof(float));
  columns(P, [&](int64_t p, auto count, auto some) {
    constexpr int kCount = decltype(count)::value;
    VF go[kCount], value[kCount], u[kCount], dvalue[kCount], du[kCount];
    for (int j = 0; j < kCount; j++) {
      const int64_t at = p + j * step;
      go[j] = read(gout + at, some), value[j] = read(v + at, some);
      dvalue[j] = du[j] = u[j] = hn::Zero(d);
      if constexpr (removal != Removal::none) u[j] = read(removed + at, some);
      if constexpr (removal == Removal::key) value[j] = hn::Sub(value[j], u[j]);
    }
    // Through what is read, and the sums over rows.
    for (int64_t n = 0; n < N; n++) {
      const VF query = hn::Set(d, q[n]), key = hn::Set(d, f.write[n]);
      VF dq = hn::Zero(d);
      for (int j = 0; j < kCount; j++) {
        const int64_t at = n * P + p + j * step;
        const VF x = hn::MulAdd(query, go[j], read(g + at, some));
        write(x, g + at, some);
        dq = hn::MulAdd(read(now + at, some), go[j], dq);
        dvalue[j] = hn::MulAdd(key, x, dvalue[j]);
        if constexpr (removal == Removal::any) du[j] = hn::NegMulAdd(hn::Set(d, f.b[n]), x, du[j]);
      }
      to.q[n] += sum_of(d, dq);
    }
    for (int j = 0; j < kCount; j++) {
      write(dvalue[j], gv + p + j * step, some);
      if constexpr (removal == Removal::key) du[j] = hn::Neg(dvalue[j]);
    }
    for (int64_t n = 0; n < N; n++) {
      const VF decay = hn::Set(d, f.decay[n]);
      VF dwrite = hn::Zero(d), ddecay = dwrite, db = dwrite, dc = dwrite;
      for (int j = 0; j < kCount; j++) {
        const int64_t at = n * P + p + j * step;
        const VF x = read(g + at, some), before = read(old + at, some);
        dwrite = hn::MulAdd(x, value[j], dwrite);
        ddecay = hn::MulAdd(x, before, ddecay);
        VF left = hn::Mul(x, decay);
        if constexpr (removal != Removal::none) {
          dc = hn::MulAdd(before, du[j], dc);
          left = hn::MulAdd(hn::Set(d, f.c[n]), du[j], left);
        }
        if constexpr (removal == Removal::any) db = hn::NegMulAdd(x, u[j], db);
        write(left, g + at, some);
      }
      to.write[n] += sum_of(d, dwrite), to.decay[n] += sum_of(d, ddecay);
      if constexpr (removal != Removal::none) to.c[n] += sum_of(d, dc);
      if constexpr (removal == Removal::any) to.b[n] += sum_of(d, db);
    }
  });
}

int64_t state_backward_scratch(const StateSizes& z) {
  return (kStateBlock + 2) * z.state() + kStateBlock * (factors_size(z) + z.columns) + 3 * z.rows;
}
// Each block's states once more, then from its end to its start.
void state_backward(const StateSizes& z, const StateBackward& f, float* scratch) {
  const int64_t N = z.rows, P = z.columns, size = z.state();
  const size_t bytes = static_cast<size_t>(size) * sizeof(float);
  float *const g = scratch, *const states = g + size;        // before each position of a block
  float* const factors = states + (kStateBlock + 1) * size;  // of each
  float* const removed = factors + kStateBlock * factors_size(z);  // [block, P]
  float *const ddecay = removed + kStateBlock * P, *const dwrite = ddecay + N,
               *const dc = dwrite + N;
  std::memcpy(g, f.gafter, bytes);
  with_removal(z.removal, [&](auto removal) {
    constexpr Removal kRemoval = decltype(removal)::value;
    Factors known[kStateBlock];
    for (int64_t block = z.blocks() - 1; block >= 0; block--) {
      const int64_t from = block * kStateBlock,
                    count = std::min<int64_t>(kStateBlock, z.length - from);
      std::memcpy(states, f.starts + block * size, bytes);
      for (int64_t i = 0; i < count; i++) {
        const int64_t t = from + i;
        known[i] = factors_of(z, f.in, t, removal, factors + i * factors_size(z));
        step_state(z, removal, known[i], states + i * size, f.in.v + t * P, f.in.q + t * N,
                   states + (i + 1) * size, nullptr, removed + i * P);
      }
      for (int64_t i = count - 1; i >= 0; i--) {
        const int64_t t = from + i, row = t * N;
        FactorGradients to{f.gq + row, ddecay, f.gk + row, nullptr, nullptr};
        if constexpr (kRemoval == Removal::key) to.write = dwrite, to.c = dc;
        if constexpr (kRemoval == Removal::any) to.b = f.gb + row, to.c = f.gc + row;
        step_back(z, removal, known[i], f.in.q + row, f.in.v + t * P, removed + i * P,
                  states + i * size, states + (i + 1) * size, f.gout + t * P, g, f.gv + t * P, to);
        const float *const decay = known[i].decay, *const k = f.in.k + row;
        if constexpr (kRemoval == Removal::key) {
          const float beta = f.in.beta[t];
          float dbeta = 0;
          for (int64_t n = 0; n < N; n++) {
            f.gk[row + n] = beta * dwrite[n] + decay[n] * dc[n];
            dbeta += k[n] * dwrite[n];
            ddecay[n] += k[n] * dc[n];
          }
          f.gbeta[t] = dbeta;
        }
        float all = 0;  // of one decay for all rows
        for (int64_t n = 0; n < N; n++) {
          const float slope = ddecay[n] * decay[n];
          all += slope;
          if (z.decays > 1) f.gg[t * N + n] = slope;
        }
        if (z.decays == 1) f.gg[t] = all;
      }
    }
  });
  std::memcpy(f.gbefore, g, bytes);
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(state_forward);
HWY_EXPORT(state_forward_scratch);
HWY_EXPORT(state_backward);
HWY_EXPORT(state_backward_scratch);

// Inputs: q, k, v, g, S0, then beta, or b and c.
enum Input : size_t { kQ, kK, kV, kG, kState, kMore };

StateSizes sizes_of(Removal removal, const Arrays& in) {
  return {removal,         in[kQ].shape(0), in[kQ].shape(1), in[kV].shape(1),
          in[kQ].shape(2), in[kQ].shape(3), in[kV].shape(3), in[kG].shape(3)};
}
bool empty(const StateSizes& z) {
  return z.batch * z.heads * z.length * z.state() == 0;
}
size_t count_of(Removal removal) {
  return kMore + static_cast<size_t>(removal);
}
StateScan plain_scan(Removal removal, const Arrays& in) {
  switch (removal) {
    case Removal::none: return plain::linear_scan(in[kQ], in[kK], in[kV], in[kG], in[kState]);
    case Removal::key:
      return plain::delta_scan(in[kQ], in[kK], in[kV], in[kG], in[kMore], in[kState]);
    case Removal::any:
      return plain::dplr_scan(in[kQ], in[kK], in[kV], in[kG], in[kMore], in[kMore + 1], in[kState]);
  }
  throw Error(Kind::internal, "[state_scan] unknown removal");
}
// For each head by itself; body(head of all, its group of all).
template <class F>
void by_head(const StateSizes& z, F body) {
  parallel_parts(z.batch * z.heads, [&](int64_t i) {
    const int64_t share = z.heads / z.groups;
    body(i, i / z.heads * z.groups + i % z.heads / share);
  });
}

// The inputs as memory, once they are there.
struct Sources {
  std::vector<Dense> dense;
  explicit Sources(const Arrays& in) {
    for (const auto& a : in) dense.emplace_back(a);
  }
  std::vector<const float*> read() const {
    std::vector<const float*> p;
    for (const auto& d : dense) p.push_back(static_cast<const float*>(d.read()));
    return p;
  }
};
StateInputs inputs_of(const StateSizes& z, const std::vector<const float*>& p, int64_t head,
                      int64_t group) {
  const int64_t L = z.length, row = L * z.rows;
  StateInputs in{p[kQ] + group * row,
                 p[kK] + group * row,
                 p[kV] + head * L * z.columns,
                 p[kG] + head * L * z.decays,
                 nullptr,
                 nullptr,
                 nullptr};
  if (z.removal == Removal::key) in.beta = p[kMore] + head * L;
  if (z.removal == Removal::any) in.b = p[kMore] + head * row, in.c = p[kMore + 1] + head * row;
  return in;
}

class StateScanOpBase : public Op {
 public:
  explicit StateScanOpBase(Removal removal) : removal_(removal) {}
  bool same(const Op& other) const override {
    return removal_ == static_cast<const StateScanOpBase&>(other).removal_;
  }

 protected:
  Removal removal_;
};

// The inputs, states before each block, gout, gS -> gradients of the inputs; q's and k's a head.
class StateScanGrad : public StateScanOpBase {
 public:
  using StateScanOpBase::StateScanOpBase;
  const char* name() const override { return "lmxlab::StateScanGrad"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes;
    for (size_t i = 0; i < count_of(removal_); i++) {
      shapes.push_back(in[i].shape());
      if (i == kQ || i == kK) shapes.back()[1] = in[kV].shape(1);
    }
    return shapes;
  }
  Arrays plain(const Arrays& in) const override {
    const int share = in[kV].shape(1) / in[kQ].shape(1);
    Arrays primals(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(count_of(removal_)));
    for (const auto i : {kQ, kK}) primals[i] = mx::repeat(primals[i], share, 1);
    const auto f = [this](const Arrays& v) -> Arrays {
      const auto s = plain_scan(removal_, v);
      return {s.out, s.state};
    };
    return mx::vjp(f, primals, {in[in.size() - 2], in.back()}).second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    for (auto& o : out) give(o);
    const auto z = sizes_of(removal_, in);
    if (empty(z)) {
      // Nothing is written: the state's gradient passes, the others are none.
      return task([from = Sources(in), to = pointers(out), bytes = sizes(out)] {
        for (size_t i = 0; i < to.size(); i++) std::memset(to[i], 0, bytes[i]);
        const auto p = from.read();
        if (bytes[kState]) std::memcpy(to[kState], p.back(), bytes[kState]);
      });
    }
    const int64_t own = HWY_DYNAMIC_DISPATCH(state_backward_scratch)(z);
    task([=, from = Sources(in), to = pointers(out), scratch = Scratch<float>(threads() * own)] {
      const auto p = from.read();
      const float *const starts = p[p.size() - 3], *const gout = p[p.size() - 2];
      const int64_t L = z.length, N = z.rows, P = z.columns;
      by_head(z, [&](int64_t h, int64_t group) {
        StateBackward f{.in = inputs_of(z, p, h, group),
                        .starts = starts + h * z.blocks() * z.state(),
                        .gout = gout + h * L * P,
                        .gafter = p.back() + h * z.state(),
                        .gq = to[kQ] + h * L * N,
                        .gk = to[kK] + h * L * N,
                        .gv = to[kV] + h * L * P,
                        .gg = to[kG] + h * L * z.decays,
                        .gbeta = nullptr,
                        .gb = nullptr,
                        .gc = nullptr,
                        .gbefore = to[kState] + h * z.state()};
        if (z.removal == Removal::key) f.gbeta = to[kMore] + h * L;
        if (z.removal == Removal::any)
          f.gb = to[kMore] + h * L * N, f.gc = to[kMore + 1] + h * L * N;
        HWY_DYNAMIC_DISPATCH(state_backward)(z, f, scratch.get() + slot() * own);
      });
    });
  }

 private:
  static std::vector<float*> pointers(Arrays& out) {
    std::vector<float*> p;
    for (auto& o : out) p.push_back(o.data<float>());
    return p;
  }
  static std::vector<size_t> sizes(const Arrays& out) {
    std::vector<size_t> n;
    for (const auto& o : out) n.push_back(o.nbytes());
    return n;
  }
};

class StateScanOp : public StateScanOpBase {  // -> out, S, states before each block
 public:
  using StateScanOpBase::StateScanOpBase;
  const char* name() const override { return "lmxlab::StateScan"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    auto blocks = in[kState].shape();
    blocks.insert(blocks.begin() + 2, static_cast<int>(sizes_of(removal_, in).blocks()));
    return {in[kV].shape(), in[kState].shape(), blocks};
  }
  Arrays plain(const Arrays& in) const override {
    const auto s = plain_scan(removal_, in);
    auto blocks = in[kState].shape();
    blocks.insert(blocks.begin() + 2, static_cast<int>(sizes_of(removal_, in).blocks()));
    // Nobody reads them but the fused gradient, which is not taken of ordinary ops.
    return {s.out, s.state, mx::zeros(blocks, mx::float32)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    for (auto& o : out) give(o);
    const auto z = sizes_of(removal_, in);
    float *const y = out[0].data<float>(), *const after = out[1].data<float>();
    if (empty(z))
      return task([from = Dense(in[kState]), after, bytes = out[1].nbytes()] {
        if (bytes) std::memcpy(after, from.read(), bytes);
      });
    const int64_t own = HWY_DYNAMIC_DISPATCH(state_forward_scratch)(z);
    task([=, from = Sources(in), starts = out[2].data<float>(),
          scratch = Scratch<float>(threads() * own)] {
      const auto p = from.read();
      by_head(z, [&](int64_t h, int64_t group) {
        const StateForward f{inputs_of(z, p, h, group), p[kState] + h * z.state(),
                             y + h * z.length * z.columns, after + h * z.state(),
                             starts + h * z.blocks() * z.state()};
        HWY_DYNAMIC_DISPATCH(state_forward)(z, f, scratch.get() + slot() * own);
      });
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    auto from = in;
    from.insert(from.end(), {outputs[2], cotangents[0], cotangents[1]});
    const auto op = std::make_shared<StateScanGrad>(removal_);
    auto all = array::make_arrays(op->output_shapes(from),
                                  std::vector<mx::Dtype>(in.size(), mx::float32), op, from);
    if (const int G = in[kQ].shape(1), H = in[kV].shape(1); G != H)
      for (const auto i : {kQ, kK})
        all[i] = mx::sum(
            mx::reshape(all[i], {in[kQ].shape(0), G, H / G, in[kQ].shape(2), in[kQ].shape(3)}), 2);
    Arrays out;
    for (const int i : argnums) out.push_back(all[static_cast<size_t>(i)]);
    return out;
  }
};

StateScan scan(Removal removal, const Arrays& in) {
  const auto &q = in[kQ], &v = in[kV], &g = in[kG];
  const auto row = [&](int width) { return mx::Shape{q.shape(0), v.shape(1), q.shape(2), width}; };
  bool fits = q.ndim() == 4 && v.ndim() == 4 && g.ndim() == 4 && in[kK].shape() == q.shape() &&
              v.shape() == row(v.shape(3)) && q.shape(1) > 0 && v.shape(1) % q.shape(1) == 0 &&
              (g.shape() == row(1) || g.shape() == row(q.shape(3))) &&
              in[kState].shape() == mx::Shape{q.shape(0), v.shape(1), q.shape(3), v.shape(3)};
  if (removal == Removal::key)
    fits = fits && in[kMore].shape() == mx::Shape{q.shape(0), v.shape(1), q.shape(2)};
  if (removal == Removal::any)
    fits = fits && in[kMore].shape() == row(q.shape(3)) && in[kMore + 1].shape() == row(q.shape(3));
  for (const auto& a : in) fits = fits && a.dtype() == mx::float32;
  if (!fits) {
    const char* const more[] = {"", ", beta [B, H, L]", ", b and c [B, H, L, N]"};
    throw Error(Kind::usage,
                std::string("[state_scan] expected float32 q and k [B, G, L, N], v [B, H, L, P], "
                            "g [B, H, L, 1 or N], a state [B, H, N, P]") +
                    more[static_cast<size_t>(removal)] + ", H a multiple of G");
  }
  if (!fused(mx::float32)) return plain_scan(removal, in);
  const auto op = std::make_shared<StateScanOp>(removal);
  auto out =
      array::make_arrays(op->output_shapes(in), std::vector<mx::Dtype>(3, mx::float32), op, in);
  return {out[0], out[1]};
}

// A position after the other; step(state before, position) is the state behind it.
template <class Step>
StateScan one_by_one(const array& q, const array& v, const array& state, Step step) {
  const int share = v.shape(1) / q.shape(1);
  auto s = state;
  Arrays out;
  for (int t = 0; t < q.shape(2); t++) {
    s = step(s, t);
    const auto query = mx::expand_dims(mx::repeat(mx::take(q, t, 2), share, 1), -1);
    out.push_back(mx::sum(mx::multiply(s, query), 2));
  }
  return {out.empty() ? mx::zeros_like(v) : mx::stack(out, 2), s};
}
array column(const array& a, int t) {  // [B, H, L, N] -> [B, H, N, 1]
  return mx::expand_dims(mx::take(a, t, 2), -1);
}
array row(const array& a) {  // [B, H, P] -> [B, H, 1, P]
  return mx::expand_dims(a, 2);
}

}  // namespace

StateScan linear_scan(const array& q, const array& k, const array& v, const array& g,
                      const array& state) {
  return scan(Removal::none, {q, k, v, g, state});
}
StateScan delta_scan(const array& q, const array& k, const array& v, const array& g,
                     const array& beta, const array& state) {
  return scan(Removal::key, {q, k, v, g, state, beta});
}
StateScan dplr_scan(const array& q, const array& k, const array& v, const array& g, const array& b,
                    const array& c, const array& state) {
  return scan(Removal::any, {q, k, v, g, state, b, c});
}

StateScan plain::linear_scan(const array& q, const array& k, const array& v, const array& g,
                             const array& state) {
  const int share = v.shape(1) / q.shape(1);
  return one_by_one(q, v, state, [&](const array& s, int t) {
    const auto key = mx::repeat(column(k, t), share, 1);
    return mx::add(mx::multiply(s, mx::exp(column(g, t))),
                   mx::multiply(key, row(mx::take(v, t, 2))));
  });
}

StateScan plain::delta_scan(const array& q, const array& k, const array& v, const array& g,
                            const array& beta, const array& state) {
  const int share = v.shape(1) / q.shape(1);
  return one_by_one(q, v, state, [&](const array& before, int t) {
    const auto key = mx::repeat(column(k, t), share, 1);
    const auto s = mx::multiply(before, mx::exp(column(g, t)));
    const auto error = mx::subtract(mx::take(v, t, 2), mx::sum(mx::multiply(s, key), 2));
    const auto change = mx::multiply(error, mx::expand_dims(mx::take(beta, t, 2), -1));
    return mx::add(s, mx::multiply(key, row(change)));
  });
}

StateScan plain::dplr_scan(const array& q, const array& k, const array& v, const array& g,
                           const array& b, const array& c, const array& state) {
  const int share = v.shape(1) / q.shape(1);
  return one_by_one(q, v, state, [&](const array& s, int t) {
    const auto removed = row(mx::sum(mx::multiply(s, column(c, t)), 2));
    const auto key = mx::repeat(column(k, t), share, 1);
    const auto written = mx::subtract(mx::multiply(key, row(mx::take(v, t, 2))),
                                      mx::multiply(column(b, t), removed));
    return mx::add(mx::multiply(s, mx::exp(column(g, t))), written);
  });
}

}  // namespace lmxlab::kernels
#endif
