#include "lmxlab/core/tree.h"

#include "lmxlab/core/linear.h"
#include "tests/core/support.h"

#include <memory>

namespace lmxlab::core {
namespace {

struct Inner {
  Param a, b;
  void visit(Visitor& v) { v("a", a), v("b", b); }
};

// Every kind of field that a layer may have.
struct Toy {
  Param first{mx::zeros({2, 3})};
  std::vector<Inner> list{{{mx::ones({4})}, {mx::ones({5})}}, {{mx::ones({6})}, {mx::ones({7})}}};
  std::optional<Param> absent, present = Param{mx::zeros({1}, mx::bfloat16)};
  std::unique_ptr<Inner> null,
      pointer = std::make_unique<Inner>(Inner{{mx::ones({8})}, {mx::ones({9})}});
  Inner unnamed{{mx::ones({10})}, {mx::ones({11})}};
  Param packed{mx::zeros({3}, mx::uint32), false};
  void visit(Visitor& v) {
    v("first", first), v("list", list), v("absent", absent), v("present", present);
    v("null", null), v("pointer", pointer), v("", unnamed), v("deep.packed", packed);
  }
};

std::vector<std::string> paths(const std::vector<Entry>& entries) {
  std::vector<std::string> out;
  for (const auto& e : entries) out.push_back(e.path);
  return out;
}

TEST(Tree, PathsStandInTheOrderOfDeclaration) {
  Toy toy;
  EXPECT_EQ(
      paths(collect(toy)),
      (std::vector<std::string>{"first", "list.0.a", "list.0.b", "list.1.a", "list.1.b", "present",
                                "pointer.a", "pointer.b", "a", "b", "deep.packed"}));
  toy.absent = Param{mx::zeros({1})};
  EXPECT_EQ(collect(toy)[5].path, "absent");
}

TEST(Tree, EntriesPointAtTheFieldsThemselves) {
  Toy toy;
  const auto entries = collect(toy);
  EXPECT_EQ(entries[0].param, &toy.first);
  entries[3].param->value = mx::array({7.0f});
  EXPECT_EQ(toy.list[1].a.value.item<float>(), 7);
}

TEST(Tree, FrozenOnesAreLeftOutOfTheTrainable) {
  Toy toy;
  for (const auto& e :
       collect(toy, [](const std::string&path, const Param&) { return path.starts_with("list."); }))
    e.param->trainable = false;
  EXPECT_EQ(paths(collect_trainable(toy)),
            (std::vector<std::string>{"first", "present", "pointer.a", "pointer.b", "a", "b"}));
  EXPECT_EQ(collect(toy).size(), 11u);
}

TEST(Tree, CountsElementsAndBytes) {
  Toy toy;
  const int64_t elements = 6 + 4 + 5 + 6 + 7 + 1 + 8 + 9 + 10 + 11 + 3;
  EXPECT_EQ(count(collect(toy)), elements);
  EXPECT_EQ(bytes(collect(toy)), 4 * elements - 2);  // `present` is bfloat16
}

TEST(Tree, LendPutsInAndTakesOut) {
  Toy toy;
  const auto entries = collect(
      toy, [](const std::string& path, const Param&) { return path.starts_with("list.0"); });
  const auto a = toy.list[0].a.value, b = toy.list[0].b.value;
  const Arrays other{mx::zeros({4}), mx::zeros({5})};
  {
    const Lend lend(entries, other);
    EXPECT_EQ(toy.list[0].a.value.id(), other[0].id());
    EXPECT_EQ(toy.list[0].b.value.id(), other[1].id());
  }
  EXPECT_EQ(toy.list[0].a.value.id(), a.id());
  EXPECT_EQ(toy.list[0].b.value.id(), b.id());
  try {
    const Lend lend(entries, other);
    throw std::runtime_error("in the middle");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(toy.list[0].a.value.id(), a.id());
  EXPECT_EQ(toy.list[0].b.value.id(), b.id());
  EXPECT_THROW(Lend(entries, std::span(other).first(1)), Error);
  EXPECT_EQ(toy.list[0].a.value.id(), a.id());
}

Tensors all_of(Toy& toy) {
  Tensors out;
  for (const auto& e : collect(toy))
    out.emplace(e.path, mx::add(e.param->value, mx::ones_like(e.param->value)));
  return out;
}

TEST(Tree, LoadsWhatFits) {
  Toy toy;
  auto tensors = all_of(toy);
  // A float parameter takes any float type, as it comes.
  tensors.insert_or_assign("first", mx::full({2, 3}, 2.0f, mx::float16));
  EXPECT_TRUE(match(collect(toy), tensors).ok());
  load(collect(toy), tensors, "toy");
  EXPECT_EQ(toy.first.value.dtype(), mx::float16);
  EXPECT_EQ(test::floats(toy.list[1].b.value), std::vector<float>(7, 2.0f));
}

TEST(Tree, ReportsEveryFaultAtOnceAndAssignsNothing) {
  Toy toy;
  auto tensors = all_of(toy);
  tensors.erase("list.0.a"), tensors.erase("pointer.b");
  tensors.emplace("stranger", mx::zeros({1})), tensors.emplace("list.2.a", mx::zeros({4}));
  tensors.insert_or_assign("first", mx::zeros({3, 2}));
  tensors.insert_or_assign("b", mx::zeros({11}, mx::int32));
  tensors.insert_or_assign("deep.packed", mx::zeros({3}, mx::int32));
  std::vector<std::uintptr_t> before;
  for (const auto& v : values(collect(toy))) before.push_back(v.id());

  const auto report = match(collect(toy), tensors);
  EXPECT_FALSE(report.ok());
  EXPECT_EQ(report.missing, (std::vector<std::string>{"list.0.a [4]", "pointer.b [9]"}));
  EXPECT_EQ(report.unused, (std::vector<std::string>{"list.2.a [4]", "stranger [1]"}));
  EXPECT_EQ(report.misshapen, (std::vector<std::string>{"first: expected [2, 3], got [3, 2]"}));
  EXPECT_EQ(report.mistyped, (std::vector<std::string>{"b: expected float32, got int32",
                                                       "deep.packed: expected uint32, got int32"}));
  try {
    load(collect(toy), tensors, "a file");
    FAIL() << "was loaded";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::mismatch);
    const std::string text = e.what();
    for (const char* part :
         {"a file", "pointer.b", "stranger", "list.2.a", "[3, 2]", "deep.packed"})
      EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
  }
  const auto after = values(collect(toy));
  for (size_t i = 0; i < after.size(); ++i) EXPECT_EQ(after[i].id(), before[i]);
}

TEST(Tree, HooksSeeLayersWithTheirPaths) {
  struct Layers {
    Init init{0};
    Embedding table{6, 4, 1, init};
    std::vector<Linear> list{Linear(4, 3, true, 1, init), Linear(3, 2, false, 1, init)};
    void visit(Visitor& v) { v("table", table), v("list", list); }
  } layers;
  struct Hooks : Visitor {
    std::vector<std::string> seen;
    void linear(const std::string& path, Linear&) override { seen.push_back("linear " + path); }
    void embedding(const std::string& path, Embedding&) override {
      seen.push_back("embedding " + path);
    }
    void leaf(const std::string& path, Param&) override { seen.push_back(path); }
  } hooks;
  layers.visit(hooks);
  EXPECT_EQ(hooks.seen, (std::vector<std::string>{"embedding table", "table.weight",
                                                  "linear list.0", "list.0.weight", "list.0.bias",
                                                  "linear list.1", "list.1.weight"}));
}

class Quantized : public testing::TestWithParam<int> {};

TEST_P(Quantized, LinearKeepsItsPlaceInTheTree) {
  const int bits = GetParam(), in = 128, out = 24;
  Init init(3);
  Linear linear(in, out, true, 0.5f, init);
  const auto x = test::some({2, 5, in}, 1);
  const auto dense = linear.weight.w.value, y = linear(x);
  linear.weight.quantize(32, bits);
  EXPECT_TRUE(linear.weight.quantized());
  EXPECT_EQ(paths(collect(linear)),
            (std::vector<std::string>{"weight", "scales", "biases", "bias"}));
  EXPECT_EQ(paths(collect_trainable(linear)), (std::vector<std::string>{"bias"}));

  // Half a step of the range of each group, for each of `in` terms.
  const auto groups = mx::reshape(dense, {out, in / 32, 32});
  const auto range = mx::subtract(mx::max(groups, -1), mx::min(groups, -1));
  const double step = static_cast<double>(mx::max(range).item<float>()) / ((1 << bits) - 1);
  const double reach = static_cast<double>(mx::max(mx::sum(mx::abs(x), -1)).item<float>());
  const double bound = 0.75 * step * reach;  // the step is widened where zero is kept exact
  test::expect_close(linear(x), test::doubles(y), bound, "matmul");

  // Exactly what the rows unpack to, but for rounding of the sums.
  std::vector<int32_t> all(static_cast<size_t>(out));
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
  const auto rows = linear.weight.rows(mx::array(all.data(), {out}, mx::int32));
  test::expect_close(rows, test::doubles(dense), 0.75 * step, "rows");
  const auto unpacked = mx::add(mx::matmul(x, mx::transpose(rows)), linear.bias->value);
  test::expect_close(linear(x), test::doubles(unpacked), 16 * test::kEps * reach * 2, "unpacked");

  EXPECT_THROW(linear.weight.quantize(32, bits), Error);
  Linear odd(48, out, false, 1, init);
  EXPECT_THROW(odd.weight.quantize(32, bits), Error);
  EXPECT_EQ(paths(collect(odd)), (std::vector<std::string>{"weight"}));
}

INSTANTIATE_TEST_SUITE_P(Bits, Quantized, testing::Values(2, 4, 8));

}  // namespace
}  // namespace lmxlab::core
