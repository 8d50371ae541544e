#include "lmxlab/core/block.h"

#include "lmxlab/core/attention.h"
#include "lmxlab/core/custom.h"
#include "lmxlab/core/mlp.h"

#include <mlx/ops.h>

namespace lmxlab::core {
namespace {

using config::Wiring;

std::unique_ptr<Mixer> make(const config::Mixer& mixer, const Build& build) {
  return std::visit(
      [&](const auto& c) -> std::unique_ptr<Mixer> {
        using C = std::decay_t<decltype(c)>;
        if constexpr (std::same_as<C, config::Attention>)
          return std::make_unique<Attention>(c, build);
        else if constexpr (std::same_as<C, config::Custom>)
          return make_custom_mixer(c, build);
        else
          return nullptr;
      },
      mixer);
}

std::unique_ptr<Ffn> make(const config::Ffn& ffn, const Build& build) {
  return std::visit(
      [&](const auto& c) -> std::unique_ptr<Ffn> {
        using C = std::decay_t<decltype(c)>;
        if constexpr (std::same_as<C, config::Mlp>)
          return std::make_unique<Mlp>(c, build);
        else if constexpr (std::same_as<C, config::Custom>)
          return make_custom_ffn(c, build);
        else
          return nullptr;
      },
      ffn);
}

}  // namespace

Block::Block(const config::Block& c, const Build& b)
    : wiring_(c.wiring), mixer_(make(c.mixer, b)), ffn_(make(c.ffn, b)) {
  const bool before = wiring_ == Wiring::pre || wiring_ == Wiring::sandwich;
  const bool after =
      wiring_ == Wiring::post || wiring_ == Wiring::branch || wiring_ == Wiring::sandwich;
  const bool parallel = wiring_ == Wiring::parallel;
  if ((mixer_ && before) || parallel) before_mixer_.emplace(c.norm, b.dim);
  if (mixer_ && after) after_mixer_.emplace(c.norm, b.dim);
  if (ffn_ && before) before_ffn_.emplace(c.norm, b.dim);
  if (ffn_ && after) after_ffn_.emplace(c.norm, b.dim);
}

// The names are those of the Hugging Face models with the same wiring: Llama, OLMo 2, Gemma 2, Phi.
void Block::visit(Visitor& v) {
  const bool after = wiring_ != Wiring::pre && wiring_ != Wiring::parallel;
  v("self_attn", mixer_);
  v("mlp", ffn_);
  v("input_layernorm", before_mixer_);
  v("post_attention_layernorm", after ? after_mixer_ : before_ffn_);
  if (after) v("pre_feedforward_layernorm", before_ffn_);
  v("post_feedforward_layernorm", after_ffn_);
}

mx::array Block::operator()(const mx::array& x, Pass& pass) const {
  const auto norm = [](const std::optional<Norm>& n, const mx::array& a) {
    return n ? (*n)(a) : a;
  };
  const auto mix = [&](const mx::array& a) {
    const auto y = pass.drop((*mixer_)(a, pass));
    pass.show("mixer", y);
    return y;
  };
  const auto feed = [&](const mx::array& a) {
    const auto y = pass.drop((*ffn_)(a, pass));
    pass.show("ffn", y);
    return y;
  };
  if (wiring_ == Wiring::parallel) {
    const auto n = norm(before_mixer_, x);
    auto y = x;
    if (mixer_) y = mx::add(y, mix(n));
    if (ffn_) y = mx::add(y, feed(n));
    return y;
  }
  const bool post = wiring_ == Wiring::post;  // the norm is over the sum, not over the branch
  const auto join = [&](const mx::array& a, const mx::array& branch, const std::optional<Norm>& n) {
    return post ? norm(n, mx::add(a, branch)) : mx::add(a, norm(n, branch));
  };
  auto h = x;
  if (mixer_) h = join(h, mix(norm(before_mixer_, h)), after_mixer_);
  if (ffn_) h = join(h, feed(norm(before_ffn_, h)), after_ffn_);
  return h;
}

}  // namespace lmxlab::core
