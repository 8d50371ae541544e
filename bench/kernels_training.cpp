// The optimizer's pass, cross-entropy and sampling against the same in MLX's ordinary ops.
#include "bench.h"
#include "lmxlab/kernels/cross_entropy.h"
#include "lmxlab/kernels/sample.h"
#include "lmxlab/kernels/update.h"
#include "lmxlab/kernels/update_8bit.h"

namespace mx = mlx::core;
using mx::array;
using namespace lmxlab;

namespace {

using bench::Arrays;

array normal(mx::Shape shape, mx::Dtype dtype = mx::float32) {
  static uint64_t key = 0;
  return mx::astype(mx::random::normal(std::move(shape), mx::random::key(key++)), dtype);
}

// Updates own their arrays, so that they are written in place as in training.
class Training {
 public:
  Training(const std::vector<mx::Shape>& shapes, kernels::Rule rule, int bits = 32)
      : rule_(rule), bits_(bits) {
    for (const auto& s : shapes) {
      params_.push_back(normal(s)), grads_.push_back(normal(s));
      const auto size = static_cast<int64_t>(params_.back().size());
      elements_ += static_cast<double>(size);
      for (int i = 0; i < kernels::states(rule); i++) {
        if (bits == 32) {
          state_.push_back(mx::abs(normal(s)));
        } else {
          state_.push_back(mx::zeros(s, i == 0 ? mx::int8 : mx::uint8));
          state_.push_back(mx::zeros({kernels::blocks_8bit(size)}));
        }
      }
    }
    mx::eval(params_), mx::eval(grads_), mx::eval(state_);
  }
  double bytes() const {
    const double state = bits_ == 32 ? 4 : 1 + 4.0 / kernels::k8BitBlock;
    return elements_ * (12 + 2 * state * kernels::states(rule_));
  }
  double elements() const { return elements_; }

  template <class Norm, class Update>
  void step(Norm norm, Update update) {
    const auto length = norm(grads_);
    const auto scale = mx::minimum(array(1.0f) / (length + array(1e-6f)), array(1.0f));
    const std::vector<bool> decays(params_.size(), true);
    update(rule_, params_, grads_, state_, decays,
           kernels::StepNumbers{array(1e-4f), array(7.0f), scale, mx::isfinite(length)});
    Arrays all = params_;
    all.insert(all.end(), state_.begin(), state_.end());
    mx::eval(all);
  }

 private:
  kernels::Rule rule_;
  int bits_;
  Arrays params_, grads_, state_;
  double elements_ = 0;
};

std::vector<mx::Shape> gpt(int layers, int width) {  // two norms and four matrices a layer
  std::vector<mx::Shape> out{{65, width}, {256, width}, {width}, {width}};
  for (int i = 0; i < layers; i++) {
    for (const auto& s : std::vector<mx::Shape>{{3 * width, width},
                                                {width, width},
                                                {4 * width, width},
                                                {width, 4 * width},
                                                {width},
                                                {width},
                                                {width},
                                                {width}})
      out.push_back(s);
  }
  return out;
}

void updates(bench::Bench& b) {
  const std::vector<std::pair<std::string, kernels::Rule>> rules{
      {"adamw", kernels::AdamW{0.9, 0.95, 1e-8, 0.1, true}},
      {"sgd momentum", kernels::Sgd{0.9, 0.1, false}},
      {"lion", kernels::Lion{0.9, 0.99, 0.1}}};
  const std::vector<std::pair<std::string, std::vector<mx::Shape>>> models{
      {"10.8M", gpt(6, 384)},
      {"150 of 64", std::vector<mx::Shape>(150, mx::Shape{64})},
      {"one of 1", {{1}}},
      {"3 of 1000", {{1000}, {10, 100}, {1000}}}};
  for (const auto& [what, rule] : rules) {
    for (const auto& [size, shapes] : models) {
      Training ours(shapes, rule), plain(shapes, rule);
      b.run(
          what + " and norm, " + size, [&] { ours.step(kernels::global_norm, kernels::update); },
          [&] { plain.step(kernels::plain::global_norm, kernels::plain::update); },
          {.bytes = ours.bytes() + 4 * ours.elements()});
    }
    Training packed(models[0].second, rule, 8), plain(models[0].second, rule, 8);
    b.run(
        what + " and norm, 8 bits, " + models[0].first,
        [&] { packed.step(kernels::global_norm, kernels::update_8bit); },
        [&] { plain.step(kernels::plain::global_norm, kernels::plain::update_8bit); },
        {.bytes = packed.bytes() + 4 * packed.elements()});
  }
}

void cross_entropies(bench::Bench& b) {
  for (const auto& [t, d, v] : std::vector<std::tuple<int, int, int>>{
           {4096, 384, 65}, {64, 64, 65}, {1, 8, 11}, {512, 384, 50257}, {4, 576, 49152}}) {
    for (const auto& [xt, wt, what] : std::vector<std::tuple<mx::Dtype, mx::Dtype, std::string>>{
             {mx::float32, mx::float32, "f32"},
             {mx::bfloat16, mx::bfloat16, "bf16"},
             {mx::bfloat16, mx::float32, "bf16 x, f32 w"},
             {mx::float16, mx::float16, "f16"}}) {
      if (t == 512 && xt != mx::float32) continue;  // minutes in MLX's scalar products
      const auto x = normal({t, d}, xt), w = normal({v, d}, wt) * array(0.05f, wt);
      const auto ids = mx::random::randint(0, v, {t}, mx::int32);
      const double flops = 2.0 * t * d * v;
      const std::string size =
          what + " T " + std::to_string(t) + " D " + std::to_string(d) + " V " + std::to_string(v);
      const auto forward = [](auto f) {
        return [f](const Arrays& in) -> Arrays { return {mx::sum(f(in[0], in[1], in[2]))}; };
      };
      const auto both = [&](auto f) {
        const std::function<Arrays(const Arrays&)> g = forward(f);
        return [g](const Arrays& in) {
          auto [value, grads] = mx::value_and_grad(g, std::vector<int>{0, 1})(in);
          grads.push_back(value[0]);
          return grads;
        };
      };
      const auto ours = [](const array& a, const array& c, const array& i) {
        return kernels::linear_cross_entropy(a, c, {}, i).nll;
      };
      const auto plain = [](const array& a, const array& c, const array& i) {
        return kernels::plain::linear_cross_entropy(a, c, {}, i).nll;
      };
      b.ops("head and cross-entropy, " + size, {x, w, ids}, forward(ours), forward(plain),
            {.flops = flops});
      b.ops("its gradient too, " + size, {x, w, ids}, both(ours), both(plain),
            {.flops = 3 * flops});
    }
  }
  for (const auto dtype : {mx::float32, mx::bfloat16}) {
    for (const auto& [t, v] : std::vector<std::pair<int, int>>{{4096, 65}, {64, 50257}, {1, 7}}) {
      const auto z = normal({t, v}, dtype);
      const auto ids = mx::random::randint(0, v, {t}, mx::int32);
      const auto both = [](auto f) {
        const std::function<Arrays(const Arrays&)> g = [f](const Arrays& in) -> Arrays {
          return {mx::sum(f(in[0], in[1], {}).nll)};
        };
        return [g](const Arrays& in) { return mx::value_and_grad(g)(in).second; };
      };
      const std::string size = std::string(dtype == mx::float32 ? "f32 " : "bf16 ") +
                               std::to_string(t) + " x " + std::to_string(v);
      b.ops("cross-entropy and gradient, " + size, {z, ids}, both(kernels::cross_entropy),
            both(kernels::plain::cross_entropy), {.bytes = 3.0 * static_cast<double>(z.nbytes())});
    }
  }
}

void samples(bench::Bench& b) {
  const std::vector<std::pair<std::string, kernels::Sampling>> cases{
      {"greedy", {.temperature = 0}},
      {"plain", {}},
      {"defaults", {.temperature = 0.8f, .top_p = 0.95f}},
      {"top_k 40", {.top_k = 40}},
      {"top_k 40, top_p 0.9", {.top_k = 40, .top_p = 0.9f}},
      {"min_p 0.05", {.min_p = 0.05f}}};
  for (const int v : {50257, 1000, 65}) {
    for (const int rows : {1, 8}) {
      for (const float spread : {1.0f, 4.0f}) {  // 1: nearly flat, 4: as a trained model's
        const auto logits = normal({rows, v}) * array(spread);
        const auto keys = mx::random::bits({rows, 2}, 4);
        for (const auto& [what, s] : cases) {
          b.ops(
              "sample " + what + ", " + std::to_string(rows) + " x " + std::to_string(v) +
                  " spread " + std::to_string(static_cast<int>(spread)),
              {logits, keys},
              [s = s](const Arrays& in) -> Arrays { return {kernels::sample(in[0], in[1], s)}; },
              [s = s](const Arrays& in) -> Arrays {
                return {kernels::plain::sample(in[0], in[1], s)};
              });
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  bench::Bench b("kernels_training", argc, argv);
  updates(b);
  cross_entropies(b);
  samples(b);
  return b.done();
}
