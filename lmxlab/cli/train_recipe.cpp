#include "lmxlab/cli/train_recipe.h"

#include "lmxlab/base/files.h"
#include "lmxlab/cli/hub_argument.h"
#include "lmxlab/plan/words.h"

namespace lmxlab::cli {

void make_local(Recipe& recipe, const Context& context) {
  recipe.data.tokenizer = local_path(recipe.data.tokenizer, io::HubPart::texts, context);
  if (auto& teacher = recipe.objective.teacher; !teacher.empty())
    teacher = local_path(teacher, io::HubPart::whole, context);
  if (recipe.rewards.is_array())  // kept in the run's folder, so that they must be found again
    for (auto& r : recipe.rewards.as_array())
      if (Json* reward = r.find("reward"); reward && reward->is_object())
        if (Json* judge = reward->find("model"); judge && judge->is_string())
          *judge = Json(
              fs::absolute(local_path(judge->as_string(), io::HubPart::whole, context)).string());
  if (Json* from = recipe.model.find("preset"); from && from->is_string())
    *from = Json(local_path(from->as_string(), io::HubPart::whole, context));
}

plan::Words recipe_words(std::string toml, std::string name, std::vector<std::string> overrides) {
  return [toml = std::move(toml), name = std::move(name), overrides = std::move(overrides)](
             const plan::Settings& from, const plan::Settings& to) -> std::optional<std::string> {
    const auto keys = plan::recipe_keys(from, to);
    if (!keys) return std::nullopt;
    auto all = overrides;
    all.insert(all.end(), keys->begin(), keys->end());
    try {
      read_recipe(toml, name, all);
    } catch (const Error&) {
      return std::nullopt;
    }
    return plan::recipe_words(from, to);
  };
}

}  // namespace lmxlab::cli
