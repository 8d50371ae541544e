#include "lmxlab/training/average.h"

#include <mlx/ops.h>

namespace lmxlab {
namespace {

using Arrays = std::vector<mx::array>;

class Averaged : public Optimizer {
 public:
  Averaged(std::unique_ptr<Optimizer> inner, std::vector<ParamInfo> params, double decay)
      : inner_(std::move(inner)),
        params_(std::move(params)),
        decay_(static_cast<float>(decay)),
        own_(inner_->state_names().size()) {}

  Arrays init(const Arrays& params) const override {
    auto state = inner_->init(params);
    // Buffers of their own: those of the parameters are written in place.
    for (const auto& p : params)
      state.push_back(mx::multiply(mx::astype(p, mx::float32), mx::ones({}, mx::float32)));
    return state;
  }
  std::vector<std::string> state_names() const override {
    auto out = inner_->state_names();
    for (const auto& p : params_) out.push_back(std::string(kAverage) + p.path);
    return out;
  }
  std::vector<mx::Shape> state_shapes() const override {
    auto out = inner_->state_shapes();
    for (const auto& p : params_) out.push_back(p.shape);
    return out;
  }
  std::vector<mx::Dtype> state_dtypes() const override {
    auto out = inner_->state_dtypes();
    out.insert(out.end(), params_.size(), mx::float32);
    return out;
  }

  using Optimizer::update;
  void update(Arrays& params, const Arrays& grads, Arrays& state,
              const kernels::StepNumbers& numbers) const override {
    if (state.size() != own_ + params_.size())
      throw Error(Kind::mismatch, "[optimizer] expected " + std::to_string(own_ + params_.size()) +
                                      " arrays of state, got " + std::to_string(state.size()));
    const auto border = state.begin() + static_cast<std::ptrdiff_t>(own_);
    Arrays averages(border, state.end());
    state.erase(border, state.end());
    inner_->update(params, grads, state, numbers);
    const auto& t = numbers.step;
    const auto soon = mx::divide(mx::add(t, mx::array(1.0f)), mx::add(t, mx::array(10.0f)));
    const auto share =
        mx::where(numbers.ok, mx::subtract(mx::array(1.0f), mx::minimum(mx::array(decay_), soon)),
                  mx::array(0.0f));
    for (size_t i = 0; i < averages.size(); ++i) {
      auto& a = averages[i];
      a = mx::add(a, mx::multiply(share, mx::subtract(mx::astype(params[i], mx::float32), a)));
      state.push_back(std::move(a));
    }
  }

 private:
  std::unique_ptr<Optimizer> inner_;
  std::vector<ParamInfo> params_;
  float decay_;
  size_t own_;
};

}  // namespace

std::unique_ptr<Optimizer> with_average(std::unique_ptr<Optimizer> optimizer,
                                        std::vector<ParamInfo> params, double decay) {
  return std::make_unique<Averaged>(std::move(optimizer), std::move(params), decay);
}

}  // namespace lmxlab
