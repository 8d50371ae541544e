#include "lmxlab/core/block.h"

#include "lmxlab/core/attention.h"
#include "lmxlab/core/custom.h"
#include "lmxlab/core/mlp.h"

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

void Block::operator()(Residual& stream, Pass& pass) const {
  const auto before = [&](const std::optional<Norm>& n) {
    return n ? stream.normed(*n) : stream.value();
  };
  // A part of the user's own may compute in another type: the stream keeps its own.
  const auto run = [&](const auto& part, const mx::array& a, const char* name) {
    const auto y = pass.drop(kernels::cast((*part)(a, pass), stream.dtype()));
    pass.show(name, y);
    return y;
  };
  if (wiring_ == Wiring::parallel) {
    const auto n = before(before_mixer_);
    if (mixer_) stream.add(run(mixer_, n, "mixer"));
    if (ffn_) stream.add(run(ffn_, n, "ffn"));
    return;
  }
  const auto join = [&](const mx::array& branch, const std::optional<Norm>& after) {
    if (!after) {
      stream.add(branch);
    } else if (wiring_ == Wiring::post) {  // the norm is over the sum, not over the branch
      stream.add(branch);
      stream = Residual((*after)(stream.value()));
    } else {
      stream = Residual(after->onto(stream.value(), branch));
    }
  };
  if (mixer_) join(run(mixer_, before(before_mixer_), "mixer"), after_mixer_);
  if (ffn_) join(run(ffn_, before(before_ffn_), "ffn"), after_ffn_);
}

}  // namespace lmxlab::core
