// The contract of LayerCache, over every kind of it.
#include "lmxlab/core/cache.h"

#include "lmxlab/core/pass.h"
#include "lmxlab/core/runtime.h"
#include "tests/core/support.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lmxlab::core {
namespace {

constexpr int kHeads = 2, kDim = 32;

struct Case {
  std::string name;
  int window;       // 0: all positions
  int kv_bits = 0;  // 0: numbers
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

float number(int tag, int row, int head, int d) {  // exact in float32, in the range of float16
  return static_cast<float>(tag * 8 + row * 2 + head) + static_cast<float>(d) / 32;
}

std::unique_ptr<KeyCache> keys_of(std::unique_ptr<LayerCache> cache) {
  return std::unique_ptr<KeyCache>(dynamic_cast<KeyCache*>(cache.release()));
}

// A cache, and beside it the plain list of what each row has seen: one tag a position.
class Contract : public testing::TestWithParam<Case> {
 protected:
  const int window = GetParam().window;
  const CacheOptions options{.kv_bits = GetParam().kv_bits};
  const bool packed = options.kv_bits == 8 || options.kv_bits == 4;
  // Half a step of float16, or a step of what is packed: the numbers of a head reach over 1.
  float tolerance(float x) const {
    if (options.kv_bits == 16) return std::abs(x) / 2048;
    return packed ? 1 / static_cast<float>((1 << options.kv_bits) - 1) : 0;
  }

  struct Both {
    std::unique_ptr<KeyCache> cache;
    std::vector<std::vector<std::pair<int, int>>> rows;  // (tag, row it was written as)
    Both copy() const { return {keys_of(cache->clone()), rows}; }
  };
  int next_tag = 1;

  std::unique_ptr<KeyCache> make() const {
    return window ? rotating_cache(window, options) : plain_cache(options);
  }
  Both start(int batch = 3) const {
    return {make(), std::vector<std::vector<std::pair<int, int>>>(static_cast<size_t>(batch))};
  }

  // Appends n positions to both; the result is not evaluated.
  Keys append(Both& b, int n) {
    const int batch = static_cast<int>(b.rows.size());
    std::vector<float> k;
    for (int row = 0; row < batch; ++row)
      for (int head = 0; head < kHeads; ++head)
        for (int i = 0; i < n; ++i)
          for (int d = 0; d < kDim; ++d) k.push_back(number(next_tag + i, row, head, d));
    for (int row = 0; row < batch; ++row)
      for (int i = 0; i < n; ++i) b.rows[static_cast<size_t>(row)].emplace_back(next_tag + i, row);
    next_tag += n;
    const mx::array keys(k.data(), {batch, kHeads, n, kDim}, mx::float32);
    return b.cache->append(keys, mx::negative(keys));
  }

  // What each of the last n queries may look at stands where Keys says, for every row, head and
  // dimension.
  void check(const Both& b, const Keys& keys, int n, const std::string& when) const {
    const int batch = static_cast<int>(b.rows.size()), length = static_cast<int>(b.rows[0].size());
    const int S = keys.k.shape(2);
    ASSERT_EQ(b.cache->length(), length) << when;
    ASSERT_EQ(keys.k.shape(), (mx::Shape{batch, kHeads, S, kDim})) << when;
    ASSERT_EQ(keys.v.shape(), keys.k.shape()) << when;
    if (window == 0) {
      ASSERT_EQ(S, length) << when;
      ASSERT_EQ(keys.start, 0);
      ASSERT_FALSE(keys.ring);
    } else if (keys.ring) {
      ASSERT_EQ(S, window) << when;
      ASSERT_EQ(n, 1) << when;
    } else {
      ASSERT_EQ(keys.start + S, length) << when;
      ASSERT_LE(S, window - 1 + n) << when;
    }
    const auto k = to_vector<float>(keys.k), v = to_vector<float>(keys.v);
    const int first_query = length - n;
    const int oldest = window ? std::max(0, first_query - window + 1) : 0;
    for (int p = oldest; p < length; ++p) {
      const int column = keys.ring ? p % S : p - keys.start;
      // In a ring the latest position of a column is what counts.
      if (keys.ring && p + S < length) continue;
      ASSERT_GE(column, 0) << when << ", position " << p;
      ASSERT_LT(column, S) << when << ", position " << p;
      for (int row = 0; row < batch; ++row)
        for (int head = 0; head < kHeads; ++head)
          for (int d = 0; d < kDim; ++d) {
            const auto [tag, written] = b.rows[static_cast<size_t>(row)][static_cast<size_t>(p)];
            const auto at = static_cast<size_t>(((row * kHeads + head) * S + column) * kDim + d);
            const float x = number(tag, written, head, d);
            ASSERT_NEAR(k[at], x, tolerance(x)) << when << ", row " << row << ", position " << p;
            ASSERT_NEAR(v[at], -x, tolerance(x)) << when << ", row " << row << ", position " << p;
          }
    }
  }
  void append_and_check(Both& b, int n, const std::string& when) {
    const auto keys = append(b, n);
    check(b, keys, n, when + ", piece of " + std::to_string(n));
    if (n == 1 || !window) check(b, b.cache->held(), n, when + ", held");
    mx::eval(b.cache->arrays());
  }
  void shorten(Both& b, int n) const {
    b.cache->trim(n);
    for (auto& row : b.rows) row.resize(row.size() - static_cast<size_t>(n));
  }
  const float* pointer(const LayerCache& c, size_t i = 0) const {
    return c.arrays()[i].data<float>();
  }
};

TEST_P(Contract, StartsEmpty) {
  const auto cache = make();
  EXPECT_EQ(cache->length(), 0);
  EXPECT_EQ(cache->trimmable(), 0);
  EXPECT_EQ(cache->bytes(), 0u);
  EXPECT_TRUE(cache->arrays().empty());
  cache->reorder(mx::array({0}, mx::int32));
  EXPECT_TRUE(cache->clone()->arrays().empty());
}

TEST_P(Contract, PiecesOfAnySizeEqualAList) {
  const int sizes[] = {1, 1, 2, 3, 4, 5, 6, 15, 16, 17, 40, 255, 256, 299, 300, 301};
  for (uint64_t seed = 0; seed < 6; ++seed) {
    HostRandom random(seed);
    auto b = start();
    for (int piece = 0; piece < 14; ++piece)
      append_and_check(b, sizes[random.below(seed < 3 ? 11 : std::size(sizes))],
                       "seed " + std::to_string(seed) + ", piece " + std::to_string(piece));
  }
}

// Buffers on loan, written by another hand, are what append would have made of them.
TEST_P(Contract, LentBuffersEqualAppendedOnes) {
  HostRandom random(11);
  auto b = start();
  int lent = 0;
  for (int piece = 0; piece < 20; ++piece) {
    const int n = 1 + static_cast<int>(random.below(40));
    const Both before = b.copy();
    auto other = before.copy();
    const auto keys = append(b, n);
    const CacheRow row{3, kHeads, kDim, mx::float32};
    auto loan = other.cache->lend(n, row, row);
    if (loan) {
      ++lent;
      ASSERT_EQ(keys.start, 0);
      const auto write = [&](const mx::array& buffer, const mx::array& all) {
        const mx::Shape from{0, 0, loan->at, 0}, to{3, kHeads, loan->at + n, kDim};
        return mx::slice_update(buffer, mx::slice(all, from, to), from, to);
      };
      const auto k = write(loan->k, keys.k), v = write(loan->v, keys.v);
      other.cache->give_back(k, v, n);
      ASSERT_EQ(other.cache->length(), b.cache->length());
      ASSERT_EQ(test::floats(other.cache->arrays()[0]), test::floats(b.cache->arrays()[0]));
      ASSERT_EQ(test::floats(other.cache->arrays()[1]), test::floats(b.cache->arrays()[1]));
      b.cache = std::move(other.cache);
    }
    const CacheRow half{3, kHeads, kDim, mx::bfloat16};
    EXPECT_FALSE(b.copy().cache->lend(1, half, half)) << "of another type";
  }
  EXPECT_GE(lent, packed ? 0 : window == 0 ? 20 : window == 300 ? 4 : 0);
  if (packed) {
    EXPECT_EQ(lent, 0);
  }
}

TEST_P(Contract, NothingNeedsToBeEvaluatedBetween) {
  auto b = start();
  for (const int n : {3, 1, 1, 7, 1, 20, 1}) append(b, n);
  const auto keys = append(b, 2);
  check(b, keys, 2, "at the end");
}

TEST_P(Contract, TrimTakesBackTheLast) {
  for (const int length : {4, 5, 16, 17, 300, 301}) {
    auto b = start();
    append_and_check(b, length, "before");
    const bool whole = window == 0 || length <= window;
    ASSERT_EQ(b.cache->trimmable(), whole ? length : 0) << length;
    if (!whole) {
      EXPECT_THROW(b.cache->trim(1), Error);
      append_and_check(b, 1, "after a refusal");
      continue;
    }
    EXPECT_THROW(b.cache->trim(length + 1), Error);
    EXPECT_THROW(b.cache->trim(-1), Error);
    for (const int n : {1, 2}) {
      shorten(b, n);
      append_and_check(b, 1, "trimmed");
      if (b.cache->trimmable() < 2) break;
    }
    if (b.cache->trimmable() > 0) shorten(b, b.cache->trimmable());
    for (const int n : {1, 3, 1}) append_and_check(b, n, "after all");
  }
  try {
    make()->trim(1);
    FAIL() << "an empty cache was trimmed";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::unsupported);
  }
}

TEST_P(Contract, ACopyStaysAsItWas) {
  for (const int before : {1, 4, 12, 299, 310})
    for (const bool evaluated : {true, false})
      for (const int piece : {1, 2, 17}) {
        auto b = start();
        append(b, before);
        if (evaluated) mx::eval(b.cache->arrays());
        auto kept = b.copy();
        const auto old = evaluated ? test::floats(kept.cache->arrays()[0]) : std::vector<float>{};
        for (int i = 0; i < 3; ++i) append_and_check(b, piece, "the original");
        ASSERT_EQ(kept.cache->length(), before);
        if (evaluated) {
          ASSERT_EQ(test::floats(kept.cache->arrays()[0]), old) << "the kept copy was written to";
        }
        append_and_check(kept, piece, "the copy");
        append_and_check(b, piece, "the original after the copy");
        append_and_check(kept, 1, "the copy again");
      }
}

TEST_P(Contract, ReorderPicksRows) {
  for (const int before : {3, 20, 305}) {
    auto b = start(3);
    append_and_check(b, before, "before");
    const std::vector<int32_t> order{2, 0, 0, 1};
    b.cache->reorder(mx::array(order.data(), {4}, mx::int32));
    std::vector<std::vector<std::pair<int, int>>> rows;
    for (const int i : order) rows.push_back(b.rows[static_cast<size_t>(i)]);
    b.rows = rows;
    for (const int n : {1, 5, 1}) append_and_check(b, n, "more rows");
    b.cache->reorder(mx::array({3}, mx::int32));
    b.rows = {b.rows[3]};
    for (const int n : {1, 5, 1}) append_and_check(b, n, "one row");
  }
}

TEST_P(Contract, RestoresWhatItGave) {
  for (const int before : {3, 16, 20, 257, 305}) {
    auto b = start();
    append_and_check(b, 2, "before");
    append_and_check(b, before - 2, "before");
    Both other{make(), b.rows};
    other.cache->restore(b.cache->arrays(), b.cache->length());
    EXPECT_EQ(other.cache->length(), before);
    EXPECT_EQ(other.cache->bytes(), b.cache->bytes());
    EXPECT_EQ(other.cache->trimmable(), b.cache->trimmable());
    for (const int n : {1, 4, 1, 30}) append_and_check(other, n, "restored");
    for (const int n : {1, 4, 1, 30}) append_and_check(b, n, "the first");
  }
  const auto empty = make();
  empty->restore({}, 0);
  EXPECT_TRUE(empty->arrays().empty());
}

TEST_P(Contract, RefusesWhatItCannotRestore) {
  auto b = start();
  append_and_check(b, 10, "before");
  const auto good = b.cache->arrays();
  const auto kind_of = [&](std::vector<mx::array> arrays, int length) {
    auto cache = make();
    try {
      cache->restore(std::move(arrays), length);
    } catch (const Error& e) {
      EXPECT_EQ(cache->length(), 0);
      EXPECT_TRUE(cache->arrays().empty());
      return e.kind();
    }
    return Kind::canceled;
  };
  const auto few = mx::slice(good[1], {0, 0, 0, 0}, {3, kHeads, 0, good[1].shape(3)});
  EXPECT_EQ(kind_of({}, 3), Kind::mismatch);
  EXPECT_EQ(kind_of({good[0]}, 10), Kind::mismatch);
  EXPECT_EQ(kind_of({mx::flatten(good[0]), good[1]}, 10), Kind::mismatch);
  EXPECT_EQ(kind_of({few, few}, 10), Kind::mismatch);
  EXPECT_EQ(kind_of({good[0], few}, 10), Kind::mismatch);
}

TEST_P(Contract, BytesAreThoseOfTheBuffers) {
  auto b = start();
  append_and_check(b, 3, "before");
  size_t n = 0;
  for (const auto& a : b.cache->arrays()) n += a.nbytes();
  const size_t bits = options.kv_bits ? static_cast<size_t>(options.kv_bits) : 32;
  const size_t scales = packed ? 2 * sizeof(float) : 0;  // and a bias, for the group
  const size_t position = 2 * 3 * kHeads * (kDim * bits / 8 + scales);
  EXPECT_EQ(b.cache->bytes(), n);
  const int capacity = window && window < kGrowth ? window : kGrowth;
  EXPECT_EQ(b.cache->bytes(), static_cast<size_t>(capacity) * position);
  append_and_check(b, 1000, "more");
  EXPECT_EQ(b.cache->bytes(), static_cast<size_t>(window ? window : 1024) * position);
}

// In place, where an update is less than the whole buffer: a window of one is its last position.
class InPlace : public Contract {};

TEST_P(InPlace, BuffersMoveOnlyAtGrowth) {
  auto b = start(1);
  const float *k = nullptr, *v = nullptr;
  int capacity = 0, moves = 0;
  for (int i = 0; i < 2 * kGrowth + 60; ++i) {
    append(b, 1);  // the result is dropped at once, as a model does after its evaluation
    mx::eval(b.cache->arrays());
    const int now = b.cache->arrays()[0].shape(2);
    if (now == capacity) {
      ASSERT_EQ(pointer(*b.cache, 0), k) << "the keys moved at position " << i;
      ASSERT_EQ(pointer(*b.cache, 1), v) << "the values moved at position " << i;
    } else {
      ASSERT_EQ(i, capacity) << "grew before it was full";
      ++moves;
    }
    capacity = now, k = pointer(*b.cache, 0), v = pointer(*b.cache, 1);
  }
  EXPECT_EQ(moves, window == 0 || window > 2 * kGrowth ? 3 : window <= kGrowth ? 1 : 2);
  const auto keys = append(b, 1);
  check(b, keys, 1, "after all");
}

TEST_P(Contract, AKeptCopyIsNotWrittenTo) {
  auto b = start();
  append_and_check(b, 4, "before");
  const auto kept = b.copy();
  const float* at = pointer(*kept.cache);
  const auto old = test::floats(kept.cache->arrays()[0]);
  append(b, 1);
  mx::eval(b.cache->arrays());
  EXPECT_NE(pointer(*b.cache), at);
  EXPECT_EQ(pointer(*kept.cache), at);
  EXPECT_EQ(test::floats(kept.cache->arrays()[0]), old);
}

TEST_P(InPlace, ReserveGrowsOnce) {
  auto b = start(1);
  b.cache->reserve(700);
  append(b, 1);
  mx::eval(b.cache->arrays());
  EXPECT_EQ(b.cache->arrays()[0].shape(2), window ? std::min(window, 768) : 768);
  const float* at = pointer(*b.cache);
  for (int i = 1; i < 700; ++i) {
    append(b, 1);
    mx::eval(b.cache->arrays());
    ASSERT_EQ(pointer(*b.cache), at) << "position " << i;
  }
  // A later reservation counts from the next growth on.
  auto c = start(1);
  append_and_check(c, 2, "before");
  c.cache->reserve(1000);
  EXPECT_EQ(c.cache->arrays()[0].shape(2), window ? std::min(window, kGrowth) : kGrowth);
  append_and_check(c, kGrowth, "grown");
  EXPECT_EQ(c.cache->arrays()[0].shape(2), window ? std::min(window, 1024) : 1024);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Contract,
                         testing::Values(Case{"plain", 0}, Case{"window_1", 1}, Case{"window_5", 5},
                                         Case{"window_16", 16}, Case{"window_300", 300},
                                         Case{"plain_16_bits", 0, 16},
                                         Case{"window_16_16_bits", 16, 16},
                                         Case{"plain_8_bits", 0, 8}, Case{"plain_4_bits", 0, 4},
                                         Case{"window_5_4_bits", 5, 4},
                                         Case{"window_300_8_bits", 300, 8}),
                         [](const auto& test) { return test.param.name; });

TEST(PackedCache, TakesWhatItCanPack) {
  EXPECT_THROW(plain_cache({.kv_bits = 5}), Error);
  EXPECT_THROW(rotating_cache(4, {.kv_bits = 6}), Error);
  try {
    plain_cache({.kv_bits = 8})->append(mx::zeros({1, 2, 3, 48}), mx::zeros({1, 2, 3, 48}));
    FAIL() << "48 numbers were packed";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::usage);
    EXPECT_NE(std::string(e.what()).find("48"), std::string::npos) << e.what();
  }
  const auto wide = plain_cache({.kv_bits = 4});
  const auto keys = wide->append(mx::zeros({1, 2, 3, 128}), mx::zeros({1, 2, 3, 128}));
  ASSERT_TRUE(keys.packed);
  EXPECT_EQ(keys.packed->k.group, 64);
  EXPECT_EQ(keys.packed->v.packed.shape(), (mx::Shape{1, 2, 3, 16}));
}

INSTANTIATE_TEST_SUITE_P(Kinds, InPlace,
                         testing::Values(Case{"plain", 0}, Case{"window_5", 5},
                                         Case{"window_16", 16}, Case{"window_300", 300},
                                         Case{"window_2000", 2000}, Case{"plain_16_bits", 0, 16},
                                         Case{"window_300_16_bits", 300, 16},
                                         Case{"plain_8_bits", 0, 8},
                                         Case{"window_300_4_bits", 300, 4}),
                         [](const auto& test) { return test.param.name; });

mx::array piece(int batch, int n, float value) {
  return mx::full({batch, kHeads, n, kDim}, value, mx::float32);
}

Cache whole() {
  std::vector<std::unique_ptr<LayerCache>> layers;
  layers.push_back(plain_cache()), layers.push_back(nullptr), layers.push_back(rotating_cache(5));
  return Cache(std::move(layers));
}
void fill(Cache& c, int n, float value, int batch = 2) {
  for (int i = 0; i < c.layers(); ++i)
    if (auto* keys = dynamic_cast<KeyCache*>(c.layer(i)))
      keys->append(piece(batch, n, value), piece(batch, n, value));
  c.advance(n);
}

// Keys, keys alone and a state, as one.
std::unique_ptr<CompositeCache> several(int window = 0) {
  std::vector<std::unique_ptr<LayerCache>> parts;
  parts.push_back(window ? rotating_cache(window) : plain_cache());
  parts.push_back(plain_cache({}, Holds::keys));
  parts.push_back(std::make_unique<StateCache>(std::vector<StateArray>{{"sum", {kDim}}}));
  return std::make_unique<CompositeCache>(std::move(parts));
}
void fill(CompositeCache& c, int n, float value, int batch = 2) {
  auto* keys = dynamic_cast<KeyCache*>(c.part(0));
  auto* alone = dynamic_cast<KeyCache*>(c.part(1));
  keys->append(piece(batch, n, value), piece(batch, n, -value));
  const auto seen = alone->append(piece(batch, n, value), piece(batch, n, -value));
  EXPECT_TRUE(mx::array_equal(seen.k, seen.v).item<bool>());
  dynamic_cast<StateCache*>(c.part(2))->put({mx::full({batch, kDim}, value, mx::float32)}, n);
}

TEST(CompositeCache, DoesEverythingWithEachPart) {
  const auto c = several();
  EXPECT_EQ(c->length(), 0);
  EXPECT_TRUE(c->arrays().empty());
  EXPECT_EQ(c->array_count(), 4u);
  c->reserve(300);
  fill(*c, 5, 1);
  EXPECT_EQ(c->length(), 5);
  EXPECT_EQ(c->arrays().size(), c->array_count());
  size_t bytes = 0;
  for (const auto& a : c->arrays()) bytes += a.nbytes();
  EXPECT_EQ(c->bytes(), bytes);
  EXPECT_EQ(c->arrays()[2].shape(2), 512) << "reserved";

  // The state goes back to a mark alone, and keys wait for it.
  EXPECT_EQ(c->trimmable(), 0);
  c->mark();
  fill(*c, 3, 2);
  EXPECT_FALSE(c->can_trim(2));
  EXPECT_THROW(c->trim(2), Error);
  EXPECT_EQ(c->length(), 8);
  const auto kept = c->clone();
  c->trim(3);
  for (size_t i = 0; i < c->size(); ++i) EXPECT_EQ(c->part(i)->length(), 5);
  EXPECT_EQ(test::floats(c->arrays()[3])[0], 1);
  EXPECT_EQ(kept->length(), 8);
  EXPECT_EQ(test::floats(kept->arrays()[3])[0], 2);

  c->reorder(mx::array({1, 1, 0}, mx::int32));
  for (const auto& a : c->arrays()) EXPECT_EQ(a.shape(0), 3);
}

TEST(CompositeCache, RestoresAllPartsOrNone) {
  const auto c = several();
  fill(*c, 5, 1);
  const auto other = several();
  other->restore(c->arrays(), 5);
  for (size_t i = 0; i < other->size(); ++i) EXPECT_EQ(other->part(i)->length(), 5);
  EXPECT_EQ(test::floats(other->arrays()[3]), test::floats(c->arrays()[3]));
  const auto empty = several();
  empty->restore({}, 0);
  EXPECT_TRUE(empty->arrays().empty());
  auto wrong = c->arrays();
  wrong[3] = mx::zeros({2, kDim + 1});
  EXPECT_THROW(empty->restore(wrong, 5), Error);
  wrong.pop_back();
  EXPECT_THROW(empty->restore(wrong, 5), Error);
  EXPECT_THROW(empty->restore({}, 5), Error);
  EXPECT_EQ(empty->length(), 0);
  EXPECT_TRUE(empty->arrays().empty());
}

TEST(CompositeCache, APassFindsEachOfAKind) {
  std::vector<std::unique_ptr<LayerCache>> layers;
  layers.push_back(several()), layers.push_back(plain_cache());
  Cache cache(std::move(layers));
  auto* all = dynamic_cast<CompositeCache*>(cache.layer(0));
  Pass pass{.cache = &cache};
  EXPECT_EQ(pass.keys(), all->part(0));
  EXPECT_EQ(pass.keys(1), all->part(1));
  EXPECT_EQ(pass.states(), all->part(2));
  EXPECT_THROW(pass.keys(2), Error);
  EXPECT_THROW(pass.states(1), Error);
  pass.layer = 1;
  EXPECT_EQ(pass.keys(), cache.layer(1));
  EXPECT_THROW(pass.keys(1), Error);
  EXPECT_THROW(pass.states(), Error);
}

TEST(KeysAlone, PackedOnesTakeHalf) {
  for (const int bits : {0, 16, 8, 4})
    for (const int window : {0, 6}) {
      const CacheOptions options{.kv_bits = bits};
      const auto make = [&](Holds holds) {
        return window ? rotating_cache(window, options, holds) : plain_cache(options, holds);
      };
      const auto both = make(Holds::keys_and_values), alone = make(Holds::keys);
      for (const int n : {3, 1, 4, 1, 2}) {
        const auto k = test::some({2, 1, n, 64}, static_cast<uint64_t>(n));
        const auto a = both->append(k, k), b = alone->append(k, k);
        EXPECT_TRUE(mx::array_equal(a.k, b.k).item<bool>()) << bits << ", window " << window;
        EXPECT_EQ(a.start, b.start);
        EXPECT_EQ(a.ring, b.ring);
        mx::eval(both->arrays()), mx::eval(alone->arrays());
      }
      EXPECT_EQ(alone->arrays().size(), alone->array_count());
      EXPECT_EQ(2 * alone->bytes(), both->bytes());
      const CacheRow row{2, 1, 64, mx::float32};
      EXPECT_FALSE(alone->lend(1, row, row));
      const auto again = make(Holds::keys);
      again->restore(alone->arrays(), alone->length());
      EXPECT_EQ(again->bytes(), alone->bytes());
    }
}

TEST(WholeCache, IsEmptyOrOneEntryALayer) {
  EXPECT_TRUE(Cache().empty());
  auto c = whole();
  EXPECT_FALSE(c.empty());
  EXPECT_EQ(c.layers(), 3);
  EXPECT_EQ(c.layer(1), nullptr);
  EXPECT_EQ(c.length(), 0);
  fill(c, 4, 1);
  EXPECT_EQ(c.length(), 4);
  EXPECT_EQ(c.arrays().size(), 4u);
  EXPECT_EQ(c.bytes(), c.layer(0)->bytes() + c.layer(2)->bytes());
}

TEST(WholeCache, TrimsAllLayersOrNone) {
  auto c = whole();
  fill(c, 4, 1);
  EXPECT_EQ(c.trimmable(), 4);
  c.trim(1);
  EXPECT_EQ(c.length(), 3);
  EXPECT_EQ(c.layer(0)->length(), 3);
  EXPECT_EQ(c.layer(2)->length(), 3);
  fill(c, 6, 2);
  EXPECT_EQ(c.trimmable(), 0);
  EXPECT_THROW(c.trim(1), Error);
  EXPECT_EQ(c.length(), 9);
  EXPECT_EQ(c.layer(0)->length(), 9);
}

TEST(WholeCache, CopiesAreValues) {
  auto c = whole();
  c.pads = mx::array({0, 1}, mx::int32);
  fill(c, 3, 1);
  mx::eval(c.arrays());
  const Cache copy = c;
  const auto old = test::floats(copy.arrays()[0]);
  fill(c, 2, 9);
  mx::eval(c.arrays());
  EXPECT_EQ(copy.length(), 3);
  EXPECT_EQ(copy.layer(0)->length(), 3);
  EXPECT_EQ(test::floats(copy.arrays()[0]), old);
  Cache again;
  again = copy;
  again.reorder(mx::array({1, 1, 0}, mx::int32));
  EXPECT_EQ(to_vector<int32_t>(*again.pads), (std::vector<int32_t>{1, 1, 0}));
  EXPECT_EQ(again.arrays()[0].shape(0), 3);
  EXPECT_EQ(copy.arrays()[0].shape(0), 2);
}

}  // namespace
}  // namespace lmxlab::core
