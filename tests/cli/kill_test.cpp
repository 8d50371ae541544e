// kill -9 at any moment: a resumed run ends with the bytes of an uninterrupted one.
#include "lmxlab/base/random.h"
#include "tests/cli/program.h"

#include <chrono>
#include <thread>

namespace lmxlab::test {
namespace {

std::vector<std::string> small_run(const fs::path& out) {
  return {"train", "--quiet",
          "--out", out.string(),
          "--set", "model.preset=gpt-tiny",
          "--set", "model.dropout=0.1",
          "--set", "run.steps=300",
          "--set", "run.batch=2",
          "--set", "run.context=16",
          "--set", "run.checkpoint_every=7",
          "--set", "run.eval_every=25",
          "--set", "run.eval_batches=2",
          "--set", "data.validation=0.002"};
}

TEST(Kill, TwentyTimesAtRandomMoments) {
  const TemporaryFolder folder;
  const auto whole = lmxlab_run(small_run(folder / "whole"), {.timeout_s = 300});
  ASSERT_EQ(whole.code, 0) << whole.err;
  const auto bytes = read_file(folder / "whole/model.safetensors");
  const auto state = read_file(folder / "whole/checkpoints/step-300/state.safetensors");

  HostRandom random(20);
  int kills = 0, finished = 0;
  fs::path out;
  while (kills < 20 || finished == 0) {
    if (out.empty()) out = folder / ("run" + std::to_string(finished));
    const bool begun = fs::exists(out / "recipe.toml");
    if (!begun) fs::remove_all(out);  // killed before it was a run
    Child child(program(),
                begun ? std::vector<std::string>{"train", "--quiet", "--resume", out.string()}
                      : small_run(out),
                {.timeout_s = 300});
    if (kills < 20) {
      std::this_thread::sleep_for(std::chrono::milliseconds(random.below(900)));
      child.signal(SIGKILL);
    }
    const auto end = child.wait();
    if (end.signal == SIGKILL) {
      ++kills;
      continue;
    }
    ASSERT_EQ(end.code, 0) << end.err;
    EXPECT_TRUE(read_file(out / "model.safetensors") == bytes)
        << "other weights after " << kills << " kills";
    EXPECT_TRUE(read_file(out / "checkpoints/step-300/state.safetensors") == state)
        << "another state";
    for (const auto& entry : fs::directory_iterator(out / "checkpoints"))
      EXPECT_FALSE(entry.path().filename().string().starts_with("."))
          << entry.path() << " was left";
    ++finished;
    out.clear();
  }
}

}  // namespace
}  // namespace lmxlab::test
