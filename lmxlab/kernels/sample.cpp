#include "lmxlab/kernels/sample.h"

#include <mlx/random.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <type_traits>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/sample.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "lmxlab/kernels/loop-inl.h"
#include "lmxlab/kernels/math-inl.h"

#ifndef LMXLAB_KERNELS_SAMPLE_TYPES
#define LMXLAB_KERNELS_SAMPLE_TYPES
namespace lmxlab::kernels {

// Some of a row's words in the order of their ids, with log-weights x and weights w. Without w all
// weigh 1; without id they follow one another from `first`.
struct Words {
  float *x, *w;
  int32_t* id;
  int64_t n;
  int32_t first = 0;

  float weight(int64_t i) const { return w ? w[i] : 1; }
  int32_t word(int64_t i) const { return id ? id[i] : first + static_cast<int32_t>(i); }
  Words part(int64_t begin, int64_t end) const {
    return {x + begin, w ? w + begin : nullptr, id ? id + begin : nullptr, end - begin,
            first + static_cast<int32_t>(begin)};
  }
};

struct Winner {
  float score = -std::numeric_limits<float>::infinity();
  int32_t id = 0;
};

// Scratch of a row: its words, and room for some of them. Compressing stores write whole vectors,
// hence the room behind.
struct RowMemory {
  static constexpr int64_t kRoom = 64;
  Words words, spare;

  static int64_t floats(int64_t vocabulary) { return 6 * (vocabulary + kRoom); }
  RowMemory(float* at, int64_t vocabulary) {
    const int64_t step = vocabulary + kRoom;
    words = {at, at + step, reinterpret_cast<int32_t*>(at + 2 * step), vocabulary};
    spare = {at + 3 * step, at + 4 * step, reinterpret_cast<int32_t*>(at + 5 * step), 0};
  }
};

// Where a ranking (larger x first, of equal ones the smaller id) is cut: the last word that stays.
struct Cut {
  float x = -std::numeric_limits<float>::infinity();
  int32_t id = std::numeric_limits<int32_t>::max();
};

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

using DI = hn::RebindToSigned<DF>;
using DU = hn::RebindToUnsigned<DF>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;
using Mask = hn::Mask<DF>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The mask without lanes that are not there.
HWY_INLINE Mask within(Mask mask, Whole) {
  return mask;
}
HWY_INLINE Mask within(Mask mask, First some) {
  return hn::And(mask, hn::FirstN(DF(), static_cast<size_t>(some.n)));
}
// first, first + 1, ...; Highway's Iota takes a variable through memory, a constant not.
HWY_INLINE VI count_from(int64_t first) {
  const DI d;
  return hn::Add(hn::Iota(d, 0), hn::Set(d, static_cast<int32_t>(first)));
}
template <class Lanes>
HWY_INLINE VI read_ids(const Words& words, int64_t i, Lanes some) {
  if (!words.id) return count_from(words.first + i);
  return hn::BitCast(DI(), read(reinterpret_cast<const float*>(words.id) + i, some));
}
template <class Lanes>
HWY_INLINE VF read_weights(const Words& words, int64_t i, Lanes some) {
  return words.w ? read(words.w + i, some) : only(hn::Set(DF(), 1.0f), some);
}

// x = logits / temperature. Returns the largest x.
template <class T>
HWY_INLINE float scale_row(const T* logits, float temperature, const Words& to) {
  const DF d;
  const VF by = hn::Set(d, 1 / temperature), least = hn::Set(d, -kInfinity);
  VF most = least;
  each(to.n, [&](int64_t i, auto some) {
    const VF v = hn::Mul(read(logits + i, some), by);
    write(v, to.x + i, some);
    const Mask larger = within(hn::Gt(v, most), some);
    most = hn::IfThenElse(larger, v, most);
  });
  return hn::GetLane(hn::MaxOfLanes(d, most));
}

// w = e^(x - most). Returns the sum.
HWY_INLINE float weigh(const Words& words, float most) {
  const DF d;
  const VF top = hn::Set(d, most);
  return sum(words.n, [&](int64_t i, auto some) {
    const VF w = fast_exp(d, hn::Sub(read(words.x + i, some), top));
    write(w, words.w + i, some);
    return only(w, some);
  });
}

// The words that keep(x, id) says, to `to`, which may be the same memory.
template <class Keep>
HWY_INLINE Words pick(const Words& words, const Words& to, Keep keep) {
  const DF d;
  const DI di;
  int64_t n = 0;
  each(words.n, [&](int64_t i, auto some) {
    const VF x = read(words.x + i, some), w = read_weights(words, i, some);
    const VI id = read_ids(words, i, some);
    const Mask mask = within(keep(x, id), some);
    // Packed in a register first: on some processors packing into memory is slow.
    hn::StoreU(hn::Compress(w, mask), d, to.w + n);
    hn::StoreU(hn::Compress(id, hn::RebindMask(di, mask)), di, to.id + n);
    hn::StoreU(hn::Compress(x, mask), d, to.x + n);
    n += static_cast<int64_t>(hn::CountTrue(d, mask));
  });
  return {to.x, to.w, to.id, n};
}
HWY_INLINE Words between(const Words& words, float low, float high, const Words& to) {
  const VF bottom = hn::Set(DF(), low), top = hn::Set(DF(), high);
  return pick(words, to, [&](VF x, VI) { return hn::And(hn::Ge(x, bottom), hn::Lt(x, top)); });
}
HWY_INLINE Words up_to(const Words& words, const Cut& cut, const Words& to) {
  const VF edge = hn::Set(DF(), cut.x);
  const VI last = hn::Set(DI(), cut.id);
  return pick(words, to, [&](VF x, VI id) {
    const Mask at = hn::AndNot(hn::RebindMask(DF(), hn::Gt(id, last)), hn::Eq(x, edge));
    return hn::Or(hn::Gt(x, edge), at);
  });
}

constexpr int kPivots = 8;
struct Sums {
  float above[kPivots + 1];  // weight of the words from each pivot up; of all
};
HWY_INLINE Sums sum_above(const Words& words, const float* pivot) {
  const DF d;
  VF s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0, all = s0;
  each(words.n, [&](int64_t i, auto some) {
    const VF x = read(words.x + i, some), w = read_weights(words, i, some);
    const auto add = [&](VF& to, int j) {
      to = hn::Add(to, hn::IfThenElseZero(hn::Ge(x, hn::Set(d, pivot[j])), w));
    };
    add(s0, 0), add(s1, 1), add(s2, 2), add(s3, 3), add(s4, 4), add(s5, 5), add(s6, 6), add(s7, 7);
    all = hn::Add(all, w);
  });
  return {{sum_of(d, s0), sum_of(d, s1), sum_of(d, s2), sum_of(d, s3), sum_of(d, s4), sum_of(d, s5),
           sum_of(d, s6), sum_of(d, s7), sum_of(d, all)}};
}

// The last word of the ranking before which the weights add up to less than `target`; at least its
// first. Narrows down to few words between pivots, which are quantiles of a sample.
Cut find_cut(Words words, float target, const Words& spare) {
  constexpr int64_t kFew = 64;  // also the sample's size
  float before = 0;             // weight of the words that rank before these
  bool equal = false;
  while (words.n > kFew && !equal) {
    float sample[kFew];
    for (int64_t i = 0; i < kFew; i++) sample[i] = words.x[i * words.n / kFew];
    std::sort(sample, sample + kFew, std::greater<>());
    // Each quantile twice: the next larger number and itself. Between the two lie only its equals,
    // so that many equal words are found as such; and every other interval is without it.
    float pivot[kPivots];
    for (int j = 0; j < kPivots; j += 2) {
      pivot[j + 1] = sample[kFew * (j + 1) / kPivots];
      pivot[j] = std::nextafter(pivot[j + 1], kInfinity);
    }
    const auto sums = sum_above(words, pivot);
    int j = 0;
    float above = 0;
    while (j <= kPivots && !(sums.above[j] > above && before + sums.above[j] >= target)) {
      above = sums.above[j++];
    }
    if (j > kPivots) return {};  // all stay
    before += above;
    equal = j % 2 == 1;
    words = between(words, j < kPivots ? pivot[j] : -kInfinity, j > 0 ? pivot[j - 1] : kInfinity,
                    spare);
  }
  int64_t order[kFew];
  if (!equal) {
    for (int64_t i = 0; i < words.n; i++) order[i] = i;
    std::sort(order, order + words.n, [&](int64_t a, int64_t b) {
      return words.x[a] != words.x[b] ? words.x[a] > words.x[b] : a < b;
    });
  }
  Cut cut;
  for (int64_t i = 0; i < words.n && (i == 0 || before < target); i++) {
    const int64_t at = equal ? i : order[i];
    cut = {words.x[at], words.word(at)};
    before += words.weight(at);
  }
  return cut;
}

template <int kBits>
using Left = std::integral_constant<int, kBits>;

// The bits that mx::random::bits(key) gives n words: one Threefry 2x32 hash (Salmon et al., SC
// 2011) for two of them, i and i + n / 2 (rounded up).
HWY_INLINE VU bits_of(VU id, int64_t n, const uint32_t* key) {
  const DU d;
  const auto half = static_cast<uint32_t>((n + 1) / 2);
  const auto first = hn::Lt(hn::BitCast(DI(), id), hn::Set(DI(), static_cast<int32_t>(half)));
  const auto is_first = hn::RebindMask(d, first);
  const VU h = hn::Set(d, half);
  VU a = hn::IfThenElse(is_first, id, hn::Sub(id, h));
  VU b = hn::Add(a, h);
  if (n % 2) {  // the middle one has no partner
    b = hn::IfThenElse(hn::Eq(b, hn::Set(d, static_cast<uint32_t>(n))), hn::Zero(d), b);
  }
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu};
  a = hn::Add(a, hn::Set(d, keys[0]));
  b = hn::Add(b, hn::Set(d, keys[1]));
  const auto mix = [&](auto left) {
    a = hn::Add(a, b);
    b = hn::Or(hn::ShiftLeft<decltype(left)::value>(b),
               hn::ShiftRight<32 - decltype(left)::value>(b));
    b = hn::Xor(b, a);
  };
  const auto four = [&](auto r0, auto r1, auto r2, auto r3, uint32_t round) {
    mix(r0), mix(r1), mix(r2), mix(r3);
    a = hn::Add(a, hn::Set(d, keys[round % 3]));
    b = hn::Add(b, hn::Set(d, keys[(round + 1) % 3] + round));
  };
  const auto even = [&](uint32_t round) {
    four(Left<13>(), Left<15>(), Left<26>(), Left<6>(), round);
  };
  const auto odd = [&](uint32_t round) {
    four(Left<17>(), Left<29>(), Left<16>(), Left<24>(), round);
  };
  even(1), odd(2), even(3), odd(4), even(5);
  return hn::IfThenElse(is_first, a, b);
}

// The u that mx::random::uniform(smallest normal number, 1) makes of the bits.
HWY_INLINE VF uniform(VU bits) {
  const DF d;
  const auto high = hn::ConvertTo(d, hn::BitCast(DI(), hn::ShiftRight<16>(bits)));
  const auto low = hn::ConvertTo(d, hn::BitCast(DI(), hn::And(bits, hn::Set(DU(), 0xffffu))));
  const VF u = hn::Mul(hn::MulAdd(high, hn::Set(d, 65536.0f), low), hn::Set(d, 0x1p-32f));
  const VF least = hn::Set(d, std::numeric_limits<float>::min());
  return hn::Add(hn::Min(u, hn::Set(d, 1 - 0x1p-24f)), least);
}
HWY_INLINE VF gumbel(VF u) {
  const DF d;
  return hn::Neg(hn::Log(d, hn::Neg(hn::Log(d, u))));
}
// No less than that, for few operations: -log(-log(u)) <= -log(1 - u) <= ln 2 times -exponent.
HWY_INLINE VF gumbel_limit(VF u) {
  const DF d;
  const auto exponent = hn::ShiftRight<23>(hn::BitCast(DI(), hn::Sub(hn::Set(d, 1.0f), u)));
  const VF doublings = hn::ConvertTo(d, hn::Sub(hn::Set(DI(), 127), exponent));
  return hn::MulAdd(doublings, hn::Set(d, 0.6931472f), hn::Set(d, 0.001f));
}

// The best score so far in each lane, and whose it is.
struct Lead {
  VF score;
  VI id;

  HWY_INLINE void offer(Mask better, VF scores, VI ids) {
    score = hn::IfThenElse(better, scores, score);
    id = hn::IfThenElse(hn::RebindMask(DI(), better), ids, id);
  }
  HWY_INLINE Winner winner() const {  // of equal scores the smallest id
    const DF d;
    const VF most = hn::MaxOfLanes(d, score);
    const VI none = hn::Set(DI(), std::numeric_limits<int32_t>::max());
    const VI tied = hn::IfThenElse(hn::RebindMask(DI(), hn::Eq(score, most)), id, none);
    return {hn::GetLane(most), hn::GetLane(hn::MinOfLanes(DI(), tied))};
  }
};

HWY_INLINE Lead nobody() {
  return {hn::Set(DF(), -kInfinity), hn::Zero(DI())};
}

template <class T>
HWY_INLINE int32_t largest(const T* logits, int64_t n) {
  Lead lead = nobody();
  each(n, [&](int64_t i, auto some) {
    const VF x = read(logits + i, some);
    lead.offer(within(hn::Gt(x, lead.score), some), x, count_from(i));
  });
  return lead.winner().id;
}

// The largest x + noise of some words; `all` is their number before any was left out.
Winner draw_from(const Words& words, int64_t all, const uint32_t* key) {
  const DF d;
  Lead lead = nobody();
  VF best = lead.score;  // of all lanes
  each(words.n, [&](int64_t i, auto some) {
    const VF x = read(words.x + i, some);
    const VI id = read_ids(words, i, some);
    const VF u = uniform(bits_of(hn::BitCast(DU(), id), all, key));
    // Two logarithms for those few that may still win.
    if (hn::AllFalse(d, within(hn::Gt(hn::Add(x, gumbel_limit(u)), best), some))) return;
    const VF score = hn::Add(x, gumbel(u));
    lead.offer(within(hn::Gt(score, lead.score), some), score, id);
    best = hn::MaxOfLanes(d, lead.score);
  });
  return lead.winner();
}

// The same by all threads.
HWY_INLINE int32_t draw_from_all(const Words& words, int64_t all, const uint32_t* key) {
  constexpr int64_t kParts = 16, kGrain = 4096;
  const int64_t parts =
      std::clamp<int64_t>(words.n / kGrain, 1, std::min<int64_t>(kParts, threads()));
  Winner winners[kParts];
  parallel_parts(parts, [&](int64_t part) {
    const int64_t begin = words.n * part / parts, end = words.n * (part + 1) / parts;
    winners[part] = draw_from(words.part(begin, end), all, key);
  });
  Winner best = winners[0];
  for (int64_t i = 1; i < parts; i++) {
    if (winners[i].score > best.score) best = winners[i];
  }
  return best.id;
}

template <class T>
HWY_INLINE int32_t draw(const T* logits, int64_t n, const Sampling& s, const uint32_t* key,
                        float* memory) {
  if (s.temperature == 0) return largest(logits, n);
  const RowMemory room(memory, n);
  Words words{room.words.x, nullptr, nullptr, n};
  const float most = scale_row(logits, s.temperature, words);
  if (0 < s.top_k && s.top_k < n) {
    words = up_to(words, find_cut(words, static_cast<float>(s.top_k), room.spare), room.words);
  }
  if (s.top_p < 1) {
    words.w = room.words.w;
    const float all = weigh(words, most);
    words = up_to(words, find_cut(words, s.top_p * all, room.spare), room.words);
  }
  if (s.min_p > 0) words = between(words, most + std::log(s.min_p), kInfinity, room.words);
  return draw_from_all(words, n, key);
}

int32_t draw_row(Type type, const void* logits, int64_t n, const Sampling& s, const uint32_t* key,
                 float* memory) {
  int32_t token = 0;
  with_type(type, [&](auto t) {
    token = draw(static_cast<const decltype(t)*>(logits), n, s, key, memory);
  });
  return token;
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(draw_row);

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class Sample : public Op {  // logits, keys -> tokens
 public:
  explicit Sample(const Sampling& sampling) : sampling_(sampling) {}
  const char* name() const override { return "lmxlab::Sample"; }
  bool same(const Op& other) const override {
    return sampling_ == static_cast<const Sample&>(other).sampling_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {{in[0].shape(0)}}; }
  Arrays plain(const Arrays& in) const override { return {plain::sample(in[0], in[1], sampling_)}; }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0]);
    const int64_t rows = in[0].shape(0), n = in[0].shape(1);
    const int64_t floats = sampling_.temperature == 0 ? 0 : RowMemory::floats(n);
    const int64_t workers = std::min<int64_t>(rows, threads());
    task([rows, n, floats, memory = Scratch<float>(workers * floats), logits = Dense(in[0]),
          keys = Dense(in[1]), to = out[0].data<int32_t>(), type = type_of(in[0].dtype()),
          s = sampling_] {
      const auto* const from = static_cast<const char*>(logits.read());
      const auto* const key = static_cast<const uint32_t*>(keys.read());
      const bool alone = rows == 1 || in_part();
      parallel_for(rows, std::max<int64_t>(1, 4096 / n), [&](int64_t begin, int64_t end) {
        float* const mine = memory.get() + (alone ? 0 : slot()) * floats;
        for (int64_t r = begin; r < end; r++) {
          to[r] = HWY_DYNAMIC_DISPATCH(draw_row)(type, from + r * n * size_of(type), n, s,
                                                 key + 2 * r, mine);
        }
      });
    });
  }

 private:
  Sampling sampling_;
};

array hide(const array& x, const array& keep) {
  return mx::where(keep, x, array(-kInfinity));
}

// The k largest of each row, the smaller ids of equal ones; no sort of all.
array largest(const array& x, int k) {
  const auto ascending = mx::partition(mx::negative(x), k - 1, 1);
  const auto edge = mx::negative(mx::slice(ascending, {0, k - 1}, {x.shape(0), k}));
  const auto above = mx::greater(x, edge), at = mx::equal(x, edge);
  const auto room = mx::subtract(array(k), mx::sum(mx::astype(above, mx::int32), 1, true));
  const auto rank = mx::cumsum(mx::astype(at, mx::int32), 1);
  return hide(x, mx::logical_or(above, mx::logical_and(at, mx::less_equal(rank, room))));
}

// Standard Gumbel noise, a row a key.
array noise(const array& keys, int n) {
  // Above 0, so that the noise is finite and a token that cannot come never ties with one that can.
  const auto row = [n](const array& key) {
    return mx::random::uniform(array(std::numeric_limits<float>::min()), array(1.0f), {n},
                               mx::float32, key);
  };
  const auto u = keys.shape(0) == 1 ? mx::expand_dims(row(mx::reshape(keys, {2})), 0)
                                    : mx::vmap(std::function<array(const array&)>(row))(keys);
  return mx::negative(mx::log(mx::negative(mx::log(u))));
}

}  // namespace

array sample(const array& logits, const array& keys, const Sampling& s) {
  if (logits.ndim() != 2 || logits.shape(1) == 0 || keys.dtype() != mx::uint32 ||
      keys.shape() != mx::Shape{logits.shape(0), 2}) {
    throw Error(Kind::usage, "[sample] expected logits [B, V] and uint32 keys [B, 2]");
  }
  if (!(s.temperature >= 0) || s.top_k < 0 || !(s.top_p >= 0) || !(s.min_p >= 0 && s.min_p <= 1)) {
    throw Error(Kind::usage, "[sample] a number is out of range");
  }
  if (!fused(logits.dtype())) return plain::sample(logits, keys, s);
  return array({logits.shape(0)}, mx::int32, std::make_shared<Sample>(s), {logits, keys});
}

array truncated(const array& logits, const Sampling& s) {
  auto x = mx::divide(mx::astype(logits, mx::float32), array(s.temperature));
  if (0 < s.top_k && s.top_k < x.shape(1)) x = largest(x, s.top_k);
  if (s.top_p < 1) {
    const auto ids = mx::argsort(mx::negative(x), 1);  // stable: of equal ones the smaller id first
    const auto ranked = mx::take_along_axis(x, ids, 1);
    const auto p = mx::softmax(ranked, 1, true);
    const auto before = mx::subtract(mx::cumsum(p, 1), p);
    const auto first = mx::equal(mx::arange(x.shape(1), mx::int32), array(0));
    const auto keep = mx::logical_or(first, mx::less(before, array(s.top_p)));
    x = mx::put_along_axis(x, ids, hide(ranked, keep), 1);
  }
  if (s.min_p > 0) {
    const auto top = mx::max(x, 1, true);
    x = hide(x, mx::greater_equal(x, mx::add(top, array(std::log(s.min_p)))));
  }
  return x;
}

array plain::sample(const array& logits, const array& keys, const Sampling& s) {
  const auto winner = [](const array& x) { return mx::astype(mx::argmax(x, 1), mx::int32); };
  if (s.temperature == 0) return winner(mx::astype(logits, mx::float32));
  return winner(mx::add(truncated(logits, s), noise(keys, logits.shape(1))));
}

}  // namespace lmxlab::kernels
#endif
