#include "lmxlab/data/batches.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/files.h"
#include "lmxlab/data/corpus.h"
#include "lmxlab/io/safetensors.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <map>
#include <numeric>
#include <set>

namespace lmxlab::data {
namespace {

mx::array counting(int n) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return mx::array(ids.data(), {n}, mx::int32);
}
std::vector<int> values(mx::array a) {
  a = mx::contiguous(a);
  mx::eval(a);
  return {a.data<int32_t>(), a.data<int32_t>() + a.size()};
}

TEST(Batches, TargetsFollowInputs) {
  for (const bool shuffle : {false, true})
    for (const auto& [inputs, targets] :
         batch_iterator(counting(100), 3, 7, {.shuffle = shuffle, .seed = 4})) {
      EXPECT_EQ(inputs.shape(), (mx::Shape{3, 7}));
      auto x = values(inputs), y = values(targets);
      for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(x[i] + 1, y[i]);
    }
}

TEST(Batches, AnEpochVisitsEveryWindowOnce) {
  auto it = batch_iterator(counting(1 + 5 * 40), 2, 5, {.shuffle = true, .seed = 9, .epochs = 3});
  std::map<int64_t, std::multiset<int>> starts;
  while (true) {
    const auto batch = it.next();
    if (!batch) break;
    const auto x = values(batch->inputs);
    starts[it.position().epoch].insert({x[0], x[5]});
  }
  ASSERT_EQ(starts.size(), 3u);
  std::set<int> phases;
  for (const auto& [epoch, seen] : starts) {
    EXPECT_EQ(static_cast<int64_t>(seen.size()), 2 * it.batches_per_epoch());
    EXPECT_EQ(std::set<int>(seen.begin(), seen.end()).size(), seen.size()) << "a window came twice";
    for (const int s : seen) EXPECT_EQ(s % 5, *seen.begin() % 5);
    phases.insert(*seen.begin() % 5);
  }
  EXPECT_GT(phases.size(), 1u) << "the cuts lie at the same place in every epoch";
}

TEST(Batches, SameSeedSameOrder) {
  const auto take = [](uint64_t seed) {
    auto it = batch_iterator(counting(500), 4, 9, {.seed = seed, .epochs = 2});
    std::vector<int> out;
    while (const auto b = it.next())
      for (const int v : values(b->inputs)) out.push_back(v);
    return out;
  };
  EXPECT_EQ(take(1), take(1));
  EXPECT_NE(take(1), take(2));
}

TEST(Batches, RestoresItsExactPosition) {
  const auto make = [] { return batch_iterator(counting(300), 3, 8, {.seed = 5, .epochs = 0}); };
  auto whole = make();
  std::vector<std::vector<int>> all;
  std::vector<BatchPosition> before;
  for (int i = 0; i < 40; ++i) {
    before.push_back(whole.position());
    all.push_back(values(whole.next()->inputs));
  }
  EXPECT_GT(whole.position().epoch, 1);
  for (size_t i = 0; i < all.size(); i += 7) {
    auto again = make();
    again.restore(before[i]);
    for (size_t k = i; k < all.size(); ++k) EXPECT_EQ(values(again.next()->inputs), all[k]);
  }
  auto it = make();
  EXPECT_THROW(it.restore({0, 1000}), Error);
}

// In order, a batch is a view: its rows lie where the tokens lie.
TEST(Batches, InOrderCopiesNothing) {
  auto tokens = counting(200);
  const auto* first = tokens.data<int32_t>();
  int at = 0;
  for (auto [inputs, targets] : batch_iterator(tokens, 2, 10, {.shuffle = false})) {
    mx::eval(inputs, targets);
    EXPECT_EQ(inputs.data<int32_t>(), first + at);
    EXPECT_EQ(targets.data<int32_t>(), first + at + 1);
    at += 20;
  }
  EXPECT_EQ(at, 180);
}

// Shuffled, the one copy is the batch itself: inputs and targets are views of one buffer.
TEST(Batches, ShuffledCopiesTheBatchOnce) {
  auto batch = *batch_iterator(counting(200), 2, 10, {.shuffle = true}).next();
  mx::eval(batch.inputs, batch.targets);
  EXPECT_EQ(batch.inputs.data<int32_t>() + 1, batch.targets.data<int32_t>());
}

TEST(Batches, ReadsAMappedFileOfTokens) {
  const test::TemporaryFolder folder;
  std::vector<uint16_t> ids(1000);
  std::iota(ids.begin(), ids.end(), 0);
  io::write_safetensors(folder / "tokens.safetensors",
                        {{"tokens", mx::array(ids.data(), {1000}, mx::uint16)}});
  EXPECT_TRUE(is_token_file(folder / "tokens.safetensors"));
  const auto before = mx::get_active_memory();
  auto tokens = token_file(folder / "tokens.safetensors");
  EXPECT_EQ(tokens.dtype(), mx::uint16);
  EXPECT_EQ(mx::get_active_memory(), before) << "the file was read into memory";
  auto batch = *batch_iterator(tokens, 2, 10, {.shuffle = false}).next();
  mx::eval(batch.inputs);
  EXPECT_EQ(batch.inputs.data<uint16_t>(), tokens.data<uint16_t>());
  EXPECT_THROW(token_file(folder / "tokens.safetensors", 500), Error);
  EXPECT_EQ(token_file(folder / "tokens.safetensors", 1 << 16).size(), tokens.size());
}

TEST(Batches, SaysWhatDoesNotFit) {
  try {
    batch_iterator(counting(50), 8, 10);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::usage);
    EXPECT_NE(std::string(e.what()).find("81"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("50"), std::string::npos) << e.what();
  }
}

TEST(Batches, TheSmallestDataThatFit) {
  int n = 0;
  for (const auto& b : batch_iterator(counting(81), 8, 10)) n += b.inputs.shape(0);
  EXPECT_EQ(n, 8);
}

TEST(Corpus, TinyShakespeareIsWhole) {
  const auto text = tiny_shakespeare();
  EXPECT_EQ(text.size(), 1115394u);
  EXPECT_EQ(text, read_file(std::string(LMXLAB_SOURCE_DIR) + "/lmxlab/data/tinyshakespeare.txt"));
}

TEST(Corpus, SplitsAtTheEnd) {
  auto [train, validation] = split_tokens(counting(100), 0.1);
  EXPECT_EQ(train.size(), 90u);
  EXPECT_EQ(values(validation).front(), 90);
  EXPECT_EQ(split_tokens(counting(100), 0).validation.size(), 0u);
  EXPECT_THROW(split_tokens(counting(100), 1), Error);
}

}  // namespace
}  // namespace lmxlab::data
