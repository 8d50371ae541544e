// Masks against a double loop over positions.
#include "lmxlab/core/mask.h"

#include "tests/core/support.h"

namespace lmxlab::core {
namespace {

struct Layout {
  std::string name;
  int offset, length;
  Keys keys;
};

Keys keys_of(int columns, int start, bool ring) {
  const auto zero = mx::zeros({3, 1, columns, 1});
  return {zero, zero, start, ring};
}

// What attention meets: no cache, all positions, the tail that a window keeps, a full ring.
std::vector<Layout> layouts(std::optional<int> window) {
  std::vector<Layout> out;
  for (const int length : {1, 2, 5, 9}) {
    out.push_back({"alone", 0, length, keys_of(length, 0, false)});
    for (const int offset : {1, 4, 5, 6, 20}) {
      out.push_back({"all", offset, length, keys_of(offset + length, 0, false)});
      if (!window) continue;
      const int before = std::min(offset, *window - 1);
      out.push_back({"tail", offset, length, keys_of(before + length, offset - before, false)});
      if (length == 1 && offset >= *window)
        out.push_back({"ring", offset, length, keys_of(*window, 0, true)});
    }
  }
  return out;
}

int position_of(const Layout& l, int column) {
  if (!l.keys.ring) return l.keys.start + column;
  const int width = l.keys.k.shape(2);
  int latest = -1;
  for (int p = 0; p < l.offset + l.length; ++p)
    if (p % width == column) latest = p;
  return latest;
}

std::vector<bool> brute(const Layout& l, std::optional<int> window,
                        const std::vector<int32_t>& pads) {
  std::vector<bool> out;
  for (const int pad : pads)
    for (int q = l.offset; q < l.offset + l.length; ++q)
      for (int j = 0; j < l.keys.k.shape(2); ++j) {
        const int p = position_of(l, j);
        out.push_back(p <= q && (!window || q - p < *window) && p >= pad);
      }
  return out;
}

std::vector<bool> rows_of(const mx::array& mask, const Layout& l, int rows) {
  const int S = l.keys.k.shape(2);
  return to_vector<bool>(mx::broadcast_to(mask, {rows, 1, l.length, S}));
}

TEST(Mask, EqualsADoubleLoop) {
  const std::vector<std::optional<int>> windows{std::nullopt, 1, 2, 5, 6, 30};
  const std::vector<std::vector<int32_t>> paddings{{}, {0, 2, 5}, {0, 0, 0}, {1, 4, 3}};
  for (const auto& window : windows)
    for (const auto& l : layouts(window))
      for (const auto& padding : paddings) {
        Pass pass;
        pass.offset = l.offset;
        if (!padding.empty()) pass.pads = mx::array(padding.data(), {3}, mx::int32);
        const auto want =
            brute(l, window, padding.empty() ? std::vector<int32_t>{0, 0, 0} : padding);
        const std::string when = l.name + ", offset " + std::to_string(l.offset) + ", length " +
                                 std::to_string(l.length) + ", window " +
                                 std::to_string(window.value_or(0)) +
                                 (padding.empty() ? "" : ", padded");
        EXPECT_EQ(rows_of(mask_array(pass, l.length, l.keys, window), l, 3), want) << when;

        const auto mask = attention_mask(pass, l.length, l.keys, window);
        const int S = l.keys.k.shape(2);
        ASSERT_EQ(mask.allowed.has_value(), mask.kind == Mask::Kind::array) << when;
        if (mask.kind == Mask::Kind::array) {
          EXPECT_EQ(mask.allowed->dtype(), mx::bool_);
          EXPECT_EQ(rows_of(*mask.allowed, l, 3), want) << when;
        } else {
          const auto left =
              mask.padding ? to_vector<int32_t>(*mask.padding) : std::vector<int32_t>(3, 0);
          for (size_t i = 0; i < want.size(); ++i) {
            const int row = static_cast<int>(i) / S % l.length, column = static_cast<int>(i) % S;
            const int own = S - l.length + row;
            const bool told = mask.kind == Mask::Kind::none ||
                              (column <= own && (mask.window == 0 || column > own - mask.window) &&
                               column >= left[i / static_cast<size_t>(l.length * S)]);
            ASSERT_EQ(told, want[i]) << when << ", query " << row << ", column " << column;
          }
        }
      }
}

TEST(Mask, NoArrayWhereNothingIsHidden) {
  Pass pass;
  EXPECT_EQ(attention_mask(pass, 7, keys_of(7, 0, false), {}).kind, Mask::Kind::causal);
  EXPECT_EQ(attention_mask(pass, 7, keys_of(7, 0, false), 7).kind, Mask::Kind::causal);
  EXPECT_EQ(attention_mask(pass, 7, keys_of(7, 0, false), 7).window, 0);
  EXPECT_EQ(attention_mask(pass, 7, keys_of(7, 0, false), 6).kind, Mask::Kind::causal);
  EXPECT_EQ(attention_mask(pass, 7, keys_of(7, 0, false), 6).window, 6);
  pass.offset = 9;
  EXPECT_EQ(attention_mask(pass, 1, keys_of(10, 0, false), {}).kind, Mask::Kind::none);
  EXPECT_EQ(attention_mask(pass, 3, keys_of(12, 0, false), {}).kind, Mask::Kind::causal);
  EXPECT_EQ(attention_mask(pass, 1, keys_of(5, 0, true), 5).kind, Mask::Kind::none);
}

TEST(Mask, PositionsOfQueriesAndKeys) {
  Pass pass;
  pass.offset = 3;
  EXPECT_EQ(to_vector<int32_t>(query_positions(pass, 3)), (std::vector<int32_t>{3, 4, 5}));
  pass.pads = mx::array({0, 4}, mx::int32);
  EXPECT_EQ(query_positions(pass, 3).shape(), (mx::Shape{2, 3}));
  EXPECT_EQ(to_vector<int32_t>(query_positions(pass, 3)),
            (std::vector<int32_t>{3, 4, 5, -1, 0, 1}));
  EXPECT_EQ(to_vector<int32_t>(key_positions(keys_of(3, 2, false), 5)),
            (std::vector<int32_t>{2, 3, 4}));
  EXPECT_EQ(to_vector<int32_t>(key_positions(keys_of(4, 0, true), 10)),
            (std::vector<int32_t>{8, 9, 6, 7}));
}

}  // namespace
}  // namespace lmxlab::core
