// A run that is refused memory in its middle ends with an error that says so, and goes on from its
// last checkpoint as if nothing had been.
#include "lmxlab/training/run.h"

#include "lmxlab/base/files.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/training/checkpoint.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <iostream>

namespace lmxlab {
namespace {

Recipe recipe_in(const fs::path& out) {
  return read_recipe("[data]\nvalidation = 0.002\n", "recipe",
                     {"model.preset=gpt-tiny", "model.depth=2", "model.dim=64", "model.heads=2",
                      "model.dropout=0.1", "run.steps=12", "run.batch=8", "run.context=64",
                      "run.log_every=1", "run.checkpoint_every=4", "run.eval_every=5",
                      "run.eval_batches=2", "run.out=" + out.string()});
}

struct Limit {
  size_t before = kernels::memory_limit();
  ~Limit() { kernels::set_memory_limit(before); }
};

TEST(OutOfMemory, ARunGoesOnFromItsLastCheckpoint) {
  const test::TemporaryFolder folder;
  int64_t active = 0, peak = 0;
  RunHooks hooks;
  hooks.step = [&](const StepMetrics& m, int64_t) { active = m.active_bytes, peak = m.peak_bytes; };
  train_run(recipe_in(folder / "whole"), hooks);
  const auto last = [](const fs::path& p) { return RunFolder(p).checkpoints().back(); };
  const auto weights = read_file(folder / "whole/model.safetensors");
  const auto state = read_file(last(folder / "whole").folder / "state.safetensors");

  // From nothing left to nearly enough: what is refused lies elsewhere in the step each time.
  int failed = 0;
  for (int eighths = 0; eighths < 8; ++eighths) {
    SCOPED_TRACE(std::to_string(eighths) + " eighths of a step's room");
    const auto out = folder / ("cut" + std::to_string(eighths));
    {
      const Limit limit;
      hooks.step = [&](const StepMetrics& m, int64_t) {
        if (m.step == 6)
          kernels::set_memory_limit(static_cast<size_t>(active + (peak - active) * eighths / 8));
      };
      try {
        train_run(recipe_in(out), hooks);
      } catch (const Error& e) {
        ++failed;
        EXPECT_EQ(e.kind(), Kind::resource) << e.what();
        EXPECT_NE(std::string(e.what()).find("[memory] cannot allocate"), std::string::npos)
            << e.what();
        EXPECT_EQ(last(out).step, 4);
      }
    }
    resume_run(out, {}, {});
    EXPECT_TRUE(read_file(out / "model.safetensors") == weights);
    EXPECT_TRUE(read_file(last(out).folder / "state.safetensors") == state);
  }
  std::cout << failed << " of 8 runs were refused memory\n";
  EXPECT_GE(failed, 6);
}

}  // namespace
}  // namespace lmxlab
