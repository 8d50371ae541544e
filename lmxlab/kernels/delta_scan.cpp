#include "lmxlab/kernels/delta_scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/delta_scan.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"

#ifndef LMXLAB_KERNELS_DELTA_SCAN
#define LMXLAB_KERNELS_DELTA_SCAN
namespace lmxlab::kernels {

struct DeltaSizes {
  int64_t batch, groups, heads, length, rows, columns, decays;  // N, P, 1 or N
  int64_t blocks() const { return (length + kDeltaBlock - 1) / kDeltaBlock; }
  int64_t state() const { return rows * columns; }
};
// Of one head: everything begins at its own.
struct DeltaForward {
  const float *q, *k, *v, *g, *beta, *before;
  float *out, *after, *starts;
};
struct DeltaBackward {
  const float *q, *k, *v, *g, *beta, *starts, *gout, *gafter;
  float *gq, *gk, *gv, *gg, *gbeta, *gbefore;
};

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

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

// The decays of a position's rows.
HWY_INLINE void decays_of(const float* g, int64_t n, int64_t N, float* to) {
  if (n == 1)
    std::fill_n(to, N, std::exp(g[0]));
  else
    for (int64_t i = 0; i < N; i++) to[i] = std::exp(g[i]);
}

// s = decay s, then k u^T is added to it; u = beta error, error = v - s^T k. The old state may lie
// elsewhere.
HWY_INLINE void step_state(const DeltaSizes& z, const float* old, const float* decay,
                           const float* k, const float* v, float beta, float* s, float* error,
                           float* u) {
  const DF d;
  const int64_t N = z.rows, P = z.columns, step = lanes();
  columns(P, [&](int64_t p, auto count, auto some) {
    constexpr int kCount = decltype(count)::value;
    VF sum[kCount];
    for (auto& x : sum) x = hn::Zero(d);
    for (int64_t n = 0; n < N; n++) {
      const VF e = hn::Set(d, decay[n]), key = hn::Set(d, k[n]);
      for (int j = 0; j < kCount; j++) {
        const int64_t at = n * P + p + j * step;
        const VF x = hn::Mul(e, read(old + at, some));
        write(x, s + at, some);
        sum[j] = hn::MulAdd(x, key, sum[j]);
      }
    }
    VF change[kCount];
    for (int j = 0; j < kCount; j++) {
      const VF off = hn::Sub(read(v + p + j * step, some), sum[j]);
      write(off, error + p + j * step, some);
      change[j] = hn::Mul(off, hn::Set(d, beta));
      write(change[j], u + p + j * step, some);
    }
    for (int64_t n = 0; n < N; n++) {
      const VF key = hn::Set(d, k[n]);
      for (int j = 0; j < kCount; j++) {
        float* const at = s + n * P + p + j * step;
        write(hn::MulAdd(key, change[j], read(at, some)), at, some);
      }
    }
  });
}

// o = s^T q
HWY_INLINE void read_state(const DeltaSizes& z, const float* s, const float* q, float* out) {
  const DF d;
  const int64_t N = z.rows, P = z.columns, step = lanes();
  columns(P, [&](int64_t p, auto count, auto some) {
    constexpr int kCount = decltype(count)::value;
    VF sum[kCount];
    for (auto& x : sum) x = hn::Zero(d);
    for (int64_t n = 0; n < N; n++) {
      const VF query = hn::Set(d, q[n]);
      for (int j = 0; j < kCount; j++)
        sum[j] = hn::MulAdd(read(s + n * P + p + j * step, some), query, sum[j]);
    }
    for (int j = 0; j < kCount; j++) write(sum[j], out + p + j * step, some);
  });
}

void delta_forward(const DeltaSizes& z, const DeltaForward& f, float* scratch) {
  const int64_t N = z.rows, P = z.columns;
  float *const decay = scratch, *const error = decay + N, *const u = error + P;
  float* const s = f.after;
  std::memcpy(s, f.before, static_cast<size_t>(z.state()) * sizeof(float));
  for (int64_t t = 0; t < z.length; t++) {
    if (t % kDeltaBlock == 0)
      std::memcpy(f.starts + t / kDeltaBlock * z.state(), s,
                  static_cast<size_t>(z.state()) * sizeof(float));
    decays_of(f.g + t * z.decays, z.decays, N, decay);
    step_state(z, s, decay, f.k + t * N, f.v + t * P, f.beta[t], s, error, u);
    read_state(z, s, f.q + t * N, f.out + t * P);
  }
}

// Each block's states once more, then from its end to its start. g is the gradient of the state
// behind a position.
void delta_backward(const DeltaSizes& z, const DeltaBackward& f, float* scratch) {
  const DF d;
  const int64_t N = z.rows, P = z.columns, size = z.state();
  float *const g = scratch, *const states = g + size;       // before each position of a block
  float* const decays = states + (kDeltaBlock + 1) * size;  // [block, N]
  float* const errors = decays + kDeltaBlock * N;           // [block, P], and what they made
  float *const changes = errors + kDeltaBlock * P, *const du = changes + kDeltaBlock * P;
  float* const w = du + P;
  std::memcpy(g, f.gafter, static_cast<size_t>(size) * sizeof(float));
  for (int64_t block = z.blocks() - 1; block >= 0; block--) {
    const int64_t from = block * kDeltaBlock,
                  count = std::min<int64_t>(kDeltaBlock, z.length - from);
    std::memcpy(states, f.starts + block * size, static_cast<size_t>(size) * sizeof(float));
    for (int64_t i = 0; i < count; i++) {
      const int64_t t = from + i;
      decays_of(f.g + t * z.decays, z.decays, N, decays + i * N);
      step_state(z, states + i * size, decays + i * N, f.k + t * N, f.v + t * P, f.beta[t],
                 states + (i + 1) * size, errors + i * P, changes + i * P);
    }
    for (int64_t i = count - 1; i >= 0; i--) {
      const int64_t t = from + i;
      const float *const q = f.q + t * N, *const k = f.k + t * N, *const gout = f.gout + t * P;
      const float *const old = states + i * size, *const now = old + size;
      const float *const e = decays + i * N, *const u = changes + i * P;
      std::memset(du, 0, static_cast<size_t>(P) * sizeof(float));
      for (int64_t n = 0; n < N; n++) {
        const VF query = hn::Set(d, q[n]), key = hn::Set(d, k[n]);
        float* const row = g + n * P;
        VF dot = hn::Zero(d);
        each(P, [&](int64_t p, auto some) {
          const VF go = read(gout + p, some), x = hn::MulAdd(query, go, read(row + p, some));
          write(x, row + p, some);
          write(hn::MulAdd(key, x, read(du + p, some)), du + p, some);
          dot = hn::MulAdd(read(now + n * P + p, some), go, dot);
        });
        f.gq[t * N + n] = sum_of(d, dot);
      }
      VF dbeta = hn::Zero(d);
      each(P, [&](int64_t p, auto some) {
        const VF x = read(du + p, some), scaled = hn::Mul(x, hn::Set(d, f.beta[t]));
        dbeta = hn::MulAdd(x, read(errors + i * P + p, some), dbeta);
        write(scaled, w + p, some);
        write(scaled, f.gv + t * P + p, some);
      });
      f.gbeta[t] = sum_of(d, dbeta);
      VF all = hn::Zero(d);  // of one decay for all rows
      for (int64_t n = 0; n < N; n++) {
        const VF key = hn::Set(d, k[n]), decay = hn::Set(d, e[n]);
        float* const row = g + n * P;
        VF dkey = hn::Zero(d), ddecay = hn::Zero(d);
        each(P, [&](int64_t p, auto some) {
          const VF before = hn::Mul(decay, read(old + n * P + p, some));
          const VF back = read(w + p, some), x = read(row + p, some);
          dkey = hn::MulAdd(x, read(u + p, some), dkey);
          dkey = hn::NegMulAdd(before, back, dkey);
          const VF left = hn::NegMulAdd(key, back, x);
          ddecay = hn::MulAdd(left, before, ddecay);
          write(hn::Mul(left, decay), row + p, some);
        });
        f.gk[t * N + n] = sum_of(d, dkey);
        if (z.decays > 1)
          f.gg[t * N + n] = sum_of(d, ddecay);
        else
          all = hn::Add(all, ddecay);
      }
      if (z.decays == 1) f.gg[t] = sum_of(d, all);
    }
  }
  std::memcpy(f.gbefore, g, static_cast<size_t>(size) * sizeof(float));
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(delta_forward);
HWY_EXPORT(delta_backward);

DeltaSizes sizes_of(const Arrays& in) {  // q, k, v, g, ...
  return {in[0].shape(0), in[0].shape(1), in[2].shape(1), in[0].shape(2),
          in[0].shape(3), in[2].shape(3), in[3].shape(3)};
}
int64_t forward_scratch(const DeltaSizes& z) {
  return z.rows + 2 * z.columns;
}
int64_t backward_scratch(const DeltaSizes& z) {
  return (kDeltaBlock + 2) * z.state() + kDeltaBlock * (z.rows + 2 * z.columns) + 2 * z.columns;
}

// For each head by itself; body(head of all, its group of all).
template <class F>
void by_head(const DeltaSizes& z, F body) {
  parallel_parts(z.batch * z.heads, [&](int64_t i) {
    const int64_t share = z.heads / z.groups;
    body(i, i / z.heads * z.groups + i % z.heads / share);
  });
}

class DeltaScanGrad
    : public Op {  // q, k, v, g, beta, starts, S0, gout, gS -> of six; q's, k's a head
 public:
  const char* name() const override { return "lmxlab::DeltaScanGrad"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    auto by_head = in[0].shape();
    by_head[1] = in[2].shape(1);
    return {by_head, by_head, in[2].shape(), in[3].shape(), in[4].shape(), in[6].shape()};
  }
  Arrays plain(const Arrays& in) const override {
    const int share = in[2].shape(1) / in[0].shape(1);
    const auto f = [](const Arrays& v) -> Arrays {
      const auto s = plain::delta_scan(v[0], v[1], v[2], v[3], v[4], v[5]);
      return {s.out, s.state};
    };
    return mx::vjp(f,
                   {mx::repeat(in[0], share, 1), mx::repeat(in[1], share, 1), in[2], in[3], in[4],
                    in[6]},
                   {in[7], in[8]})
        .second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    for (auto& o : out) give(o);
    const auto z = sizes_of(in);
    if (z.batch * z.heads * z.length * z.state() == 0) return task([] {});
    std::vector<Dense> from;
    for (const auto& a : in) from.emplace_back(a);
    std::vector<float*> to;
    for (auto& o : out) to.push_back(o.data<float>());
    const int64_t own = backward_scratch(z);
    task([=, scratch = Scratch<float>(threads() * own)] {
      std::vector<const float*> p;
      for (const auto& d : from) p.push_back(static_cast<const float*>(d.read()));
      const int64_t L = z.length, N = z.rows, P = z.columns;
      by_head(z, [&](int64_t h, int64_t group) {
        const DeltaBackward f{
            p[0] + group * L * N,    p[1] + group * L * N, p[2] + h * L * P,
            p[3] + h * L * z.decays, p[4] + h * L,         p[5] + h * z.blocks() * z.state(),
            p[7] + h * L * P,        p[8] + h * z.state(), to[0] + h * L * N,
            to[1] + h * L * N,       to[2] + h * L * P,    to[3] + h * L * z.decays,
            to[4] + h * L,           to[5] + h * z.state()};
        HWY_DYNAMIC_DISPATCH(delta_backward)(z, f, scratch.get() + slot() * own);
      });
    });
  }
};

class DeltaScanOp : public Op {  // q, k, v, g, beta, S0 -> out, S, states before each block
 public:
  const char* name() const override { return "lmxlab::DeltaScan"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    auto blocks = in[5].shape();
    blocks.insert(blocks.begin() + 2, static_cast<int>(sizes_of(in).blocks()));
    return {in[2].shape(), in[5].shape(), blocks};
  }
  Arrays plain(const Arrays& in) const override {
    const auto s = plain::delta_scan(in[0], in[1], in[2], in[3], in[4], in[5]);
    auto blocks = in[5].shape();
    blocks.insert(blocks.begin() + 2, static_cast<int>(sizes_of(in).blocks()));
    // Nobody reads them but the fused gradient, which is not taken of ordinary ops.
    return {s.out, s.state, mx::zeros(blocks, mx::float32)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    for (auto& o : out) give(o);
    const auto z = sizes_of(in);
    if (z.batch * z.heads * z.length * z.state() == 0) return task([] {});
    std::vector<Dense> from;
    for (const auto& a : in) from.emplace_back(a);
    const int64_t own = forward_scratch(z);
    task([=, y = out[0].data<float>(), after = out[1].data<float>(), starts = out[2].data<float>(),
          scratch = Scratch<float>(threads() * own)] {
      std::vector<const float*> p;
      for (const auto& d : from) p.push_back(static_cast<const float*>(d.read()));
      const int64_t L = z.length, N = z.rows, P = z.columns;
      by_head(z, [&](int64_t h, int64_t group) {
        const DeltaForward f{
            p[0] + group * L * N,    p[1] + group * L * N,  p[2] + h * L * P,
            p[3] + h * L * z.decays, p[4] + h * L,          p[5] + h * z.state(),
            y + h * L * P,           after + h * z.state(), starts + h * z.blocks() * z.state()};
        HWY_DYNAMIC_DISPATCH(delta_forward)(z, f, scratch.get() + slot() * own);
      });
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    const Arrays from{in[0],      in[1], in[2],         in[3],        in[4],
                      outputs[2], in[5], cotangents[0], cotangents[1]};
    const auto op = std::make_shared<DeltaScanGrad>();
    auto shapes = op->output_shapes(from);
    auto all =
        array::make_arrays(std::move(shapes), std::vector<mx::Dtype>(6, mx::float32), op, from);
    if (const int G = in[0].shape(1), H = in[2].shape(1); G != H)
      for (size_t i = 0; i < 2; i++)
        all[i] = mx::sum(mx::reshape(all[i], {in[0].shape(0), G, H / G, in[0].shape(2), -1}), 2);
    Arrays out;
    for (const int i : argnums) out.push_back(all[static_cast<size_t>(i)]);
    return out;
  }
};

}  // namespace

DeltaScan delta_scan(const array& q, const array& k, const array& v, const array& g,
                     const array& beta, const array& state) {
  const bool ranks = q.ndim() == 4 && v.ndim() == 4 && g.ndim() == 4 && beta.ndim() == 3;
  const auto row = [&](int width) { return mx::Shape{q.shape(0), v.shape(1), q.shape(2), width}; };
  const bool shapes = ranks && k.shape() == q.shape() && v.shape() == row(v.shape(3)) &&
                      q.shape(1) > 0 && v.shape(1) % q.shape(1) == 0 &&
                      (g.shape() == row(1) || g.shape() == row(q.shape(3))) &&
                      beta.shape() == mx::Shape{q.shape(0), v.shape(1), q.shape(2)} &&
                      state.shape() == mx::Shape{q.shape(0), v.shape(1), q.shape(3), v.shape(3)};
  const Arrays in{q, k, v, g, beta, state};
  const bool types =
      std::all_of(in.begin(), in.end(), [](const array& i) { return i.dtype() == mx::float32; });
  if (!shapes || !types)
    throw Error(Kind::usage,
                "[delta_scan] expected float32 q and k [B, G, L, N], v [B, H, L, P], g [B, H, L, 1 "
                "or N], beta [B, H, L] and a state [B, H, N, P], H a multiple of G");
  if (!fused(mx::float32)) return plain::delta_scan(q, k, v, g, beta, state);
  const auto op = std::make_shared<DeltaScanOp>();
  auto out =
      array::make_arrays(op->output_shapes(in), std::vector<mx::Dtype>(3, mx::float32), op, in);
  return {out[0], out[1]};
}

DeltaScan plain::delta_scan(const array& q, const array& k, const array& v, const array& g,
                            const array& beta, const array& state) {
  const int share = v.shape(1) / q.shape(1);
  const auto at = [](const array& a, int t) { return mx::take(a, t, 2); };
  const auto column = [](const array& a) { return mx::expand_dims(a, -1); };
  auto s = state;
  Arrays out;
  for (int t = 0; t < q.shape(2); t++) {
    const auto key = column(mx::repeat(at(k, t), share, 1));
    s = mx::multiply(s, mx::exp(column(at(g, t))));
    const auto error = mx::subtract(at(v, t), mx::sum(mx::multiply(s, key), 2));
    const auto change = mx::multiply(error, column(at(beta, t)));
    s = mx::add(s, mx::multiply(key, mx::expand_dims(change, 2)));
    out.push_back(mx::sum(mx::multiply(s, column(mx::repeat(at(q, t), share, 1))), 2));
  }
  return {out.empty() ? mx::zeros_like(v) : mx::stack(out, 2), s};
}

}  // namespace lmxlab::kernels
#endif
