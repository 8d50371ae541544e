// A reward that a model gives.
#include "lmxlab/align/rewards.h"
#include "lmxlab/inference/reward_model.h"

namespace lmxlab::align {
namespace {

class OfModel : public Reward {
 public:
  explicit OfModel(RewardModel model) : model_(std::move(model)) {}

  std::vector<double> operator()(std::span<const Completion> completions) override {
    std::vector<data::Sample> answers;
    for (const auto& c : completions) {
      data::Sample s;
      s.kind = data::SampleKind::unpaired;
      s.prompt = c.sample->prompt, s.tools = c.sample->tools, s.variables = c.sample->variables;
      s.response = Json(c.text);
      if (s.prompt.is_array())
        s.response =
            Json::array({Json::object({{"role", Json("assistant")}, {"content", Json(c.text)}})});
      answers.push_back(std::move(s));
    }
    return model_(answers);
  }

 private:
  RewardModel model_;
};

}  // namespace

std::shared_ptr<Reward> model_reward(const Judge& judge) {
  if (judge.model.empty())
    throw Error(Kind::usage, "[reward] model: expected a reward model's folder, got none");
  return std::make_shared<OfModel>(RewardModel::load(judge.model));
}

}  // namespace lmxlab::align
