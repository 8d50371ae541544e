#include "lmxlab/cli/draft_argument.h"

#include "lmxlab/base/files.h"
#include "lmxlab/inference/mtp_draft.h"
#include "lmxlab/models/adapters.h"

#include <algorithm>

namespace lmxlab::cli {
namespace {

// Equal ids must be equal tokens.
void expect_same_tokens(const OpenModel& target, const OpenModel& draft, const std::string& name) {
  if (!target.tokenizer || !draft.tokenizer) return;
  const auto &a = *target.tokenizer, &b = *draft.tokenizer;
  const auto refuse = [&](const std::string& what) {
    throw Error(Kind::mismatch, "[draft] " + name + " has another tokenizer than the model: " +
                                    what + ". Take a draft of the same family, or ngram.");
  };
  if (a.vocab_size() != b.vocab_size())
    refuse("expected " + std::to_string(a.vocab_size()) + " tokens, got " +
           std::to_string(b.vocab_size()));
  const auto token = [](const data::Tokenizer& t, int id) {
    try {
      return t.token(id);
    } catch (const Error&) {  // an id without one
      return std::string();
    }
  };
  for (int id = 0; id < a.vocab_size(); ++id)
    if (token(a, id) != token(b, id)) refuse("token " + std::to_string(id) + " is not the same");
}

// Whether the draft's weights are those that the model has below its adapters.
bool is_base_of(const ModelPlace& draft, OpenModel& target) {
  std::error_code ignored;
  const auto real = [&](const fs::path& p) { return fs::weakly_canonical(p, ignored); };
  const auto adapters = adapters_of(target.model);
  return draft.adapters.empty() && draft.preset == target.place.preset &&
         real(draft.path) == real(target.place.path) &&
         std::any_of(adapters.begin(), adapters.end(), [](const auto& a) { return a.on; });
}

}  // namespace

void DraftArgument::declare(Options& o) {
  o.option("--draft", "MODEL", &name,
           "drafts tokens that the model then reads together (speculative decoding): a smaller "
           "model of the same vocabulary; a model's base beside its adapters; ngram, which finds "
           "them in the text so far; or mtp, the model's own heads for further tokens; the text "
           "stays the same")
      .otherwise("none");
  o.option("--num-draft-tokens", "N", &tokens, "drafted at a time, whether it pays or not")
      .range(1, 32)
      .otherwise("as many as pay, which is measured");
}

void DraftArgument::open(OpenModel& target, uint64_t seed, std::optional<DType> activations,
                         const Context& context) {
  if (tokens && !name)
    throw Error(Kind::usage,
                "[draft] --num-draft-tokens needs --draft MODEL, --draft ngram or --draft mtp");
  if (!name) return;
  if (*name == "ngram") {
    source_ = std::make_shared<PromptLookup>();
    return;
  }
  if (own_heads()) {
    source_ = std::make_shared<MtpDraft>(target.model);
    return;
  }
  auto place = find_model(*name, context);
  if (is_base_of(place, target)) {
    base_ = true;
    source_ = std::make_shared<DraftModel>(target.model);
    return;
  }
  model_ = std::make_shared<OpenModel>(open_model(std::move(place), seed, std::nullopt, context));
  if (activations) model_->model.set_activations(*activations);
  expect_same_tokens(target, *model_, *name);
  source_ = std::make_shared<DraftModel>(model_->model, target.model);
}

void DraftArgument::set(GenerateOptions& options) const {
  options.draft = source_.get();
  options.num_draft_tokens = tokens.value_or(0);
}

std::string draft_text(const GenerateStats& stats) {
  if (stats.draft_tokens == 0) return "";
  return ", " + std::to_string(stats.accepted_tokens) + " of " +
         std::to_string(stats.draft_tokens) + " drafted tokens kept";
}

}  // namespace lmxlab::cli
