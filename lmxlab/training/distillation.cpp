#include "lmxlab/training/distillation.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

namespace lmxlab {
namespace {

namespace ob = objectives;

class Distill : public Objective {
 public:
  Distill(std::shared_ptr<LanguageModel> teacher, const ObjectiveConfig& config)
      : teacher_(std::move(teacher)),
        temperature_(static_cast<float>(config.temperature.value_or(1))),
        beta_(static_cast<float>(config.beta.value_or(0))),
        hard_(static_cast<float>(config.hard_labels.value_or(0))) {
    const Enter enter(teacher_->runtime());
    mx::eval(core::values(core::collect(teacher_->transformer())));
  }
  std::vector<std::string> metrics() const override { return {"divergence"}; }

  Value operator()(const core::Transformer& model, const data::Batch& batch,
                   core::Pass& pass) const override {
    core::Pass theirs;
    theirs.dtype = pass.dtype, theirs.starts = pass.starts;
    auto teacher = head_logits(teacher_->transformer(), batch.inputs, theirs);
    teacher.x = mx::stop_gradient(teacher.x);
    const auto student = head_logits(model, batch.inputs, pass);
    const auto labels = learned_targets(batch);
    const auto mask = ob::token_mask(labels);
    const auto soft =
        ob::distill(student, teacher, mask, {.beta = beta_, .temperature = temperature_});
    return with_hard_labels(soft, student, labels, temperature_, hard_);
  }

 private:
  std::shared_ptr<LanguageModel> teacher_;
  float temperature_, beta_, hard_;
};

}  // namespace

Objective::Value with_hard_labels(const ob::Mean& divergence, const ob::Logits& student,
                                  const mx::array& labels, float temperature, float hard_labels) {
  const mx::array weight((1 - hard_labels) * temperature * temperature);
  auto loss = mx::multiply(weight, divergence.sum);
  if (hard_labels > 0) {
    const auto nll = mx::negative(mx::sum(ob::token_logprobs(student, labels)));
    loss = mx::add(loss, mx::multiply(mx::array(hard_labels), nll));
  }
  return {loss, mx::stop_gradient(divergence.count), {mx::stop_gradient(divergence.sum)}};
}

std::shared_ptr<const Objective> distill_objective(std::shared_ptr<LanguageModel> teacher,
                                                   const ObjectiveConfig& config) {
  return std::make_shared<Distill>(std::move(teacher), config);
}

}  // namespace lmxlab
