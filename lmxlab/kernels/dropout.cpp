#include "lmxlab/kernels/dropout.h"

#include <mlx/random.h>

#include <cmath>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#ifndef LMXLAB_KERNELS_DROPOUT_MASK
#define LMXLAB_KERNELS_DROPOUT_MASK
namespace lmxlab::kernels {
struct DropoutMask {
  // Counter 16 b + j gives the eight half words of elements 128 b + 16 i + j, i < 8: a block of 16
  // counters is a whole number of vectors of any instruction set.
  static constexpr int64_t kBlock = 128, kCounters = 16;
  uint32_t key[2];
  int32_t threshold;  // half words below it drop
  float factor;
  int64_t before;  // elements that come before the array's, a multiple of a block
};
}  // namespace lmxlab::kernels
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/dropout.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

using DU = hn::ScalableTag<uint64_t>;
using VU = hn::Vec<DU>;

// The low halves of the lanes times m, 64 bits each.
HWY_INLINE VU widened_product(VU v, uint32_t m) {
#if HWY_TARGET == HWY_SCALAR
  return hn::Set(DU(), (hn::GetLane(v) & 0xffffffffu) * m);
#else
  const hn::Repartition<uint32_t, DU> d32;
  return hn::MulEven(hn::BitCast(d32, v), hn::Set(d32, m));
#endif
}

// Four words of each of a block's counters: words[16 w + j]. One word of a counter lies in each
// 64-bit lane; only low halves matter, so the high ones keep what products leave there.
HWY_INLINE void philox(uint64_t counter, const uint32_t* key, uint32_t* words) {
  const DU d;
  const hn::Rebind<uint32_t, DU> d32;
  constexpr int64_t kStride = DropoutMask::kCounters;
  for (int64_t j = 0; j < kStride; j += static_cast<int64_t>(hn::Lanes(d))) {
    VU a = hn::Iota(d, counter + static_cast<uint64_t>(j));
    VU b = hn::ShiftRight<32>(a), c = hn::Zero(d), e = hn::Zero(d);
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
      const VU p = widened_product(a, 0xD2511F53u), q = widened_product(c, 0xCD9E8D57u);
      a = hn::Xor(hn::Xor(hn::ShiftRight<32>(q), b), hn::Set(d, k0));
      b = q;
      c = hn::Xor(hn::Xor(hn::ShiftRight<32>(p), e), hn::Set(d, k1));
      e = p;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    hn::StoreU(hn::TruncateTo(d32, a), d32, words + j);
    hn::StoreU(hn::TruncateTo(d32, b), d32, words + kStride + j);
    hn::StoreU(hn::TruncateTo(d32, c), d32, words + 2 * kStride + j);
    hn::StoreU(hn::TruncateTo(d32, e), d32, words + 3 * kStride + j);
  }
}

// Elements [first, last) of the whole; first is a multiple of a block.
void drop_run(Type type, const void* x, void* y, int64_t first, int64_t last, DropoutMask mask) {
  with_type(type, [&](auto t) {
    using T = decltype(t);
    const hn::RebindToSigned<DF> di;
    const hn::RebindToUnsigned<DF> du;
    const auto threshold = hn::Set(di, mask.threshold);
    const VF factor = hn::Set(DF(), mask.factor);
    constexpr int64_t kBlock = DropoutMask::kBlock, kHalf = DropoutMask::kCounters;
    HWY_ALIGN uint32_t words[kBlock / 2];
    for (int64_t at = first; at < last; at += kBlock) {
      philox(static_cast<uint64_t>((mask.before + at) / kBlock * kHalf), mask.key, words);
      for (int64_t i = 0; i < kBlock && at + i < last; i += kHalf) {
        const T* const in = static_cast<const T*>(x) + at + i;
        T* const out = static_cast<T*>(y) + at + i;
        const uint32_t* const word = words + i / (2 * kHalf) * kHalf;
        const bool high = i % (2 * kHalf) != 0;
        each(std::min(kHalf, last - at - i), [&](int64_t k, auto lanes) {
          const auto both = hn::Load(du, word + k);
          const auto half = high ? hn::ShiftRight<16>(both) : hn::And(both, hn::Set(du, 0xffffu));
          const auto dropped = hn::RebindMask(DF(), hn::Lt(hn::BitCast(di, half), threshold));
          write(hn::IfThenZeroElse(dropped, hn::Mul(read(in + k, lanes), factor)), out + k, lanes);
        });
      }
    }
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(drop_run);

class Dropout : public Op {  // x, key
 public:
  Dropout(float rate, int64_t first) : rate_(rate), first_(first) {}
  const char* name() const override { return "lmxlab::Dropout"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const Dropout&>(other);
    return rate_ == op.rate_ && first_ == op.first_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }

  Arrays plain(const Arrays& in) const override {
    const auto& x = in[0];
    const auto keep = mx::random::bernoulli(array(1 - rate_), x.shape(), in[1]);
    return {mx::where(keep, mx::multiply(x, array(1 / (1 - rate_), x.dtype())),
                      array(0.0f, x.dtype()))};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0], in[0]);
    task([x = Dense(in[0]), key = Dense(in[1]), type = type_of(in[0].dtype()),
          y = out[0].data<void>(), n = static_cast<int64_t>(in[0].size()), rate = rate_,
          before = first_] {
      const auto* const k = static_cast<const uint32_t*>(key.read());
      const void* const from = x.read();
      const auto threshold = static_cast<int32_t>(std::lround(rate * 0x1p16));
      const DropoutMask mask{
          {k[0], k[1]}, threshold, 1 / (1 - static_cast<float>(threshold * 0x1p-16)), before};
      constexpr int64_t kBlock = DropoutMask::kBlock;
      parallel_for((n + kBlock - 1) / kBlock, 8192 / kBlock, [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(drop_run)
        (type, from, y, first * kBlock, std::min(n, last * kBlock), mask);
      });
    });
  }

  // The function is linear, and its ordinary form has another mask.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays out;
    for (const int i : argnums) {
      out.push_back(i == 0 ? dropout(cotangents[0], rate_, primals[1], first_)
                           : mx::zeros_like(primals[1]));
    }
    return out;
  }
  Arrays jvp(const Arrays& primals, const Arrays& tangents,
             const std::vector<int>& argnums) override {
    return {argnums[0] == 0 ? dropout(tangents[0], rate_, primals[1], first_)
                            : mx::zeros_like(primals[0])};
  }

 private:
  float rate_;
  int64_t first_;
};

}  // namespace

array dropout(const array& x, float rate, const array& key, int64_t first) {
  if (!(rate >= 0 && rate <= 1 - 0x1p-16)) {
    throw Error(Kind::usage, "[dropout] the rate is out of range: expected 0 to below 1, got " +
                                 std::to_string(rate) + ".");
  }
  if (key.dtype() != mx::uint32 || key.shape() != mx::Shape{2}) {
    throw Error(Kind::usage, "[dropout] expected a key of mx::random, uint32 [2].");
  }
  if (first % DropoutMask::kBlock != 0 || first < 0 || (first > 0 && !fused(x.dtype()))) {
    throw Error(Kind::usage, "[dropout] a part begins at a multiple of 128 elements, on the CPU.");
  }
  if (rate == 0) return x;
  auto op = std::make_shared<Dropout>(rate, first);
  return fused(x.dtype()) ? output_like(x, op, {x, key}) : op->plain({x, key})[0];
}

}  // namespace lmxlab::kernels
#endif
