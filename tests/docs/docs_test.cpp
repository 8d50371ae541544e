// What the documents say of the code, and the recipes: checked against the code.
#include "lmxlab/base/text.h"
#include "lmxlab/lmxlab.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

namespace lmxlab {
namespace {

const fs::path kTop = LMXLAB_SOURCE_DIR;

std::vector<std::string> lines_of(const fs::path& path) {
  std::istringstream in(read_file(path));
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

// The rows between `<!-- table: NAME -->` and the next line that is none.
std::vector<std::string> table(const fs::path& page, const std::string& name) {
  const auto lines = lines_of(kTop / page);
  auto at = std::find(lines.begin(), lines.end(), "<!-- table: " + name + " -->");
  if (at == lines.end()) return {};
  std::vector<std::string> out;
  for (++at; at != lines.end() && (*at).starts_with("|"); ++at) out.push_back(*at);
  return out;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string out;
  for (const auto& line : lines) out += line + "\n";
  return out;
}

template <class T>
void add_keys(std::vector<std::string>& out, const std::string& name) {
  for (const auto& f : describe_fields<T>()) {
    const auto value = f.value == "null" || f.value == "\"\"" ? std::string() : "`" + f.value + "`";
    out.push_back("| `" + name + "." + f.name + "` | " + value + " | " + f.help + " |");
  }
}

TEST(Documents, TheTableOfRecipeKeysIsTheCodes) {
  std::vector<std::string> expected{"| key | default | meaning |", "| --- | --- | --- |"};
  add_keys<DataConfig>(expected, "data");
  add_keys<OptimizerConfig>(expected, "optimizer");
  add_keys<ScheduleConfig>(expected, "schedule");
  add_keys<ObjectiveConfig>(expected, "objective");
  add_keys<AdapterOptions>(expected, "adapter");
  add_keys<RunConfig>(expected, "run");
  EXPECT_EQ(joined(table("docs/training.md", "recipe keys")), joined(expected));
}

TEST(Documents, TheTableOfSweepKeysIsTheCodes) {
  std::vector<std::string> expected{"| key | default | meaning |", "| --- | --- | --- |"};
  add_keys<SweepConfig>(expected, "sweep");
  EXPECT_EQ(joined(table("docs/experiments.md", "sweep keys")), joined(expected));
}

TEST(Documents, TheTablesOfTheConfigAreTheCodes) {
  std::vector<std::string> expected{"| key | default | meaning |", "| --- | --- | --- |"};
  add_keys<config::Model>(expected, "model");
  add_keys<config::Block>(expected, "layer");
  add_keys<config::Attention>(expected, "mixer");
  add_keys<config::Mlp>(expected, "ffn");
  // Variants show as JSON objects; a table names their kind.
  for (auto& line : expected)
    if (const auto brace = line.find("`{"); brace != std::string::npos) {
      const auto value = Json::parse(line.substr(brace + 1, line.rfind("}`") - brace));
      line.replace(brace, line.rfind("}`") + 2 - brace, "`" + value.at("kind").as_string() + "`");
    }
  EXPECT_EQ(joined(table("docs/models.md", "config keys")), joined(expected));
  std::vector<std::string> experts{"| key | default | meaning |", "| --- | --- | --- |"};
  add_keys<config::Moe>(experts, "ffn");
  EXPECT_EQ(joined(table("docs/models.md", "moe keys")), joined(experts));
}

TEST(Documents, EveryModelTypeHasARow) {
  const auto page = read_file(kTop / "docs/architectures.md");
  for (const auto& type : config::hf_model_types())
    EXPECT_NE(page.find("| `" + type + "` |"), std::string::npos) << type;
}

TEST(Documents, TheTableOfPresetsIsTheCodes) {
  std::vector<std::string> expected{
      "| family | preset | parameters | active | layers | width | context |",
      "| --- | --- | ---: | ---: | ---: | ---: | ---: |"};
  std::string family;
  for (const auto& p : config::presets()) {
    const auto model = p.make();
    const auto n = config::count(model);
    expected.push_back("| " + (p.family == family ? "" : "`" + p.family + "`") + " | `" + p.name +
                       "` | " + with_commas(n.total) + " | " +
                       (n.active == n.total ? "" : with_commas(n.active)) + " | " +
                       std::to_string(model.layers.size()) + " | " + std::to_string(model.dim) +
                       " | " + std::to_string(model.context) + " |");
    family = p.family;
  }
  EXPECT_EQ(joined(table("docs/presets.md", "presets")), joined(expected));
}

TEST(Documents, TheTableOfErrorsIsTheCodes) {
  const auto rows = table("docs/errors.md", "kinds");
  std::set<std::string> seen;
  for (int k = 0; k <= static_cast<int>(Kind::internal); ++k) {
    const auto kind = static_cast<Kind>(k);
    const auto start =
        "| `" + std::string(kind_name(kind)) + "` | " + std::to_string(exit_code(kind)) + " | ";
    const auto n = std::count_if(rows.begin(), rows.end(),
                                 [&](const auto& row) { return row.starts_with(start); });
    EXPECT_EQ(n, 1) << "no row begins with " << start;
  }
  EXPECT_EQ(rows.size(), 2 + static_cast<size_t>(Kind::internal) + 1) << "a row of no kind";
}

// Without blank lines, comments and imports.
std::vector<std::string> code_of(const fs::path& path) {
  std::vector<std::string> out;
  for (auto line : lines_of(kTop / path)) {
    line = line.substr(0, line.find("//"));
    const auto text = trim(line);
    if (text.empty() || text.starts_with("#") || text.starts_with("\"\"\"") ||
        text.starts_with("import ") || text.starts_with("from ") ||
        text.starts_with("using namespace"))
      continue;
    out.push_back(line);
  }
  return out;
}

TEST(Documents, TheTableOfLinesIsCounted) {
  const auto python = code_of("tests/peer/train_pytorch.py"), ours = code_of("examples/train.cpp");
  const auto count = [](const std::vector<std::string>& lines, const std::string& pattern) {
    const std::regex r(pattern);
    return std::count_if(lines.begin(), lines.end(),
                         [&](const auto& l) { return std::regex_search(l, r); });
  };
  // From the line with the one to the last before the other.
  const auto between = [](const std::vector<std::string>& lines, const std::string& first,
                          const std::string& behind) {
    const auto from = std::find_if(lines.begin(), lines.end(),
                                   [&](const auto& l) { return l.find(first) != l.npos; });
    return std::find_if(from, lines.end(),
                        [&](const auto& l) { return l.find(behind) != l.npos; }) -
           from;
  };
  struct Row {
    const char *what, *pattern;
  };
  const Row rows[] = {
      {"a device or a transfer: `device`, `.to(`, `.cpu()`, `non_blocking`, `pin_memory`",
       R"(device|\.to\(|\.cpu\(\)|non_blocking|pin_memory)"},
      {"a loader: `Dataset`, `DataLoader`, `num_workers`, `__getitem__`, `__len__`",
       R"(Dataset|DataLoader|num_workers|__getitem__|__len__)"},
      {"gradients that are fields or recorded unasked: `zero_grad`, `no_grad`, `backward`",
       R"(zero_grad|no_grad|backward)"},
      {"a mode of the model: `.train()`, `.eval()`", R"(\.train\(\)|\.eval\(\))"},
  };
  std::vector<std::string> expected{"| lines that speak of | PyTorch | lmxlab |",
                                    "| --- | ---: | ---: |"};
  for (const auto& row : rows)
    expected.push_back("| " + std::string(row.what) + " | " +
                       std::to_string(count(python, row.pattern)) + " | " +
                       std::to_string(count(ours, row.pattern)) + " |");
  expected.push_back("| the model itself: `class Gpt`, `config::gpt` | " +
                     std::to_string(between(python, "class Gpt", "def loader")) + " | " +
                     std::to_string(between(ours, "LanguageModel model", "Trainer")) + " |");
  expected.push_back("| anything at all | " + std::to_string(python.size()) + " | " +
                     std::to_string(ours.size()) + " |");
  EXPECT_EQ(joined(table("docs/unified-memory.md", "lines")), joined(expected));
}

// What docs/unified-memory.md promises: no device, transfer, pinned memory or workers anywhere.
TEST(Documents, NoHeaderSpeaksOfADevice) {
  const std::regex words(R"(device|streamor|pinned|pin_memory|non_blocking|workers|to_cpu|to_gpu)",
                         std::regex::icase);
  int headers = 0;
  for (const auto& entry : fs::recursive_directory_iterator(kTop / "lmxlab")) {
    if (entry.path().extension() != ".h") continue;
    const auto name = fs::relative(entry.path(), kTop).generic_string();
    ++headers;
    for (const auto& line : code_of(name)) {
      // Where kernels of ours ask whether it is the CPU that computes.
      if (name == "lmxlab/kernels/op.h" && line.find("default_stream") != std::string::npos)
        continue;
      EXPECT_FALSE(std::regex_search(line, words)) << name << ": " << line;
    }
  }
  EXPECT_GT(headers, 50);
}

TEST(Documents, EveryPageIsInTheIndex) {
  const auto index = read_file(kTop / "docs/index.md");
  for (const auto& entry : fs::recursive_directory_iterator(kTop / "docs")) {
    if (entry.path().extension() != ".md" || entry.path().filename() == "index.md") continue;
    const auto name = fs::relative(entry.path(), kTop / "docs").generic_string();
    EXPECT_NE(index.find("(" + name + ")"), std::string::npos)
        << name << " is not in docs/index.md";
  }
}

// [text](path) and [text](path#part), the path beside the page.
TEST(Documents, LinksLeadSomewhere) {
  std::vector<fs::path> pages{kTop / "README.md"};
  for (const auto& entry : fs::recursive_directory_iterator(kTop / "docs"))
    if (entry.path().extension() == ".md") pages.push_back(entry.path());
  int links = 0;
  for (const auto& page : pages) {
    std::string text;
    bool code = false;
    for (const auto& line : lines_of(page)) {
      if (line.starts_with("```")) code = !code;
      if (!code) text += line + "\n";
    }
    for (size_t at = 0; (at = text.find("](", at)) != std::string::npos;) {
      at += 2;
      auto target = text.substr(at, text.find(')', at) - at);
      if (target.find("://") != std::string::npos || target.starts_with("#")) continue;
      target = target.substr(0, target.find('#'));
      EXPECT_TRUE(fs::exists(page.parent_path() / target)) << page << " -> " << target;
      ++links;
    }
  }
  EXPECT_GT(links, 10);
}

TEST(Recipes, TheSpelledOutOneIsTheDefault) {
  const auto path = kTop / "recipes/shakespeare.toml";
  EXPECT_EQ(to_json(read_recipe(read_file(path), path.string())).dump(2),
            to_json(default_recipe()).dump(2));
}

TEST(Recipes, EachSaysWhatItShowsAndRuns) {
  const test::TemporaryFolder folder;
  int recipes = 0;
  for (const auto& entry : fs::directory_iterator(kTop / "recipes")) {
    if (entry.path().extension() == ".sh") continue;  // tests/recipes runs them
    ASSERT_EQ(entry.path().extension(), ".toml") << entry.path();
    SCOPED_TRACE(entry.path().filename().string());
    const auto text = read_file(entry.path());
    EXPECT_NE(text.find("Shows:"), std::string::npos);
    EXPECT_NE(text.find("Must reach:"), std::string::npos);
    ++recipes;
    if (is_sweep(text, entry.path().string())) {  // every setting is checked
      EXPECT_GE(read_sweep(text, entry.path().string()).runs.size(), 6u);
      continue;
    }
    // As written it passes every check and resolves; then three steps of it.
    const auto whole = read_recipe(text, entry.path().string());
    EXPECT_NO_THROW(resolve_model(whole.model, 65, whole.run.context));
    const auto recipe =
        read_recipe(text, entry.path().string(),
                    {"run.steps=3", "run.eval_every=2", "run.eval_batches=1", "run.log_every=1",
                     "run.checkpoint_every=0", "schedule.warmup=1", "data.validation=0.005"});
    const auto result = train_run(recipe, {}, {}, folder.path());
    EXPECT_EQ(result.train.steps, 3);
    EXPECT_LT(result.train.val_loss.value(), 5.0);
    EXPECT_NO_THROW(LanguageModel::load(result.out));
  }
  EXPECT_GE(recipes, 10);
}

TEST(Examples, StayUnderSixtyLines) {
  int examples = 0;
  for (const auto& entry : fs::directory_iterator(kTop / "examples")) {
    EXPECT_LT(lines_of(entry.path()).size(), 60u) << entry.path();
    ++examples;
  }
  EXPECT_GE(examples, 5);
}

}  // namespace
}  // namespace lmxlab
