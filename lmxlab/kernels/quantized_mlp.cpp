#include "lmxlab/kernels/quantized_mlp.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lmxlab/kernels/one_order.h"
#include "lmxlab/kernels/quantized_operand.h"
#include "lmxlab/kernels/quantized_parts.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

array in_steps(const array& x, const std::optional<QuantizedWeight>& gate,
               const QuantizedWeight& up, const QuantizedWeight& down, Activation activation) {
  std::vector<QuantizedWeight> first;
  if (gate) first.push_back(*gate);
  first.push_back(up);
  const auto y = quantized_linears(x, first);
  return quantized_linear(gate ? gated(activation, y[0], y[1]) : activate(activation, y[0]), down);
}

// x of few rows, weights that are there -> y
class QuantizedMlp : public Op {
 public:
  QuantizedMlp(std::vector<QuantSpec> specs, Activation activation)
      : specs_(std::move(specs)), activation_(activation) {}
  const char* name() const override { return "lmxlab::QuantizedMlp"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const QuantizedMlp&>(other);
    return specs_ == op.specs_ && activation_ == op.activation_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    auto shape = in[0].shape();
    shape.back() = specs_.back().out;
    return {shape};
  }
  Arrays plain(const Arrays& in) const override {
    const bool gated_too = specs_.size() > 2;
    return {in_steps(in[0], gated_too ? std::optional(specs_[0].weight()) : std::nullopt,
                     specs_[gated_too ? 1 : 0].weight(), specs_.back().weight(), activation_)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0]);
    const auto& x = in[0];
    const Type type = type_of(x.dtype());
    const int64_t m = static_cast<int64_t>(x.size()) / x.shape(-1);
    const auto product = [](const QuantSpec& spec) {
      const auto& view = spec.resident->view;
      return FewProduct{view, dot_kernel(view, Activations::int16), {}};
    };
    FewMlp mlp{{}, activation_, product(specs_.back())};
    for (size_t i = 0; i + 1 < specs_.size(); i++) mlp.up.push_back(product(specs_[i]));
    mlp.down.y = {out[0].data<char>(), type, specs_.back().out};
    task([x = Dense(x), room = Scratch<char>(mlp_room(mlp, m, type)), specs = specs_, mlp, m,
          type]() mutable { mlp_few(mlp, m, type, x.read(), room.get()); });
  }

 private:
  std::vector<QuantSpec> specs_;  // the gate's, if there is one, up's and down's
  Activation activation_;
};

}  // namespace

array quantized_mlp(const array& x, const std::optional<QuantizedWeight>& gate,
                    const QuantizedWeight& up, const QuantizedWeight& down, Activation activation) {
  const bool fits = x.ndim() > 0 && x.shape(-1) == up.in && down.in == up.out &&
                    (!gate || (gate->in == up.in && gate->out == up.out));
  if (!fits) {
    throw Error(Kind::usage,
                "[quantized_mlp] the sizes do not fit: expected gate and up [hidden, in], down "
                "[out, hidden] and x [..., in], got up [" +
                    std::to_string(up.out) + ", " + std::to_string(up.in) + "] and down [" +
                    std::to_string(down.out) + ", " + std::to_string(down.in) + "].");
  }
  const int64_t rows = x.shape(-1) == 0 ? 0 : static_cast<int64_t>(x.size()) / x.shape(-1);
  const auto ours = [](const QuantizedWeight& w) { return w.floats == FloatFormat::none; };
  const auto wanted = default_activations();
  const bool in_words = wanted == Activations::int16 || wanted == Activations::bf16;
  const bool usual = in_words && !one_order() && ours(up) && ours(down) && (!gate || ours(*gate));
  if (usual && fused(x.dtype()) && !x.is_tracer() && rows > 0 && rows <= kFewRows && up.out > 0) {
    std::vector<QuantSpec> specs;
    if (gate) specs.emplace_back(*gate, true);
    specs.emplace_back(up, true), specs.emplace_back(down, true);
    if (std::all_of(specs.begin(), specs.end(), [](const auto& s) { return s.resident; })) {
      const auto op = std::make_shared<QuantizedMlp>(std::move(specs), activation);
      auto shape = op->output_shapes({x})[0];
      return array(std::move(shape), x.dtype(), op, {x});
    }
  }
  return in_steps(x, gate, up, down, activation);
}

}  // namespace lmxlab::kernels
