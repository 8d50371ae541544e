// Parts of your own: a mixer that forgets at learned rates, an FFN, a norm; registered, trained.
#include <mlx/mlx.h>
#include <iostream>
#include "lmxlab/lmxlab.h"
using namespace lmxlab;

struct Fading : core::Mixer {  // each head averages the past with weights exp(-rate * distance)
  Fading(int heads, const core::Build& b)
      : v_proj(b.dim, b.dim, false, b.std, b.init), log_rate{mx::linspace(-3, 1, heads)} {}
  mx::array operator()(const mx::array& x, core::Pass& pass) const override {  // [B, L, D]
    const int B = x.shape(0), L = x.shape(1), D = x.shape(2), H = log_rate.value.shape(0);
    const auto v = mx::transpose(mx::reshape(v_proj(x), {B, L, H, D / H}), {0, 2, 1, 3});
    const auto keys = pass.keys() ? pass.keys()->append(v, v) : core::Keys{v, v, pass.offset};
    const auto now = mx::reshape(mx::arange(pass.offset, pass.offset + L), {L, 1});
    const auto distance = mx::astype(now - core::key_positions(keys, pass.offset + L), x.dtype());
    const auto scores = -mx::exp(mx::reshape(log_rate.value, {H, 1, 1})) * distance;  // [H, L, S]
    const mx::array far(-1e9f, x.dtype());
    const auto seen = mx::where(core::mask_array(pass, L, keys, {}), scores, far);
    const auto mixed = mx::matmul(mx::softmax(seen, -1, true), keys.v);  // [B, H, L, D / H]
    return mx::reshape(mx::transpose(mixed, {0, 2, 1, 3}), {B, L, D});
  }
  void visit(core::Visitor& v) override { v("v_proj", v_proj), v("log_rate", log_rate); }
  std::unique_ptr<core::LayerCache> make_cache(const core::CacheOptions& options) const override {
    return core::plain_cache(options);
  }
  core::Linear v_proj;
  core::Param log_rate;  // [H]
};
struct Squash : core::Ffn {  // down(tanh(up x))
  explicit Squash(const core::Build& b)
      : up(b.dim, 128, true, b.std, b.init), down(128, b.dim, true, b.residual_std, b.init) {}
  mx::array operator()(const mx::array& x, core::Pass&) const override { return down(tanh(up(x))); }
  void visit(core::Visitor& v) override { v("up", up), v("down", down); }
  core::Linear up, down;
};
struct TanhNorm : core::CustomNorm {  // weight * tanh(x), after arXiv:2503.10622
  explicit TanhNorm(int dim) : weight{mx::ones({dim})} {}
  mx::array operator()(const mx::array& x) const override { return weight.value * mx::tanh(x); }
  void visit(core::Visitor& v) override { v("weight", weight); }
  core::Param weight;  // [D]
};

int main() {
  core::register_mixer("fading", [](auto&, auto& b) { return std::make_unique<Fading>(4, b); });
  core::register_ffn("squash", [](auto&, auto& b) { return std::make_unique<Squash>(b); });
  core::register_norm("tanh", [](auto&, int dim) { return std::make_unique<TanhNorm>(dim); });
  using config::Custom;
  const config::Block block{Custom{"fading"}, Custom{"squash"}, Custom{"tanh"}};
  const auto text = data::tiny_shakespeare();
  const auto tokenizer = data::Tokenizer::characters(text);
  LanguageModel model(config::Model{.vocab = tokenizer.vocab_size(), .layers = {block, block}});
  const auto [train, held_out] = data::split_tokens(tokenizer.encode(text), 0.1);
  Trainer trainer(model, train, held_out, {.optimizer = {.lr = 3e-3}, .run = {.steps = 60}});
  const double before = *trainer.validate(10), after = *trainer.run().val_loss;
  std::cout << "validation loss " << before << " -> " << after << '\n'
            << generate(model, tokenizer.encode_ids("ROMEO:"), {}, &tokenizer).text << '\n';
  return after < before - 0.5 ? 0 : 1;
}
