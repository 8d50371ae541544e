// A small model with a byte tokenizer, samples and pairs, and recipes that train it for twelve
// steps.
#pragma once

#include "lmxlab/base/files.h"
#include "lmxlab/base/random.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/training/checkpoint.h"
#include "lmxlab/training/run.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lmxlab {

// A word, and what is to be said of it: good answers repeat it, bad ones turn it round.
inline std::string words(uint64_t seed, bool pairs, int lines) {
  HostRandom random(seed);
  std::string out;
  for (int i = 0; i < lines; ++i) {
    std::string word;
    for (uint64_t n = 2 + random.below(4); n > 0; --n) word += char('a' + random.below(4));
    const std::string turned(word.rbegin(), word.rend());
    const auto prompt = "{\"prompt\": \"" + word + "=\", ";
    out += pairs ? prompt + "\"chosen\": \"" + word + "\", \"rejected\": \"" + turned + "x\"}\n"
                 : prompt + "\"completion\": \"" + word + "\"}\n";
  }
  return out;
}

class FineTune : public testing::Test {
 protected:
  void SetUp() override {
    base_ = (folder_ / "base").string();
    LanguageModel model(
        config::preset("llama-tiny",
                       {.dim = 32, .heads = 4, .kv_heads = 2, .hidden = 64, .vocab = 258}),
        1);
    model.save(base_);
    data::Tokenizer::bytes().save(base_);
    write_file_atomic(folder_ / "sft.jsonl", words(1, false, 120));
    write_file_atomic(folder_ / "pairs.jsonl", words(2, true, 120));
  }
  Recipe recipe(const std::string& out, const std::vector<std::string>& more) const {
    std::vector<std::string> all{"model.preset=" + Json(base_).dump(),
                                 "run.out=" + Json((folder_ / out).string()).dump(),
                                 "run.steps=12",
                                 "run.batch=4",
                                 "run.context=32",
                                 "run.log_every=1",
                                 "run.checkpoint_every=4",
                                 "run.eval_every=4",
                                 "data.validation=0.1",
                                 "optimizer.lr=0.01"};
    for (const auto* some : {&defaults_, &more}) all.insert(all.end(), some->begin(), some->end());
    return read_recipe("", "recipe", all);
  }
  std::string file(const char* name) const {
    return "data.file=" + Json((folder_ / name).string()).dump();
  }
  // Whole, and interrupted behind step 6.
  void expect_resumes(const std::vector<std::string>& more, const std::string& name = "") {
    const auto whole = train_run(recipe("whole" + name, more), {}).out;
    RunHooks hooks;
    std::stop_source source;
    hooks.step = [&](const StepMetrics& m, int64_t) {
      if (m.step == 6) source.request_stop();
    };
    const auto parts = train_run(recipe("parts" + name, more), hooks, source.get_token()).out;
    EXPECT_EQ(RunFolder(parts).checkpoints().back().step, 6);
    resume_run(parts, {}, {});
    const auto state = fs::path("checkpoints") / "step-12" / "state.safetensors";
    EXPECT_EQ(read_file(whole / state), read_file(parts / state)) << name;
    for (const char* weights :
         {"model.safetensors", "adapter_model.safetensors", "adapter_config.json"})
      if (fs::exists(whole / weights)) {
        EXPECT_EQ(read_file(whole / weights), read_file(parts / weights)) << name;
      }
  }

  test::TemporaryFolder folder_;
  std::string base_;
  std::vector<std::string> defaults_;  // of every recipe
};

}  // namespace lmxlab
