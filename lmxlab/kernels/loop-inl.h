// Loops over memory of any length: whole vectors, then what is left. Included by kernels after
// foreach_target.h, once an instruction set.
//
//   each(n, [&](int64_t i, auto lanes) { write(f(read(x + i, lanes)), y + i, lanes); });

#if defined(LMXLAB_KERNELS_LOOP_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LMXLAB_KERNELS_LOOP_INL
#undef LMXLAB_KERNELS_LOOP_INL
#else
#define LMXLAB_KERNELS_LOOP_INL
#endif

#include <hwy/cache_control.h>

#include "lmxlab/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

struct Whole {};  // all lanes of a vector
struct Past {};   // the same, and float32 written past the caches: for aligned addresses
struct First {    // the first n lanes; the others read as 0 and are not written
  int64_t n;
};

template <class T>
HWY_INLINE VF read(const T* p, Whole) {
  return load(DF(), p);
}
template <class T>
HWY_INLINE VF read(const T* p, Past) {
  return load(DF(), p);
}
template <class T>
HWY_INLINE VF read(const T* p, First lanes) {
  return load_n(DF(), p, lanes.n);
}
template <class T>
HWY_INLINE void write(VF v, T* p, Whole) {
  store(v, DF(), p);
}
template <class T>
HWY_INLINE void write(VF v, T* p, Past) {
  if constexpr (sizeof(T) == 4) {
    hn::Stream(v, DF(), p);
  } else {
    store(v, DF(), p);
  }
}
template <class T>
HWY_INLINE void write(VF v, T* p, First lanes) {
  store_n(v, DF(), p, lanes.n);
}

// v with zeros in the lanes that are not there.
HWY_INLINE VF only(VF v, Whole) {
  return v;
}
HWY_INLINE VF only(VF v, First lanes) {
  return hn::IfThenElseZero(hn::FirstN(DF(), static_cast<size_t>(lanes.n)), v);
}

template <class F>
HWY_INLINE void each(int64_t n, F f) {
  const int64_t step = lanes();
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    f(i, Whole{});
  }
  if (i < n) {
    f(i, First{n - i});
  }
}

// The same for a function that writes y[i] and does not read it. Past the caches its lines are not
// fetched before they are written, which is a quarter of what an addition moves; hwy::FlushStream
// ends a thread's part then.
template <class T, class F>
HWY_INLINE void each_to(const T* y, bool past, int64_t n, F f) {
  const int64_t step = lanes();
  const bool aligned =
      reinterpret_cast<uintptr_t>(y) % (sizeof(T) * static_cast<size_t>(step)) == 0;
  if (sizeof(T) != 4 || !past || !aligned) {
    return each(n, f);
  }
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    f(i, Past{});
  }
  if (i < n) {
    f(i, First{n - i});
  }
}

// The sum of f(i, lanes), where absent lanes count as they come: f keeps them zero. Four
// accumulators hide the latency of the addition.
template <class F>
HWY_INLINE float sum(int64_t n, F f) {
  const DF d;
  const int64_t step = lanes();
  VF a = hn::Zero(d), b = a, c = a, e = a;
  int64_t i = 0;
  for (; i + 4 * step <= n; i += 4 * step) {
    a = hn::Add(a, f(i, Whole{}));
    b = hn::Add(b, f(i + step, Whole{}));
    c = hn::Add(c, f(i + 2 * step, Whole{}));
    e = hn::Add(e, f(i + 3 * step, Whole{}));
  }
  for (; i + step <= n; i += step) {
    a = hn::Add(a, f(i, Whole{}));
  }
  if (i < n) {
    b = hn::Add(b, f(i, First{n - i}));
  }
  return sum_of(d, hn::Add(hn::Add(a, b), hn::Add(c, e)));
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
