#include "lmxlab/cli/train_recipe.h"

#include "lmxlab/base/files.h"
#include "lmxlab/cli/hub_argument.h"

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

}  // namespace lmxlab::cli
