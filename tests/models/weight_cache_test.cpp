// The cache of weights that are laid out for this machine: made once, mapped, never believed
// blindly.
#include "lmxlab/models/weight_cache.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/files.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/kernels/isa.h"
#include "lmxlab/models/quantize.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

namespace lmxlab {
namespace {

class WeightCache : public testing::Test {
 protected:
  const test::TemporaryFolder place;
  const fs::path root = place.path();
  const fs::path folder = root / "model", cache = root / "cache";
  bool faster = false;  // whether this machine wants it at all

  void SetUp() override {
    make_directory(folder);
    save(3);
  }

  void save(uint64_t seed, int vocab_size = 0) {
    auto config = config::preset("llama-tiny");
    if (vocab_size) config.vocab = vocab_size;
    LanguageModel model(config, seed);
    quantize_model(model, {.bits = 4, .group_size = 32, .embedding_bits = 8});
    model.save(folder);
    interleave_model(model);
    faster = interleaved(model) > 0;
  }
  static int interleaved(LanguageModel& model) {
    int n = 0;
    for (const auto& l : core::weights_of(model.transformer())) n += l.weight->interleaved;
    return n;
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> all;
    if (fs::exists(cache))
      for (const auto& e : fs::directory_iterator(cache)) all.push_back(e.path());
    return all;
  }
  // What the folder's model answers, by the layout in memory and by the cache.
  void check(const std::string& when, bool usable = true) {
    auto plain = LanguageModel::load(folder), model = LanguageModel::load(folder);
    interleave_model(plain);
    const auto problem = interleave_from_cache(model, folder, cache);
    EXPECT_EQ(problem.has_value(), faster && !usable) << when << ": " << problem.value_or("");
    EXPECT_EQ(interleaved(model), interleaved(plain)) << when;
    const mx::array tokens({1, 50, 7}, {1, 3}, mx::int32);
    EXPECT_TRUE(mx::array_equal(model.forward(tokens), plain.forward(tokens)).item<bool>()) << when;
    EXPECT_EQ(files().size(), faster && usable ? 1u : 0u) << when;
  }
};

TEST_F(WeightCache, IsMadeOnceAndMapped) {
  check("first");
  if (!faster) return;
  const auto file = files()[0];
  const auto made = fs::last_write_time(file);
  check("second");
  EXPECT_EQ(fs::last_write_time(file), made);
  // Its arrays are views of one mapping: no copy is held.
  auto model = LanguageModel::load(folder);
  interleave_from_cache(model, folder, cache);
  const io::SafeTensors tensors(file);
  for (const auto& e : core::collect(model.transformer())) {
    if (!e.path.ends_with("_tiles")) continue;
    EXPECT_EQ(e.param->value.shape(), tensors.get(e.path).shape()) << e.path;
  }
  EXPECT_EQ(tensors.names().size(), static_cast<size_t>(3 * interleaved(model)));
  // Saved again, it is a folder like the first.
  model.save(root / "again");
  const auto a = io::SafeTensors(folder / "model.safetensors").all(),
             b = io::SafeTensors(root / "again" / "model.safetensors").all();
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, array] : a)
    EXPECT_TRUE(mx::array_equal(array, b.at(name)).item<bool>()) << name;
}

TEST_F(WeightCache, FollowsItsFolder) {
  check("first");
  const auto before = files();
  save(4);
  check("other weights");
  if (!faster) return;
  EXPECT_NE(files(), before);
  // Spoilt: cut short, then something else, then of another source.
  const auto file = files()[0];
  const auto good = read_file(file);
  write_file_atomic(file, good.substr(0, good.size() / 2));
  check("cut short");
  EXPECT_EQ(read_file(file), good);
  write_file_atomic(file, "not a file of tensors");
  check("something else");
  auto tensors = io::SafeTensors(file).all();
  io::write_safetensors(file, tensors, {{"source", "elsewhere"}});
  check("another source");
  tensors.erase(tensors.begin());
  io::write_safetensors(file, tensors, io::SafeTensors(file).metadata());
  check("a tensor less");
  EXPECT_EQ(read_file(file), good);
}

// A large matrix is laid out in several strips.
TEST_F(WeightCache, OfManyRows) {
  save(5, 100'000);
  check("first");
  check("second");
}

TEST_F(WeightCache, IsNotNeeded) {
  write_file_atomic(cache, "a file, no folder");
  auto model = LanguageModel::load(folder);
  const auto problem = interleave_from_cache(model, folder, cache);
  EXPECT_EQ(problem.has_value(), faster);
  if (faster) {
    EXPECT_NE(problem->find(cache.string()), std::string::npos) << *problem;
    EXPECT_GT(interleaved(model), 0);
  }
  fs::remove(cache);
  // Float weights make no file.
  LanguageModel plain(config::preset("llama-tiny"), 1);
  plain.save(root / "float");
  auto loaded = LanguageModel::load(root / "float");
  EXPECT_FALSE(interleave_from_cache(loaded, root / "float", cache));
  EXPECT_TRUE(files().empty());
}

}  // namespace
}  // namespace lmxlab
