#include "lmxlab/kernels/selective_scan.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/selective_scan.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"
#include "lmxlab/kernels/math-inl.h"

#ifndef LMXLAB_KERNELS_SELECTIVE_SCAN
#define LMXLAB_KERNELS_SELECTIVE_SCAN
namespace lmxlab::kernels {

struct ScanSizes {
  int64_t batch, length, inner, state;
  int64_t blocks() const { return (length + kScanBlock - 1) / kScanBlock; }
};
// All row-major; states lie as [state, inner], so that channels are side by side.
struct ScanForward {
  const float *x, *dt, *a, *b, *c, *before;  // a, before [*, inner, state]
  float *y, *starts, *after;                 // starts [batch, blocks, state, inner]
};
struct ScanBackward {
  const float *x, *dt, *a, *b, *c, *starts, *gy, *gafter;
  float *gx, *gdt, *ga, *gb, *gc, *gbefore;  // gb, gc: this part's own sums
};

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// A vector of channels of [inner, state], for each number of the state.
template <class Lanes>
void gather(const float* from, int64_t inner_at, int64_t inner, int64_t N, Lanes some, float* to) {
  const int64_t step = lanes();
  static_cast<void>(some);
  for (int64_t n = 0; n < N; n++)
    for (int64_t i = 0; i < step; i++)
      to[n * step + i] = inner_at + i < inner ? from[(inner_at + i) * N + n] : 0;
}
void scatter(const float* from, int64_t inner_at, int64_t inner, int64_t N, float* to) {
  const int64_t step = lanes();
  for (int64_t n = 0; n < N; n++)
    for (int64_t i = 0; i < step && inner_at + i < inner; i++)
      to[(inner_at + i) * N + n] = from[n * step + i];
}

// Channels `first` to `last`, of all rows.
void scan_forward(const ScanSizes& s, const ScanForward& k, int64_t first, int64_t last,
                  float* scratch) {
  const DF d;
  const int64_t step = lanes(), N = s.state, I = s.inner, L = s.length;
  float *const a = scratch, *const h = scratch + N * step;
  for (int64_t i = first; i < last; i += step) {
    const auto some = [&](auto lanes) {
      gather(k.a, i, I, N, lanes, a);
      for (int64_t r = 0; r < s.batch; r++) {
        gather(k.before + r * I * N, i, I, N, lanes, h);
        for (int64_t t = 0; t < L; t++) {
          if (t % kScanBlock == 0) {
            float* const start = k.starts + (r * s.blocks() + t / kScanBlock) * N * I + i;
            for (int64_t n = 0; n < N; n++) write(hn::LoadU(d, h + n * step), start + n * I, lanes);
          }
          const int64_t at = (r * L + t) * I + i;
          const VF dt = read(k.dt + at, lanes), in = hn::Mul(dt, read(k.x + at, lanes));
          const float *const b = k.b + (r * L + t) * N, *const c = k.c + (r * L + t) * N;
          VF y = hn::Zero(d);
          for (int64_t n = 0; n < N; n++) {
            const VF decay = fast_exp(d, hn::Mul(dt, hn::LoadU(d, a + n * step)));
            const VF now =
                hn::MulAdd(decay, hn::LoadU(d, h + n * step), hn::Mul(in, hn::Set(d, b[n])));
            hn::StoreU(now, d, h + n * step);
            y = hn::MulAdd(now, hn::Set(d, c[n]), y);
          }
          write(y, k.y + at, lanes);
        }
        scatter(h, i, I, N, k.after + r * I * N);
      }
    };
    if (i + step <= last)
      some(Whole{});
    else
      some(First{last - i});
  }
}

// The same backwards: each block's states and decays once more, then from its end to its start.
void scan_backward(const ScanSizes& s, const ScanBackward& k, int64_t first, int64_t last,
                   float* scratch) {
  const DF d;
  const int64_t step = lanes(), N = s.state, I = s.inner, L = s.length, width = N * step;
  float *const a = scratch, *const ga = a + width, *const g = ga + width;
  float* const states = g + width;                          // before each position of a block
  float* const decays = states + (kScanBlock + 1) * width;  // at each
  for (int64_t i = first; i < last; i += step) {
    const auto some = [&](auto lanes) {
      gather(k.a, i, I, N, lanes, a);
      std::memset(ga, 0, static_cast<size_t>(width) * sizeof(float));
      for (int64_t r = 0; r < s.batch; r++) {
        gather(k.gafter + r * I * N, i, I, N, lanes, g);
        for (int64_t block = s.blocks() - 1; block >= 0; block--) {
          const int64_t from = block * kScanBlock, count = std::min<int64_t>(kScanBlock, L - from);
          const float* const start = k.starts + (r * s.blocks() + block) * N * I + i;
          for (int64_t n = 0; n < N; n++)
            hn::StoreU(read(start + n * I, lanes), d, states + n * step);
          for (int64_t t = 0; t < count; t++) {
            const int64_t at = (r * L + from + t) * I + i;
            const VF dt = read(k.dt + at, lanes), in = hn::Mul(dt, read(k.x + at, lanes));
            const float* const b = k.b + (r * L + from + t) * N;
            float *const h = states + t * width, *const e = decays + t * width;
            for (int64_t n = 0; n < N; n++) {
              const VF decay = fast_exp(d, hn::Mul(dt, hn::LoadU(d, a + n * step)));
              hn::StoreU(decay, d, e + n * step);
              hn::StoreU(
                  hn::MulAdd(decay, hn::LoadU(d, h + n * step), hn::Mul(in, hn::Set(d, b[n]))), d,
                  h + width + n * step);
            }
          }
          for (int64_t t = count - 1; t >= 0; t--) {
            const int64_t row = r * L + from + t, at = row * I + i;
            const VF dt = read(k.dt + at, lanes), x = read(k.x + at, lanes);
            const VF gy = read(k.gy + at, lanes), in = hn::Mul(dt, x);
            const float *const b = k.b + row * N, *const c = k.c + row * N;
            const float *const h = states + t * width, *const e = decays + t * width;
            VF gin = hn::Zero(d), gdt = hn::Zero(d);
            for (int64_t n = 0; n < N; n++) {
              const int64_t m = n * step;
              // The gradient of this position's state.
              const VF gh = hn::MulAdd(gy, hn::Set(d, c[n]), hn::LoadU(d, g + m));
              k.gc[row * N + n] += sum_of(d, hn::Mul(gy, hn::LoadU(d, h + width + m)));
              k.gb[row * N + n] += sum_of(d, hn::Mul(gh, in));
              gin = hn::MulAdd(gh, hn::Set(d, b[n]), gin);
              const VF decay = hn::LoadU(d, e + m);
              const VF through = hn::Mul(hn::Mul(gh, hn::LoadU(d, h + m)), decay);  // of dt a
              gdt = hn::MulAdd(through, hn::LoadU(d, a + m), gdt);
              hn::StoreU(hn::MulAdd(through, dt, hn::LoadU(d, ga + m)), d, ga + m);
              hn::StoreU(hn::Mul(gh, decay), d, g + m);
            }
            write(hn::Mul(gin, dt), k.gx + at, lanes);
            write(hn::MulAdd(gin, x, gdt), k.gdt + at, lanes);
          }
        }
        scatter(g, i, I, N, k.gbefore + r * I * N);
      }
      scatter(ga, i, I, N, k.ga);
    };
    if (i + step <= last)
      some(Whole{});
    else
      some(First{last - i});
  }
}

int64_t channels_of_a_vector() {
  return lanes();
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(scan_forward);
HWY_EXPORT(scan_backward);
HWY_EXPORT(channels_of_a_vector);

ScanSizes sizes_of(const Arrays& in) {  // x, dt, a, ...
  return {in[0].shape(0), in[0].shape(1), in[0].shape(2), in[2].shape(1)};
}
// Whole vectors of channels for each thread. @return  channels of a part
int64_t part_of(const ScanSizes& s) {
  const int64_t step = HWY_DYNAMIC_DISPATCH(channels_of_a_vector)();
  const int64_t vectors = (s.inner + step - 1) / step, parts = std::max<int64_t>(1, threads());
  return (vectors + parts - 1) / parts * step;
}
int64_t parts_of(const ScanSizes& s) {
  const int64_t part = std::max<int64_t>(1, part_of(s));
  return (s.inner + part - 1) / part;
}
template <class T>
T at(const Dense& d) {
  return static_cast<T>(d.read());
}

class SelectiveScanGrad : public Op {  // x, dt, a, b, c, starts, h0, gy, gh -> one for each of six
 public:
  const char* name() const override { return "lmxlab::SelectiveScanGrad"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {in[0].shape(), in[1].shape(), in[2].shape(),
            in[3].shape(), in[4].shape(), in[6].shape()};
  }
  Arrays plain(const Arrays& in) const override {
    const auto f = [](const Arrays& v) -> Arrays {
      const auto s = plain::selective_scan(v[0], v[1], v[2], v[3], v[4], v[5]);
      return {s.y, s.state};
    };
    return mx::vjp(f, {in[0], in[1], in[2], in[3], in[4], in[6]}, {in[7], in[8]}).second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    for (auto& o : out) give(o);
    const auto s = sizes_of(in);
    if (s.batch * s.length * s.inner * s.state == 0) return task([] {});
    const int64_t step = HWY_DYNAMIC_DISPATCH(channels_of_a_vector)(), parts = parts_of(s);
    const int64_t own = s.state * step * (3 + 2 * kScanBlock + 1),
                  sums = s.batch * s.length * s.state;
    std::vector<Dense> from;
    for (const auto& a : in) from.emplace_back(a);
    std::vector<float*> to;
    for (auto& o : out) to.push_back(o.data<float>());
    task([=, scratch = Scratch<float>(parts * (own + 2 * sums))] {
      std::vector<const float*> p;
      for (const auto& d : from) p.push_back(at<const float*>(d));
      const int64_t part = part_of(s);
      parallel_parts(parts, [&](int64_t i) {
        float* const mine = scratch.get() + i * (own + 2 * sums);
        float *const gb = mine + own, *const gc = gb + sums;
        std::memset(gb, 0, static_cast<size_t>(2 * sums) * sizeof(float));
        const ScanBackward k{p[0], p[1],  p[2],  p[3],  p[4], p[5], p[7],
                             p[8], to[0], to[1], to[2], gb,   gc,   to[5]};
        HWY_DYNAMIC_DISPATCH(scan_backward)
        (s, k, i * part, std::min(s.inner, (i + 1) * part), mine);
      });
      for (int64_t j = 0; j < 2 * sums; j++) {
        float sum = 0;
        for (int64_t i = 0; i < parts; i++) sum += scratch.get()[i * (own + 2 * sums) + own + j];
        (j < sums ? to[3][j] : to[4][j - sums]) = sum;
      }
    });
  }
};

class SelectiveScanOp : public Op {  // x, dt, a, b, c, h0 -> y, h, states before each block
 public:
  const char* name() const override { return "lmxlab::SelectiveScan"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    const int N = in[2].shape(1), I = in[0].shape(2);
    return {in[0].shape(),
            in[5].shape(),
            {in[0].shape(0), static_cast<int>(sizes_of(in).blocks()), N, I}};
  }
  Arrays plain(const Arrays& in) const override {
    const auto s = plain::selective_scan(in[0], in[1], in[2], in[3], in[4], in[5]);
    const int blocks = static_cast<int>(sizes_of(in).blocks());
    // Nobody reads them but the fused gradient, which is not taken of ordinary ops.
    return {s.y, s.state,
            mx::zeros({in[0].shape(0), blocks, in[2].shape(1), in[0].shape(2)}, mx::float32)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    for (auto& o : out) give(o);
    const auto s = sizes_of(in);
    if (s.batch * s.length * s.inner * s.state == 0) return task([] {});
    const int64_t step = HWY_DYNAMIC_DISPATCH(channels_of_a_vector)(), parts = parts_of(s);
    const int64_t own = 2 * s.state * step;
    std::vector<Dense> from;
    for (const auto& a : in) from.emplace_back(a);
    task([=, y = out[0].data<float>(), after = out[1].data<float>(), starts = out[2].data<float>(),
          scratch = Scratch<float>(parts * own)] {
      std::vector<const float*> p;
      for (const auto& d : from) p.push_back(at<const float*>(d));
      const int64_t part = part_of(s);
      const ScanForward k{p[0], p[1], p[2], p[3], p[4], p[5], y, starts, after};
      parallel_parts(parts, [&](int64_t i) {
        HWY_DYNAMIC_DISPATCH(scan_forward)
        (s, k, i * part, std::min(s.inner, (i + 1) * part), scratch.get() + i * own);
      });
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    const Arrays from{in[0],      in[1], in[2],         in[3],        in[4],
                      outputs[2], in[5], cotangents[0], cotangents[1]};
    const auto op = std::make_shared<SelectiveScanGrad>();
    auto shapes = op->output_shapes(from);
    const auto all =
        array::make_arrays(std::move(shapes), std::vector<mx::Dtype>(6, mx::float32), op, from);
    Arrays out;
    for (const int i : argnums) out.push_back(all[static_cast<size_t>(i)]);
    return out;
  }
};

}  // namespace

SelectiveScan selective_scan(const array& x, const array& dt, const array& a, const array& b,
                             const array& c, const array& state) {
  const bool shapes = x.ndim() == 3 && dt.shape() == x.shape() && a.ndim() == 2 &&
                      a.shape(0) == x.shape(2) && b.ndim() == 3 && c.shape() == b.shape() &&
                      b.shape(0) == x.shape(0) && b.shape(1) == x.shape(1) &&
                      b.shape(2) == a.shape(1) &&
                      state.shape() == mx::Shape{x.shape(0), x.shape(2), a.shape(1)};
  const Arrays in{x, dt, a, b, c, state};
  const bool types =
      std::all_of(in.begin(), in.end(), [](const array& i) { return i.dtype() == mx::float32; });
  if (!shapes || !types)
    throw Error(Kind::usage,
                "[selective_scan] expected float32 x and dt [B, L, I], a [I, N], b and c [B, L, N] "
                "and a state [B, I, N]");
  if (!fused(mx::float32)) return plain::selective_scan(x, dt, a, b, c, state);
  const auto op = std::make_shared<SelectiveScanOp>();
  auto out =
      array::make_arrays(op->output_shapes(in), std::vector<mx::Dtype>(3, mx::float32), op, in);
  return {out[0], out[1]};
}

SelectiveScan plain::selective_scan(const array& x, const array& dt, const array& a, const array& b,
                                    const array& c, const array& state) {
  const auto in = mx::multiply(x, dt);
  auto h = state;
  Arrays y;
  const auto row = [](const array& v, int t) { return mx::take(v, t, 1); };
  for (int t = 0; t < x.shape(1); t++) {
    const auto decay = mx::exp(mx::multiply(mx::expand_dims(row(dt, t), -1), a));
    h = mx::add(mx::multiply(decay, h),
                mx::multiply(mx::expand_dims(row(in, t), -1), mx::expand_dims(row(b, t), 1)));
    y.push_back(mx::sum(mx::multiply(h, mx::expand_dims(row(c, t), 1)), -1));
  }
  return {y.empty() ? mx::zeros_like(x) : mx::stack(y, 1), h};
}

}  // namespace lmxlab::kernels
#endif
