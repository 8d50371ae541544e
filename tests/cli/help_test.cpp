#include "tests/cli/program.h"

#include "lmxlab/base/text.h"

#include <set>

namespace lmxlab::test {
namespace {

const std::vector<std::string> kCommands{"train",           "generate", "logits", "tokenize",
                                         "tokenizer train", "template", "list",   "data build",
                                         "data inspect",    "info",     "count",  "quantize",
                                         "bench",           "doctor",   "pull"};

TEST(Help, ListsEveryCommand) {
  const auto o = lmxlab_run({"--help"});
  EXPECT_EQ(o.code, 0);
  EXPECT_EQ(o.err, "");
  for (const auto& c : kCommands) EXPECT_NE(o.out.find("\n  " + c + " "), std::string::npos) << c;
  EXPECT_EQ(lmxlab_run({}).out, o.out);
}

TEST(Help, EveryCommandSaysItsPurposeOptionsAndExample) {
  for (const auto& c : kCommands) {
    SCOPED_TRACE(c);
    auto words = split(c, ' ');
    words.push_back("--help");
    const auto o = lmxlab_run(words);
    EXPECT_EQ(o.code, 0);
    EXPECT_TRUE(o.out.starts_with("Usage: lmxlab " + c)) << o.out;
    EXPECT_NE(o.out.find("--json"), std::string::npos);
    EXPECT_NE(o.out.find("\nExample:\n  lmxlab " + c), std::string::npos) << o.out;
    for (const auto& line : split(o.out, '\n')) EXPECT_LE(line.size(), 100u) << line;
  }
}

TEST(Help, DocumentIsWhatTheProgramSays) {
  const auto text = read_file(fs::path(LMXLAB_SOURCE_DIR) / "docs/cli.md");
  const auto o = lmxlab_run({"--help-markdown"});
  ASSERT_EQ(o.code, 0);
  const auto at = text.find("## lmxlab train");
  ASSERT_NE(at, std::string::npos);
  EXPECT_EQ(trim(text.substr(at)), trim(o.out))
      << "docs/cli.md: replace the commands by `lmxlab --help-markdown`";
}

// Examples that need neither a run nor a file.
TEST(Help, ExamplesRun) {
  const auto example = [](const std::string& command) {
    const auto o = lmxlab_run({command, "--help"});
    auto line = o.out.substr(o.out.find("Example:\n  lmxlab ") + 18);
    return split(std::string(trim(line)), ' ');
  };
  for (const std::string command : {"list", "info", "count", "bench", "doctor"}) {
    const auto o = lmxlab_run(example(command), {.timeout_s = 300});
    EXPECT_EQ(o.code, 0) << command << "\n" << o.err;
    EXPECT_NE(o.out, "");
  }
}

TEST(Arguments, UnknownOnesNameTheNearest) {
  expect_error({"trian"}, 2, "usage", {"trian", "did you mean \"train\"?"});
  expect_error({"list", "--jsn"}, 2, "usage", {"--jsn", "--json"});
  expect_error({"train", "--step", "3"}, 2, "usage", {"--step", "did you mean \"--steps\"?"});
  expect_error({"info", "lama-tiny"}, 3, "not_found", {"did you mean \"llama-tiny\"?"});
  expect_error({"tokenizer"}, 2, "usage", {"train"});
  expect_error({"info"}, 2, "usage", {"MODEL"});
  expect_error({"info", "gpt-tiny", "gpt-small"}, 2, "usage", {"gpt-small"});
}

TEST(Arguments, EveryFaultAtOnce) {
  expect_error(
      {"generate", "gpt-tiny", "--max-tokens", "x", "--top-p", "2", "--seed", "1.5", "--bogus"}, 2,
      "usage",
      {"--max-tokens: expected an integer, got \"x\"", "--top-p", "--seed",
       "unknown option --bogus"});
  expect_error({"bench", "gpt-tiny", "--mode", "sleep"}, 2, "usage",
               {"train, prefill, decode", "sleep"});
  expect_error({"bench", "gpt-tiny", "--batch", "0"}, 2, "usage", {"--batch"});
  expect_error({"generate", "gpt-tiny", "--seed", "1", "--seed", "2", "--tokens", "1"}, 2, "usage",
               {"--seed: given 2 times"});
  expect_error({"list", "--quiet=3"}, 2, "usage", {"--quiet"});
}

// Values arrive as they were typed, whatever they look like.
TEST(Arguments, ValuesAreTakenAsTheyAre) {
  for (const std::string text :
       {"", " ", "-x", "--json", "--", "[a,b]", "{}", "a=b", "\"q\"", "'s'", "%%", "-1", "a\nb"}) {
    for (const bool joined : {false, true}) {
      std::vector<std::string> command{"tokenize", "byte"};
      if (joined) {
        command.push_back("--text=" + text);
      } else {
        command.push_back("--text");
        command.push_back(text);
      }
      if (joined && text.empty()) continue;  // `--text=` says nothing
      command.push_back("--json");
      Json::Array bytes;
      for (const unsigned char c : text) bytes.push_back(Json(int(c)));
      const auto o = lmxlab_run(command);
      ASSERT_EQ(o.code, 0) << text << ": " << o.err;
      EXPECT_EQ(json_of(o).at("ids"), Json(bytes)) << text;
    }
  }
}

TEST(Arguments, NoDeviceOptionExists) {
  for (const auto& c : kCommands) {
    auto words = split(c, ' ');
    words.push_back("--help");
    const auto text = lmxlab_run(words).out;
    for (const char* word : {"--device", "--cpu", "--gpu", "--cuda", "--ngl"})
      EXPECT_EQ(text.find(word), std::string::npos) << c;
  }
}

TEST(Output, ClosedPipeIsNoError) {
  Child child(program(), {"list"});
  child.close_output();
  const auto o = child.wait();
  EXPECT_EQ(o.signal, 0);
  EXPECT_EQ(o.code, 0);
  EXPECT_EQ(o.err, "");
}

TEST(Environment, ThreadsAreChecked) {
  expect_error({"list"}, 2, "usage", {"LMXLAB_THREADS", "many"},
               {.environment = {{"LMXLAB_THREADS", "many"}}});
  EXPECT_EQ(lmxlab_run({"list"}, {.environment = {{"LMXLAB_THREADS", "1"}}}).code, 0);
}

TEST(Environment, TheInstructionSetIsCheckedAndForced) {
  expect_error({"list"}, 2, "usage", {"LMXLAB_CPU", "\"mmx\"", "scalar, sse4, avx2"},
               {.environment = {{"LMXLAB_CPU", "mmx"}}});
#if defined(__x86_64__)
  const std::string least = "scalar", foreign = "neon";
#else
  const std::string least = "neon", foreign = "avx2";
#endif
  expect_error({"list"}, 2, "usage", {"LMXLAB_CPU", "this processor has no " + foreign},
               {.environment = {{"LMXLAB_CPU", foreign}}});
  const auto o = lmxlab_run({"doctor", "--json"},
                            {.environment = {{"LMXLAB_CPU", least}, {"LMXLAB_THREADS", "1"}}});
  ASSERT_EQ(o.code, 0) << o.err;
  const Json report = json_of(o);
  EXPECT_EQ(report.at("machine").at("set").as_string(), least);
  EXPECT_EQ(report.at("machine").at("threads").as_integer(), 1);
}

}  // namespace
}  // namespace lmxlab::test
