#include "lmxlab/plan/words.h"

#include "lmxlab/base/text.h"

namespace lmxlab::plan {
namespace {

constexpr const char* kPack = "quantize MODEL OUT --bits 4, then ";

std::string number(int n) {
  return std::to_string(n);
}

}  // namespace

std::optional<std::vector<std::string>> recipe_keys(const Settings& from, const Settings& to) {
  std::vector<std::string> keys;
  const auto add = [&](bool changed, const std::string& key) {
    if (changed) keys.push_back(key);
  };
  add(!to.preset.empty(), "model.preset=" + to.preset);
  add(to.mode == Mode::qlora && from.mode != to.mode, "model.preset=OUT");
  add(to.adapts() && from.mode == Mode::train, "adapter.rank=" + number(to.rank));
  add(to.batch != from.batch, "run.batch=" + number(to.batch));
  add(to.accumulate != from.accumulate, "run.accumulate=" + number(to.accumulate));
  add(to.context != from.context, "run.context=" + number(to.context));
  add(to.checkpointing != from.checkpointing, "run.gradient_checkpointing=true");
  add(to.state_bits != from.state_bits, "optimizer.state_bits=" + number(to.state_bits));
  add(to.factored != from.factored, "optimizer.name=adafactor");
  if (to.mode == Mode::generate || to.bits != from.bits || to.kv_bits != from.kv_bits)
    return std::nullopt;
  return keys;
}

std::optional<std::string> recipe_words(const Settings& from, const Settings& to) {
  const auto keys = recipe_keys(from, to);
  if (!keys) return std::nullopt;
  std::vector<std::string> words;
  for (const auto& key : *keys) words.push_back("--set " + key);
  return (to.mode == Mode::qlora && from.mode != to.mode ? kPack : "") + join(words, " ");
}

std::optional<std::string> model_words(const Settings& from, const Settings& to,
                                       const std::string& rows) {
  if (to.mode != from.mode) return std::nullopt;
  std::vector<std::string> words;
  const auto add = [&](bool changed, const std::string& text) {
    if (changed) words.push_back(text);
  };
  add(to.kv_bits != from.kv_bits, "--kv-bits " + number(to.kv_bits.value_or(32)));
  add(to.batch != from.batch,
      rows.empty() ? number(to.batch) + " rows" : rows + " " + number(to.batch));
  add(to.context != from.context, "a prompt of " + number(to.context) + " tokens");
  add(!to.preset.empty(), to.preset);
  const std::string options = join(words, " ");
  if (to.bits == from.bits) return options;
  return kPack + std::string("OUT in its place") + (options.empty() ? "" : " and " + options);
}

}  // namespace lmxlab::plan
