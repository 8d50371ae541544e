#include "lmxlab/kernels/cross_entropy_tiles.h"

#include <algorithm>
#include <cmath>

#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/cross_entropy_tiles.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/highway.h>

#include "lmxlab/kernels/loop-inl.h"
#include "lmxlab/kernels/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

template <class T>
HWY_INLINE T* row_of(const Tile& t, int64_t row) {
  return static_cast<T*>(t.data) + row * t.ld;
}

// v with -inf in the lanes that are not there.
HWY_INLINE VF or_least(VF v, Whole) {
  return v;
}
HWY_INLINE VF or_least(VF v, First lanes) {
  const DF d;
  return hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(lanes.n)), v, hn::Set(d, -INFINITY));
}

template <class T>
HWY_INLINE float largest(const T* z, int64_t n) {
  const DF d;
  VF a = hn::Set(d, -INFINITY), b = a;
  each(n, [&](int64_t i, auto lanes) {
    a = hn::Max(a, or_least(read(z + i, lanes), lanes));
    std::swap(a, b);
  });
  return hn::GetLane(hn::MaxOfLanes(d, hn::Max(a, b)));
}

template <class T>
void add_rows(const Tile& tile, int64_t begin, int64_t end, const int32_t* targets, bool with_total,
              LogitSums* sums) {
  const DF d;
  for (int64_t r = begin; r < end; r++) {
    const T* const z = row_of<const T>(tile, r);
    auto& s = sums[r];
    const float max = std::max(s.max, largest(z, tile.columns));
    const float from = max == -INFINITY ? 0 : max;  // of nothing but -inf the sum is 0
    const VF base = hn::Set(d, from);
    s.sum *= std::exp(s.max - from);
    s.sum += sum(tile.columns, [&](int64_t i, auto lanes) {
      return only(fast_exp(d, hn::Sub(read(z + i, lanes), base)), lanes);
    });
    s.max = max;
    if (with_total) {
      s.total += sum(tile.columns, [&](int64_t i, auto lanes) { return read(z + i, lanes); });
    }
    const int64_t at = targets[r] - tile.first;
    if (0 <= at && at < tile.columns) {
      s.picked = hn::GetLane(load_n(d, z + at, 1));
    }
  }
}
void add_some(const Tile& tile, int64_t begin, int64_t end, const int32_t* targets, bool with_total,
              LogitSums* sums) {
  with_type(tile.type,
            [&](auto t) { add_rows<decltype(t)>(tile, begin, end, targets, with_total, sums); });
}

template <class B>
void head_rows(const Tile& tile, int64_t begin, int64_t end, const B* bias, float scale,
               float softcap) {
  const DF d;
  const VF by = hn::Set(d, softcap == 0 ? scale : scale / softcap), cap = hn::Set(d, softcap);
  for (int64_t r = begin; r < end; r++) {
    auto* const z = row_of<float>(tile, r);
    each(tile.columns, [&](int64_t i, auto lanes) {
      VF v = read(z + i, lanes);
      if (bias) v = hn::Add(v, read(bias + i, lanes));
      v = hn::Mul(v, by);
      if (softcap != 0) v = hn::Mul(cap, fast_tanh(d, v));
      write(v, z + i, lanes);
    });
  }
}
void head_some(const Tile& tile, int64_t begin, int64_t end, const void* bias, Type bias_type,
               float scale, float softcap) {
  with_type(bias_type, [&](auto t) {
    head_rows(tile, begin, end, static_cast<const decltype(t)*>(bias), scale, softcap);
  });
}

template <class T, class To>
void gradient_rows(const Tile& tile, int64_t begin, int64_t end, const TileGradient& k, To* to,
                   int64_t ld) {
  const DF d;
  const float per_cap = k.head.softcap == 0 ? 0 : 1 / k.head.softcap;
  const VF one = hn::Set(d, 1.0f), shrink = hn::Set(d, per_cap);
  for (int64_t r = begin; r < end; r++) {
    const T* const z = row_of<const T>(tile, r);
    To* const out = to + r * ld;
    const float g = k.targets[r] == k.options.ignore_index ? 0 : k.nll_slope[r] * k.head.scale;
    const float all = g + k.lse_slope[r] * k.head.scale;
    const float spread = g * k.options.label_smoothing / static_cast<float>(k.vocabulary);
    const VF base = hn::Set(d, k.lse[r]), weight = hn::Set(d, all), less = hn::Set(d, spread);
    const auto derivative = [&](VF v, VF target) {
      const VF p = fast_exp(d, hn::Sub(v, base));
      const VF slope = hn::MulSub(p, weight, target);
      const VF t = hn::Mul(v, shrink);
      return k.head.softcap == 0 ? slope : hn::Mul(slope, hn::NegMulAdd(t, t, one));
    };
    // Before its logit is written over.
    const int64_t at = k.targets[r] - tile.first;
    const bool here = 0 <= at && at < tile.columns;
    const VF target = hn::Set(d, spread + g * (1 - k.options.label_smoothing));
    const VF own = here ? derivative(load_n(d, z + at, 1), target) : target;
    each(tile.columns, [&](int64_t i, auto lanes) {
      write(derivative(read(z + i, lanes), less), out + i, lanes);
    });
    if (here) store_n(own, d, out + at, 1);
  }
}
void gradient_some(const Tile& tile, int64_t begin, int64_t end, const TileGradient& k, void* to,
                   Type to_type, int64_t ld) {
  with_type(tile.type, [&](auto t) {
    with_type(to_type, [&](auto o) {
      using T = decltype(t);
      using To = decltype(o);
      gradient_rows<T>(tile, begin, end, k, static_cast<To*>(to), ld);
    });
  });
}

void add_some_columns(const Tile& tile, int64_t begin, int64_t end, float* sums) {
  with_type(tile.type, [&](auto t) {
    for (int64_t r = 0; r < tile.rows; r++) {
      const auto* const z = row_of<const decltype(t)>(tile, r) + begin;
      each(end - begin, [&](int64_t i, auto lanes) {
        float* const to = sums + begin + i;
        write(hn::Add(read(to, lanes), read(z + i, lanes)), to, lanes);
      });
    }
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

HWY_EXPORT(add_some);
HWY_EXPORT(head_some);
HWY_EXPORT(gradient_some);
HWY_EXPORT(add_some_columns);

int64_t grain(int64_t columns) {
  return std::max<int64_t>(1, 4096 / std::max<int64_t>(1, columns));
}

}  // namespace

void finish(const LogitSums* sums, const int32_t* targets, int64_t n, int64_t vocabulary,
            const CrossEntropyOptions& o, float* nll, float* lse) {
  const float spread = o.label_smoothing / static_cast<float>(vocabulary);
  for (int64_t i = 0; i < n; i++) {
    const auto& s = sums[i];
    lse[i] = s.max + std::log(s.sum);
    if (targets[i] == o.ignore_index) {
      nll[i] = 0;
    } else if (targets[i] < 0 || targets[i] >= vocabulary) {
      nll[i] = NAN;
    } else {
      nll[i] = lse[i] - (1 - o.label_smoothing) * s.picked - spread * s.total;
    }
  }
}

void add_tile(const Tile& tile, const int32_t* targets, bool with_total, LogitSums* sums) {
  parallel_for(tile.rows, grain(tile.columns), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(add_some)(tile, begin, end, targets, with_total, sums);
  });
}

void apply_head(const Tile& tile, const void* bias, Type bias_type, float scale, float softcap) {
  if (!bias && scale == 1 && softcap == 0) return;
  parallel_for(tile.rows, grain(tile.columns), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(head_some)(tile, begin, end, bias, bias_type, scale, softcap);
  });
}

void tile_gradient(const Tile& tile, const TileGradient& gradient, void* to, Type to_type,
                   int64_t to_ld) {
  parallel_for(tile.rows, grain(tile.columns), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(gradient_some)(tile, begin, end, gradient, to, to_type, to_ld);
  });
}

void add_columns(const Tile& tile, float* sums) {
  parallel_for(tile.columns, std::max<int64_t>(64, grain(tile.rows)),
               [&](int64_t begin, int64_t end) {
                 HWY_DYNAMIC_DISPATCH(add_some_columns)(tile, begin, end, sums);
               });
}

}  // namespace lmxlab::kernels
#endif
