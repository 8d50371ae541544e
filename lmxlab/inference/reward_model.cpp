#include "lmxlab/inference/reward_model.h"

#include "lmxlab/base/files.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/models/adapters.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>

namespace lmxlab {
namespace {

void expect_score(const config::Model& config, const std::string& name) {
  if (!config.score)
    throw Error(Kind::usage, "[reward] " + name +
                                 " is no reward model: expected one with a head of one number, as "
                                 "objective.kind = \"reward\" trains it");
}

void check(const LanguageModel& model, const std::vector<std::vector<int>>& texts) {
  const auto& config = model.config();
  expect_score(config, "the model");
  const auto* learned = std::get_if<config::Learned>(&config.position);
  for (const auto& ids : texts) {
    if (ids.empty()) throw Error(Kind::usage, "[reward] expected a text, got one of no tokens");
    if (learned && ids.size() > static_cast<size_t>(learned->length))
      throw Error(Kind::usage, "[reward] a text has " + std::to_string(ids.size()) +
                                   " tokens, the reward model has learned only " +
                                   std::to_string(learned->length) + " positions");
    for (const int id : ids)
      if (id < 0 || id >= config.vocab)
        throw Error(Kind::usage, "[reward] expected ids below " + std::to_string(config.vocab) +
                                     ", got " + std::to_string(id));
  }
}

// How many of the texts from `first` on stand side by side.
size_t together(const std::vector<std::vector<int>>& texts, size_t first) {
  size_t longest = 0, n = 0;
  for (; first + n < texts.size(); ++n) {
    const size_t with = std::max(longest, texts[first + n].size());
    if (n > 0 && with * (n + 1) > kScoredPositions) break;
    longest = with;
  }
  return n;
}

}  // namespace

std::vector<double> scores(const LanguageModel& model, const std::vector<std::vector<int>>& texts) {
  check(model, texts);
  const Enter enter(model.runtime());
  std::vector<double> out;
  while (out.size() < texts.size()) {
    const size_t first = out.size(), n = together(texts, first);
    size_t width = 0;
    for (size_t i = 0; i < n; ++i) width = std::max(width, texts[first + i].size());
    std::vector<int32_t> ids(n * width, 0), last;
    for (size_t i = 0; i < n; ++i) {
      const auto& text = texts[first + i];
      std::copy(text.begin(), text.end(), ids.begin() + static_cast<std::ptrdiff_t>(i * width));
      last.push_back(static_cast<int32_t>(text.size()) - 1);
    }
    const int rows = static_cast<int>(n);
    auto pass = model.make_pass();
    auto all = model.transformer().scores(
        mx::array(ids.data(), {rows, static_cast<int>(width)}, mx::int32),
        mx::array(last.data(), {rows}, mx::int32), pass);
    as_error([&] { all.eval(); });
    for (const float x : to_vector<float>(all)) out.push_back(static_cast<double>(x));
  }
  return out;
}

void score_pass(const LanguageModel& model, int texts, int length) {
  const Enter enter(model.runtime());
  const int rows = std::clamp(kScoredPositions / std::max(1, length), 1, std::max(1, texts));
  auto pass = model.make_pass();
  auto h = model.transformer().hidden(mx::zeros({rows, length}, mx::int32), pass);
  as_error([&] { h.eval(); });
}

std::vector<std::vector<int>> answer_ids(const data::SampleTokenizer& tokenize,
                                         const std::vector<data::Sample>& answers) {
  std::vector<std::vector<int>> out;
  data::SampleCounts counts;
  for (const auto& answer : answers) {
    auto made = tokenize.sequences(answer, counts);
    if (made.size() != 1)
      throw Error(Kind::internal, "[reward] expected one sequence of an answer, got " +
                                      std::to_string(made.size()));
    out.push_back(std::move(made[0].ids));
  }
  return out;
}

RewardModel RewardModel::load(const fs::path& folder) {
  return with_context("[reward] " + folder.string(), [&] {
    auto model = load_with_adapter(folder);
    expect_score(model.config(), folder.string());
    std::error_code ignored;
    std::vector<fs::path> places{folder};
    if (fs::exists(folder / "adapter_config.json", ignored))
      places.emplace_back(base_of_adapter(folder));
    std::optional<data::Tokenizer> tokenizer;
    std::optional<data::ChatTemplate> form;
    for (const auto& place : places) {
      if (!tokenizer && !data::tokenizer_file(place).empty())
        tokenizer = data::Tokenizer::load(place);
      if (!form && data::ChatTemplate::present(place)) form = data::ChatTemplate::load(place);
    }
    if (!tokenizer)
      throw Error(Kind::not_found, "[reward] " + folder.string() +
                                       " has no tokenizer: expected tokenizer.json in it");
    return RewardModel{std::move(model),
                       data::SampleTokenizer(std::move(*tokenizer), std::move(form))};
  });
}

}  // namespace lmxlab
