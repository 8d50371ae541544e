#include "lmxlab/cli/train_recipe.h"

#include "lmxlab/cli/hub_argument.h"

namespace lmxlab::cli {

void make_local(Recipe& recipe, const Context& context) {
  recipe.data.tokenizer = local_path(recipe.data.tokenizer, io::HubPart::texts, context);
  if (auto& teacher = recipe.objective.teacher; !teacher.empty())
    teacher = local_path(teacher, io::HubPart::whole, context);
  if (Json* from = recipe.model.find("preset"); from && from->is_string())
    *from = Json(local_path(from->as_string(), io::HubPart::whole, context));
}

}  // namespace lmxlab::cli
