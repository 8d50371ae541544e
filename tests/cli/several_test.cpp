// Drafts, samples, votes and beams of `generate`.
#include "lmxlab/base/text.h"
#include "lmxlab/eval/answers.h"
#include "tests/cli/program.h"
#include "tests/support/temp_folder.h"

#include <cmath>
#include <map>

namespace lmxlab::test {
namespace {

using Words = std::vector<std::string>;

Words generate(const std::string& model, const Words& more) {
  Words out{"generate", model, "--max-tokens", "40", "--json"};
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

TEST(GenerateDraft, GivesTheSameTextAndSaysWhatWasKept) {
  for (const char* temperature : {"0", "0.9"}) {
    const Words how{"--tokens", "1,2,3,1,2,3,1,2", "--temperature", temperature};
    const Json plain = json_of(lmxlab_run(generate("llama-tiny", how)));
    EXPECT_EQ(plain.find("draft_tokens"), nullptr);
    for (const Words& draft :
         {Words{"--draft", "ngram"}, Words{"--draft", "ngram", "--num-draft-tokens", "3"},
          Words{"--draft", "llama-tiny", "--num-draft-tokens", "3"}}) {
      auto words = how;
      words.insert(words.end(), draft.begin(), draft.end());
      const Json o = json_of(lmxlab_run(generate("llama-tiny", words)));
      EXPECT_EQ(o.at("tokens"), plain.at("tokens")) << o.dump();
      EXPECT_LE(o.at("accepted_tokens").as_integer(), o.at("draft_tokens").as_integer());
      if (draft[1] == "llama-tiny") {
        EXPECT_GT(o.at("accepted_tokens").as_integer(), 20) << "the same model drafts";
        EXPECT_GT(o.at("planned_bytes").as_integer(),
                  3 * plain.at("planned_bytes").as_integer() / 2);
      }
    }
  }
}

// The base drafts for itself with its adapters, and is there once.
TEST(GenerateDraft, ABaseDraftsForItsAdapters) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "text.txt", std::string(3000, 'a') + "bc");
  const auto train = [&](const std::string& preset, const std::string& out, Words more) {
    Words words{
        "train",       "--data", (folder / "text.txt").string(), "--quiet", "--steps", "2", "--set",
        "run.batch=2", "--set",  "model.preset=" + preset,       "--out",   out};
    words.insert(words.end(), more.begin(), more.end());
    ASSERT_EQ(lmxlab_run(words).code, 0);
  };
  const auto base = (folder / "base").string(), adapter = (folder / "adapter").string();
  train("llama-tiny", base, {"--set", "data.tokenizer=byte"});
  train(base, adapter, {"--set", "adapter.rank=4", "--set", "optimizer.lr=0.1"});
  const auto run = [&](const std::string& model, Words more) {
    more.insert(more.end(), {"--tokens", "1,2,3,1,2,3,1,2"});
    return json_of(lmxlab_run(generate(model, more)));
  };
  for (const char* temperature : {"0", "0.9"}) {
    const Words how{"--temperature", temperature, "--adapter", adapter};
    const Json plain = run(base, how);
    if (std::string(temperature) == "0") {
      EXPECT_NE(plain.at("tokens"), run(base, {"--temperature", "0"}).at("tokens"));
    }
    auto words = how;
    words.insert(words.end(), {"--draft", base, "--num-draft-tokens", "3"});
    const Json drafted = run(base, words);
    EXPECT_EQ(drafted.at("tokens"), plain.at("tokens"));
    EXPECT_GT(drafted.at("draft_tokens").as_integer(), 0);
    const Json as_model =
        run(adapter, {"--temperature", temperature, "--draft", base, "--num-draft-tokens", "3"});
    EXPECT_EQ(as_model.at("tokens"), plain.at("tokens"));
  }
}

// Heads that were trained beside a model draft for it; the plan is what it takes.
TEST(GenerateDraft, OfAModelsOwnHeads) {
  const TemporaryFolder folder;
  const auto model = (folder / "heads").string();
  json_of(lmxlab_run({"train", "--json", "--quiet", "--set", "model.preset=llama-tiny", "--set",
                      "objective.kind=mtp", "--set", "objective.heads=2", "--set", "run.steps=20",
                      "--set", "run.batch=4", "--set", "run.context=32", "--set",
                      "data.validation=0.02", "--out", model}));
  const Json counted = json_of(lmxlab_run({"count", model, "--json"}));
  EXPECT_GT(counted.at("parts").at("mtp").as_integer(), 0);
  for (const char* temperature : {"0", "0.9"}) {
    const Words how{"--prompt", "KING", "--temperature", temperature};
    const Json plain = json_of(lmxlab_run(generate(model, how)));
    for (const Words& draft :
         {Words{"--draft", "mtp"}, Words{"--draft", "mtp", "--num-draft-tokens", "3"}}) {
      auto words = how;
      words.insert(words.end(), draft.begin(), draft.end());
      const Json o = json_of(lmxlab_run(generate(model, words)));
      EXPECT_EQ(o.at("tokens"), plain.at("tokens")) << o.dump();
      EXPECT_LE(o.at("accepted_tokens").as_integer(), o.at("draft_tokens").as_integer());
      if (draft.size() > 2) {
        EXPECT_GT(o.at("draft_tokens").as_integer(), 20);
        const double peak = o.at("peak_bytes").as_number();
        EXPECT_NEAR(o.at("planned_bytes").as_number(), peak, 0.05 * peak);
      }
    }
  }
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--draft", "mtp"}, 5, "mismatch",
               {"no heads for further tokens", "objective mtp"});
}

TEST(GenerateDraft, RefusesWhatDoesNotFit) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "prompts.jsonl", "{\"tokens\": [1]}\n{\"tokens\": [2]}\n");
  expect_error({"generate", "llama-tiny", "--prompts-file", (folder / "prompts.jsonl").string(),
                "--draft", "ngram"},
               2, "usage", {"--draft is for one prompt", "--prompts-file"});

  expect_error({"generate", "llama-tiny", "--tokens", "1", "--draft", "gpt-10m"}, 5, "mismatch",
               {"vocabulary of 50257", "256"});
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--draft", "no-such"}, 3, "not_found",
               {"no-such"});
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--num-draft-tokens", "2"}, 2, "usage",
               {"--draft"});
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--draft", "ngram", "--n", "2"}, 2,
               "usage", {"--draft"});
}

TEST(GenerateSamples, AreThoseOfTheirSeeds) {
  const Json o =
      json_of(lmxlab_run(generate("llama-tiny", {"--tokens", "1,2,3", "--n", "3", "--seed", "5"})));
  ASSERT_EQ(o.at("samples").size(), 3u);
  EXPECT_EQ(o.at("tokens"), o.at("samples").as_array()[0].at("tokens"));
  double best = -1e9;
  Json chosen;
  for (int i = 0; i < 3; ++i) {
    const Json& sample = o.at("samples").as_array()[size_t(i)];
    const double score = sample.at("mean_logprob").as_number();
    if (score > best) best = score, chosen = sample;
  }
  const Json b = json_of(
      lmxlab_run(generate("llama-tiny", {"--tokens", "1,2,3", "--best-of", "3", "--seed", "5"})));
  EXPECT_EQ(b.at("tokens"), chosen.at("tokens"));
  EXPECT_EQ(b.at("samples").as_array()[0].at("score"),
            b.at("samples").as_array()[0].at("mean_logprob"));
  // Another model's opinion is another one, and the same weights have the same.
  const Json same =
      json_of(lmxlab_run(generate("llama-tiny", {"--tokens", "1,2,3", "--best-of", "3", "--seed",
                                                 "5", "--judge", "llama-tiny"})));
  EXPECT_EQ(same.at("tokens"), b.at("tokens"));
  for (const Json& sample : same.at("samples").as_array())
    EXPECT_NEAR(sample.at("score").as_number(), sample.at("mean_logprob").as_number(), 1e-3);
  const auto text =
      lmxlab_run({"generate", "llama-tiny", "--tokens", "1,2,3", "--n", "2", "--max-tokens", "3"});
  EXPECT_NE(text.out.find("--- 2 of 2\n"), std::string::npos) << text.out;
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--n", "2", "--temperature", "0"}, 2,
               "usage", {"temperature"});
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--n", "2", "--best-of", "2"}, 2,
               "usage", {"--best-of"});
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--n", "2", "--vote"}, 2, "usage",
               {"tokenizer"});
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--best-of", "2", "--judge", "gpt-10m"},
               5, "mismatch", {"50257"});
}

// A reward model that learned to prefer the letters a to d picks the samples that have them.
TEST(GenerateSamples, ARewardModelPicksWhatWasRewarded) {
  TemporaryFolder folder;
  std::string words, pairs;
  uint64_t seed = 7;
  const auto word = [&](const char* letters) {
    std::string out;
    for (int i = 0; i < 4; ++i)
      out += letters[(seed = seed * 6364136223846793005u + 1442695040888963407u) >> 62];
    return out;
  };
  for (int i = 0; i < 2000; ++i) words += word("awbx") + "\n";
  for (int i = 0; i < 100; ++i)
    pairs += "{\"prompt\": \"" + word("awbx") + "\\n\", \"chosen\": \"" + word("abab") +
             "\", \"rejected\": \"" + word("wxwx") + "\"}\n";
  write_file_atomic(folder / "words.txt", words);
  write_file_atomic(folder / "pairs.jsonl", pairs);
  const auto base = (folder / "base").string(), judge = (folder / "judge").string();
  const auto train = [](const Words& more) {
    Words all{"train", "--quiet", "--set", "run.context=16", "--set", "run.batch=8"};
    all.insert(all.end(), more.begin(), more.end());
    const auto done = lmxlab_run(all);
    ASSERT_EQ(done.code, 0) << done.err;
  };
  train({"--data", (folder / "words.txt").string(), "--set", "model.preset=llama-tiny", "--steps",
         "60", "--out", base});
  train({"--data", (folder / "pairs.jsonl").string(), "--set", "model.preset=" + base, "--set",
         "objective.kind=reward", "--set", "adapter.rank=4", "--set", "optimizer.lr=0.01",
         "--steps", "40", "--out", judge});
  const Json o =
      json_of(lmxlab_run({"generate", base, "--prompt", "awbx\n", "--max-tokens", "4", "--best-of",
                          "16", "--judge", judge, "--temperature", "1", "--json"}));
  const auto liked = [](const std::string& text) {
    double n = 0;
    for (const char c : text) n += c == 'a' || c == 'b' ? 1 : c == 'w' || c == 'x' ? -1 : 0;
    return n;
  };
  double mean = 0, best = -1e9;
  std::string text;
  for (const Json& s : o.at("samples").as_array()) {
    mean += liked(s.at("text").as_string()) / 16;
    if (s.at("score").as_number() > best)
      best = s.at("score").as_number(), text = s.at("text").as_string();
  }
  EXPECT_EQ(o.at("text").as_string(), text);
  EXPECT_GE(liked(text), mean + 1.5) << o.dump();
  expect_error({"generate", judge, "--prompt", "a", "--max-tokens", "2"}, 2, "usage",
               {"reward model"});
}

TEST(GenerateSamples, VotesAndSharesAreCounted) {
  TemporaryFolder folder;
  const auto run = (folder / "run").string();
  ASSERT_EQ(lmxlab_run({"train", "--steps", "2", "--out", run, "--quiet"}).code, 0);
  const Json o = json_of(
      lmxlab_run(generate(run, {"--prompt", "A", "--n", "8", "--vote", "--answer", "[a-e]"})));
  std::map<std::string, int> votes;
  for (const Json& s : o.at("samples").as_array())
    if (s.at("answer").is_string()) ++votes[s.at("answer").as_string()];
  ASSERT_FALSE(votes.empty());
  const auto winner = o.at("answer").as_string();
  EXPECT_EQ(o.at("votes").as_integer(), votes[winner]);
  for (const auto& [answer, n] : votes) EXPECT_LE(n, votes[winner]);
  const AnswerFinder find("[a-e]");
  EXPECT_EQ(find(o.at("text").as_string()), winner) << "the text shown is one that gives it";

  write_file_atomic(
      folder / "p.jsonl",
      "{\"prompt\": \"A\", \"answer\": \"a\"}\n{\"prompt\": \"B\"}\n"
      "{\"prompt\": \"Cd\", \"answer\": \"b\"}\n{\"prompt\": \"e\", \"answer\": \"zz\"}\n");
  const auto all = lmxlab_run(generate(run, {"--prompts-file", (folder / "p.jsonl").string(), "--n",
                                             "4", "--answer", "[a-e]", "--seed", "3"}));
  EXPECT_EQ(all.code, 0) << all.err;
  const auto rows = split(std::string(trim(all.out)), '\n');
  ASSERT_EQ(rows.size(), 5u);
  double pass1 = 0, pass4 = 0;
  for (const size_t i : {size_t{0}, size_t{2}, size_t{3}}) {
    const Json row = Json::parse(rows[i]);
    int right = 0;
    for (const Json& s : row.at("samples").as_array())
      right += s.at("answer").is_string() && s.at("answer").as_string() == (i == 0   ? "a"
                                                                            : i == 2 ? "b"
                                                                                     : "zz");
    EXPECT_EQ(row.at("correct").as_integer(), right);
    pass1 += right / 4.0 / 3, pass4 += (right > 0) / 3.0;
  }
  EXPECT_EQ(Json::parse(rows[1]).find("correct"), nullptr);
  const Json summary = Json::parse(rows[4]).at("summary");
  EXPECT_EQ(summary.at("prompts").as_integer(), 3);
  EXPECT_NEAR(summary.at("pass@1").as_number(), pass1, 1e-9);
  EXPECT_NEAR(summary.at("pass@4").as_number(), pass4, 1e-9);
  // A row's draws are those of its seed, wherever it stands in the file.
  const Json second = json_of(lmxlab_run(generate(run, {"--prompt", "B", "--seed", "7"})));
  EXPECT_EQ(Json::parse(rows[1]).at("samples").as_array()[0].at("text"), second.at("text"));
}

TEST(GenerateBeams, AreSortedAndTheFirstIsShown) {
  const Json o = json_of(lmxlab_run(
      generate("llama-tiny", {"--tokens", "1,2,3", "--beams", "3", "--length-penalty", "0.5"})));
  ASSERT_EQ(o.at("beams").size(), 3u);
  EXPECT_EQ(o.at("tokens"), o.at("beams").as_array()[0].at("tokens"));
  double last = 0;
  for (const Json& b : o.at("beams").as_array()) {
    EXPECT_LE(b.at("score").as_number(), last);
    last = b.at("score").as_number();
    EXPECT_NEAR(last, b.at("logprob").as_number() / std::sqrt(double(b.at("tokens").size())), 1e-4);
  }
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--beams", "2", "--n", "2"}, 2, "usage",
               {"--beams"});
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--length-penalty", "2"}, 2, "usage",
               {"--beams"});
}

}  // namespace
}  // namespace lmxlab::test
