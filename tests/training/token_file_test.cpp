// A file of tokens is trained on where it lies: batches are views of the mapping or one copy of
// their own tokens, and only pages that were read are in memory.
#include "lmxlab/base/files.h"
#include "lmxlab/base/random.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/data/build.h"
#include "lmxlab/data/corpus.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/training/trainer.h"
#include "tests/support/memory_map.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <iostream>

#ifdef __linux__  // others do not tell which pages of a file are in memory

namespace lmxlab {
namespace {

constexpr size_t kSlack = 1 << 20;  // the system maps 64 KiB around a page that is touched

class TokenFile : public testing::Test {
 protected:
  static constexpr int kTokens = 16 << 20;
  const test::TemporaryFolder folder;
  const fs::path path = folder / "tokens.safetensors";

  void SetUp() override {
    std::string text(kTokens, ' ');
    HostRandom random(1);
    for (size_t i = 0; i < text.size(); i += 8) {
      const uint64_t word = random.next();
      for (size_t k = 0; k < 8; ++k) text[i + k] = static_cast<char>('a' + (word >> (8 * k)) % 16);
    }
    write_file_atomic(folder / "text.txt", text);
    const auto tokenizer = data::Tokenizer::bytes();
    const auto built = data::build_token_file({folder / "text.txt"}, path, tokenizer, {});
    ASSERT_EQ(built.tokens, kTokens);
    ASSERT_EQ(test::map_of(path).rss, 0u);
  }
};

TEST_F(TokenFile, BatchesTouchTheirOwnPagesAlone) {
  const auto active = kernels::active_bytes();
  const auto tokens = data::token_file(path);
  EXPECT_EQ(kernels::active_bytes(), active);
  EXPECT_LE(test::map_of(path).rss, kSlack);
  const auto maps = test::memory_maps();
  const auto* first = tokens.data<uint16_t>();
  EXPECT_EQ(test::file_at(first, tokens.nbytes(), maps), fs::canonical(path));

  // In order: views. Fifty batches of 8 x 1024 tokens are 0.8 MB.
  size_t at = 0;
  auto in_order = data::batch_iterator(tokens, 8, 1024, {.shuffle = false});
  for (int i = 0; i < 50; ++i) {
    auto batch = *in_order.next();
    mx::eval(batch.inputs, batch.targets);
    EXPECT_EQ(batch.inputs.data<uint16_t>(), first + at);
    EXPECT_EQ(batch.targets.data<uint16_t>(), first + at + 1);
    EXPECT_GT(mx::sum(batch.inputs).item<uint32_t>(), 0u);  // reads it
    at += 8 * 1024;
  }
  mx::synchronize();
  EXPECT_EQ(kernels::active_bytes(), active);
  const auto in_order_bytes = test::map_of(path).rss;
  EXPECT_LE(in_order_bytes, at * 2 + kSlack);

  // Shuffled: five batches of 4 rows, each somewhere: a page or two, and as many around as the
  // system maps at once.
  auto shuffled = data::batch_iterator(tokens, 4, 64, {.shuffle = true, .seed = 1});
  for (int i = 0; i < 5; ++i) {
    const auto batch = *shuffled.next();
    mx::eval(batch.inputs, batch.targets);
  }
  mx::synchronize();
  EXPECT_EQ(kernels::active_bytes(), active);
  const auto map = test::map_of(path);
  std::cout << fs::file_size(path) << " bytes in the file, " << in_order_bytes
            << " resident after 50 batches in order, " << map.rss << " after 5 shuffled ones, "
            << map.anonymous << " copied\n";
  EXPECT_LE(map.rss, fs::file_size(path) / 2);
  EXPECT_EQ(map.anonymous, 0u);
}

// The trainer looks at every id before the first step, so the file is read, and still not copied.
TEST_F(TokenFile, TrainingCopiesNothing) {
  LanguageModel model(config::preset("gpt-tiny", {.dim = 32, .heads = 2, .vocab = 300}), 1);
  kernels::clear_cache();
  const auto own = test::anonymous_bytes(), active = kernels::active_bytes();
  auto [train, validation] = data::split_tokens(data::token_file(path, 300), 0.001);
  const auto* where = train.data<uint16_t>();
  TrainOptions options;
  options.run.steps = 20, options.run.batch = 4, options.run.context = 32;
  options.run.eval_every = 10, options.run.eval_batches = 2;
  Trainer trainer(model, train, validation, options);
  trainer.run();
  mx::synchronize();
  kernels::clear_cache();
  EXPECT_EQ(train.data<uint16_t>(), where);
  const auto map = test::map_of(path);
  const auto grown = static_cast<ptrdiff_t>(test::anonymous_bytes() - own);
  std::cout << map.rss << " bytes of the file resident, " << map.anonymous
            << " copied; own memory grew by " << grown << ", arrays by "
            << kernels::active_bytes() - active << "\n";
  EXPECT_EQ(map.anonymous, 0u);
  if (test::kOwnMemoryTells) {
    EXPECT_LT(grown, ptrdiff_t{16 << 20}) << "the file has 32 MB";
  }
  EXPECT_LT(kernels::active_bytes() - active, size_t{4} << 20);
}

}  // namespace
}  // namespace lmxlab

#endif
