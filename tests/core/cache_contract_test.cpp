// One suite for every kind of cache: whatever it holds, what the next position would find there is
// what the contract says.
#include "lmxlab/core/cache.h"
#include "lmxlab/core/mask.h"
#include "lmxlab/core/nsa.h"
#include "tests/core/support.h"

#include <algorithm>
#include <functional>

namespace lmxlab::core {
namespace {

constexpr int kHeads = 2, kWidth = 32;

struct Kind {
  std::string name;
  std::function<std::unique_ptr<LayerCache>()> make;
  bool has_state = false;  // goes back to a mark alone
  int window = 0;          // of the narrowest ring
};
void PrintTo(const Kind& k, std::ostream* out) {
  *out << k.name;
}

std::unique_ptr<LayerCache> state() {
  return std::make_unique<StateCache>(
      std::vector<StateArray>{{"window", {3, 4}}, {"state", {2, 4, 6}}});
}
std::unique_ptr<LayerCache> composite(std::vector<std::unique_ptr<LayerCache>> parts) {
  return std::make_unique<CompositeCache>(std::move(parts));
}
template <class... P>
std::unique_ptr<LayerCache> of_parts(P... parts) {
  std::vector<std::unique_ptr<LayerCache>> all;
  (all.push_back(std::move(parts)), ...);
  return composite(std::move(all));
}

std::vector<Kind> kinds() {
  const auto plain = [](int bits, Holds holds = Holds::keys_and_values) {
    return [=] { return plain_cache({.kv_bits = bits}, holds); };
  };
  const auto ring = [](int window, int bits) {
    return [=] { return rotating_cache(window, {.kv_bits = bits}); };
  };
  std::vector<Kind> out;
  for (const int bits : {0, 16, 8, 4}) {
    const std::string name = bits ? "_" + std::to_string(bits) + "_bits" : "";
    out.push_back({"plain" + name, plain(bits)});
    out.push_back({"keys_alone" + name, plain(bits, Holds::keys)});
    for (const int window : {1, 5, 16})
      out.push_back({"window_" + std::to_string(window) + name, ring(window, bits), false, window});
  }
  out.push_back({"state", state, true});
  out.push_back({"latent_and_index_keys",
                 [] { return of_parts(plain_cache(), plain_cache({}, Holds::keys)); }});
  out.push_back({"attention_and_state", [] { return of_parts(plain_cache(), state()); }, true});
  out.push_back({"window_and_state", [] { return of_parts(rotating_cache(5), state()); }, true, 5});
  const auto sparse = [](int bits) {
    return [=] {
      const CacheOptions options{.kv_bits = bits};
      return of_parts(std::unique_ptr<LayerCache>(std::make_unique<BlockCache>(4, 2, options)),
                      std::unique_ptr<LayerCache>(plain_cache(options)),
                      std::unique_ptr<LayerCache>(rotating_cache(6, options)));
    };
  };
  out.push_back({"sparse", sparse(0), false, 6});
  out.push_back({"sparse_8_bits", sparse(8), false, 6});
  out.push_back({"composite_of_composites",
                 [] { return of_parts(of_parts(plain_cache(), state()), rotating_cache(5)); }, true,
                 5});
  return out;
}

// Numbers that say which row of which text they are, and at which position.
mx::array numbers(const std::vector<int>& rows, int from, int n, uint64_t part) {
  std::vector<mx::array> all;
  for (const int r : rows) {
    std::vector<mx::array> some;
    for (int p = from; p < from + n; ++p)
      some.push_back(test::some({1, kHeads, 1, kWidth},
                                part * 10007 + uint64_t(r) * 1009 + static_cast<uint64_t>(p)));
    all.push_back(mx::concatenate(some, 2));
  }
  return mx::concatenate(all, 0);
}

// What is seen of each row: the positions of keys in order, states as they are.
using Seen = std::vector<std::vector<float>>;

void keep(Seen& seen, const mx::array& a) {
  for (int r = 0; r < a.shape(0); ++r) {
    const auto some = test::floats(mx::take(a, r, 0));
    auto& row = seen[static_cast<size_t>(r)];
    row.insert(row.end(), some.begin(), some.end());
  }
}

// Of rows with padding the blocks of compressed keys are not looked at; nor where this is asked.
constexpr int kNoBlocks = -1;

// The next n positions of texts, of which `from` were read; into every part of a cache.
void feed(LayerCache& c, const std::vector<int>& rows, int from, int n, uint64_t part, Seen* seen,
          int columns) {
  if (auto* blocks = dynamic_cast<BlockCache*>(&c)) {
    feed(*blocks->part(0), rows, from, n, part, seen, columns);
    // Blocks that the positions fill; of one that was moved none are kept.
    auto* made = dynamic_cast<KeyCache*>(blocks->part(1));
    const int more = blocks->whole(blocks->length()) - made->length();
    if (made->arrays().empty()) {  // its buffers are there from the first pass on
      made->append(numbers(rows, 0, 1, part), numbers(rows, 0, 1, part));
      made->trim(1);
    }
    if (columns == 0 && more > 0)
      made->append(numbers(rows, made->length(), more, part + 50),
                   numbers(rows, made->length(), more, part + 51));
    if (seen && columns == 0 && made->length() > 0) keep(*seen, made->held().k);
    return;
  }
  if (auto* all = dynamic_cast<CompositeCache*>(&c)) {
    for (size_t i = 0; i < all->size(); ++i)
      feed(*all->part(i), rows, from, n, part * 10 + i + 1, seen, columns);
    return;
  }
  if (auto* s = dynamic_cast<StateCache*>(&c)) {
    std::vector<mx::array> next;
    const mx::Shape shapes[] = {{1, 3, 4}, {1, 2, 4, 6}};
    for (size_t i = 0; i < s->size(); ++i) {
      std::vector<mx::array> of_rows;
      for (size_t r = 0; r < rows.size(); ++r) {
        auto now = s->state(i) ? mx::expand_dims(mx::take(*s->state(i), static_cast<int>(r), 0), 0)
                               : mx::zeros(shapes[i]);
        for (int p = from; p < from + n; ++p)  // the order of what was read counts
          now = mx::add(mx::multiply(now, mx::array(0.5f)),
                        test::some(shapes[i],
                                   i * 7001 + uint64_t(rows[r]) * 1009 + static_cast<uint64_t>(p)));
        of_rows.push_back(now);
      }
      next.push_back(mx::concatenate(of_rows, 0));
    }
    if (seen)
      for (const auto& a : next) keep(*seen, a);
    s->put(std::move(next), n);
    return;
  }
  auto& k = dynamic_cast<KeyCache&>(c);
  const auto keys = k.append(numbers(rows, from, n, part), numbers(rows, from, n, part + 1));
  if (!seen) return;
  ASSERT_EQ(n, 1);
  const auto at = to_vector<int32_t>(key_positions(keys, c.length()));
  std::vector<int32_t> order(at.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return at[static_cast<size_t>(a)] < at[static_cast<size_t>(b)];
  });
  // Padding is not looked at.
  std::vector<int32_t> real;
  for (const auto i : order)
    if (at[static_cast<size_t>(i)] >= columns) real.push_back(i);
  const mx::array columns_of(real.data(), {static_cast<int>(real.size())}, mx::int32);
  keep(*seen, mx::take(keys.k, columns_of, 2)), keep(*seen, mx::take(keys.v, columns_of, 2));
}

class EveryKind : public testing::TestWithParam<Kind> {
 protected:
  const std::vector<int> rows{0, 1, 2};

  std::unique_ptr<LayerCache> filled(const std::vector<int>& texts,
                                     const std::vector<int>& pieces) {
    auto c = GetParam().make();
    int at = 0;
    for (const int n : pieces) read(*c, texts, at, n), at += n;
    return c;
  }
  void read(LayerCache& c, const std::vector<int>& texts, int from, int n) {
    feed(c, texts, from, n, 1, nullptr, 0);
    mx::eval(c.arrays());
  }
  // What the next position of each text, of which `from` were read, finds; behind `padding` columns
  // and not counting them.
  Seen next(const LayerCache& c, const std::vector<int>& texts, int from, int padding = 0) {
    auto probe = c.clone();
    Seen seen(texts.size());
    feed(*probe, texts, from, 1, 1, &seen, padding);
    return seen;
  }
};

TEST_P(EveryKind, PiecesOfAnySizeAreOne) {
  for (const int length : {1, 4, 5, 6, 16, 17, 23}) {
    const auto whole = next(*filled(rows, {length}), rows, length);
    std::vector<int> single(static_cast<size_t>(length), 1), mixed;
    for (int left = length, n = 3; left > 0; n = n % 4 + 1)
      mixed.push_back(std::min(n, left)), left -= mixed.back();
    EXPECT_EQ(next(*filled(rows, single), rows, length), whole) << length;
    EXPECT_EQ(next(*filled(rows, mixed), rows, length), whole) << length;
    EXPECT_EQ(filled(rows, mixed)->length(), length);
  }
}

TEST_P(EveryKind, TrimTakesBackOrRefuses) {
  for (const int length : {4, 12}) {
    const auto before = filled(rows, {length});
    auto c = before->clone();
    read(*c, rows, length, 2);
    const bool can =
        !GetParam().has_state && (GetParam().window == 0 || length + 2 <= GetParam().window);
    EXPECT_EQ(c->can_trim(2), can);
    EXPECT_EQ(c->trimmable(), can ? length + 2 : 0);
    if (!can) {
      const auto was = next(*c, rows, length + 2);
      EXPECT_THROW(c->trim(2), Error);
      EXPECT_EQ(c->length(), length + 2);
      EXPECT_EQ(next(*c, rows, length + 2), was);
      continue;
    }
    c->trim(2);
    EXPECT_EQ(c->length(), length);
    EXPECT_EQ(next(*c, rows, length), next(*before, rows, length));
    EXPECT_THROW(c->trim(length + 1), Error);
    EXPECT_THROW(c->trim(-1), Error);
  }
}

TEST_P(EveryKind, GoesBackToAMark) {
  // Before, at and behind the place where a window is full; one by one, together, and again.
  for (const int length : {3, 4, 5, 12, 15, 16})
    for (const bool together : {false, true}) {
      SCOPED_TRACE(length);
      const auto before = filled(rows, {length});
      const auto was = next(*before, rows, length);
      const bool full = GetParam().window && GetParam().window < length + 3;
      const auto go_on = [&](LayerCache& c) {
        if (together) return read(c, rows, length, 3);
        for (int i = 0; i < 3; ++i) read(c, rows, length + i, 1);
      };
      auto c = before->clone();
      for (int time = 0; time < 2; ++time) {
        c->mark();
        go_on(*c);
        EXPECT_EQ(c->can_trim(1), !GetParam().has_state && !full) << "not the mark";
        ASSERT_TRUE(c->can_trim(3));
        const auto copy = c->clone();
        c->trim(3);
        EXPECT_EQ(c->length(), length);
        EXPECT_EQ(next(*c, rows, length), was);
        copy->reorder(mx::array({1, 0}, mx::int32));
        copy->trim(3);
        EXPECT_EQ(next(*copy, {1, 0}, length), (Seen{was[1], was[0]}));
      }
      c->mark(), go_on(*c), c->unmark();
      EXPECT_EQ(c->can_trim(3), !GetParam().has_state && !full);
    }
}

TEST_P(EveryKind, ReorderPicksRows) {
  for (const int length : {3, 12}) {
    const auto c = filled(rows, {length});
    const auto all = next(*c, rows, length);
    c->reorder(mx::array({2, 0, 0, 1}, mx::int32));
    EXPECT_EQ(next(*c, {2, 0, 0, 1}, length), (Seen{all[2], all[0], all[0], all[1]}));
    c->reorder(mx::array({3}, mx::int32));
    EXPECT_EQ(next(*c, {1}, length), Seen{all[1]});
  }
}

TEST_P(EveryKind, RestoresWhatItGave) {
  for (const int length : {1, 3, 12, 20}) {
    const auto c = filled(rows, {length});
    EXPECT_EQ(c->arrays().size(), c->array_count());
    const auto other = GetParam().make();
    other->restore(c->arrays(), length);
    EXPECT_EQ(other->length(), length);
    EXPECT_EQ(other->bytes(), c->bytes());
    EXPECT_EQ(next(*other, rows, length), next(*c, rows, length));
    EXPECT_THROW(other->restore({c->arrays()[0], c->arrays()[0], c->arrays()[0], c->arrays()[0],
                                 c->arrays()[0], c->arrays()[0], c->arrays()[0]},
                                length),
                 Error);
    EXPECT_EQ(next(*other, rows, length), next(*c, rows, length)) << "after a refusal";
  }
}

TEST_P(EveryKind, BytesAreThoseOfItsArrays) {
  EXPECT_EQ(GetParam().make()->bytes(), 0u);
  const auto c = filled(rows, {7, 1, 5});
  size_t n = 0;
  for (const auto& a : c->arrays()) {
    EXPECT_EQ(a.shape(0), 3);
    n += a.nbytes();
  }
  EXPECT_EQ(c->bytes(), n);
}

TEST_P(EveryKind, ACopyStaysAsItWas) {
  for (const int piece : {1, 3}) {
    auto c = filled(rows, {6});
    const auto copy = c->clone();
    const auto was = next(*copy, rows, 6);
    for (int at = 6; at < 15; at += piece) read(*c, rows, at, piece);
    EXPECT_EQ(copy->length(), 6);
    EXPECT_EQ(next(*copy, rows, 6), was);
    c->reorder(mx::array({1}, mx::int32));
    c->shift(2);
    EXPECT_EQ(next(*copy, rows, 6), was);
  }
}

// Two rows of 3 positions come to three of 9, go on with them, and one stays alone.
TEST_P(EveryKind, RowsJoinAndLeave) {
  for (const auto& [longer, shorter] : {std::pair{9, 3}, {4, 3}, {20, 9}, {18, 16}, {7, 7}}) {
    const int padding = longer - shorter;
    const auto c = filled({0, 1, 2}, {longer});
    const auto joins = filled({3, 4}, {shorter});
    joins->shift(padding);
    EXPECT_EQ(joins->length(), longer);
    c->append_rows(*joins);
    EXPECT_EQ(c->length(), longer);
    auto first = c->clone(), second = c->clone();
    first->reorder(mx::array({0, 1, 2}, mx::int32));
    second->reorder(mx::array({3, 4}, mx::int32));
    EXPECT_EQ(next(*first, rows, longer, kNoBlocks),
              next(*filled(rows, {longer}), rows, longer, kNoBlocks));
    // The texts of the joined rows are as many positions behind.
    const auto apart = filled({3, 4}, {shorter});
    EXPECT_EQ(next(*second, {3, 4}, shorter, padding > 0 ? padding : kNoBlocks),
              next(*apart, {3, 4}, shorter, kNoBlocks))
        << longer << " and " << shorter;
    c->reorder(mx::array({3, 4}, mx::int32));
    c->shift(-padding);
    EXPECT_EQ(c->length(), shorter);
    EXPECT_EQ(next(*c, {3, 4}, shorter), next(*apart, {3, 4}, shorter))
        << longer << " and " << shorter;
    read(*c, {3, 4}, shorter, 3);
    const auto later = filled({3, 4}, {shorter, 3});
    EXPECT_EQ(next(*c, {3, 4}, shorter + 3), next(*later, {3, 4}, shorter + 3));
  }
}

TEST_P(EveryKind, RefusesRowsOfAnother) {
  const auto c = filled({0}, {5});
  const auto was = next(*c, {0}, 5);
  EXPECT_THROW(c->append_rows(*filled({1}, {4})), Error) << "of another length";
  EXPECT_THROW(c->append_rows(*plain_cache()), Error) << "empty";
  const auto other = of_parts(state(), state());
  EXPECT_THROW(c->append_rows(*other), Error) << "of another kind";
  EXPECT_THROW(c->shift(-6), Error) << "more than there are";
  EXPECT_EQ(c->length(), 5);
  EXPECT_EQ(next(*c, {0}, 5), was);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryKind, testing::ValuesIn(kinds()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace lmxlab::core
