#include "lmxlab/core/block.h"

#include "lmxlab/core/attention.h"
#include "lmxlab/core/custom.h"
#include "lmxlab/core/gated_delta.h"
#include "lmxlab/core/kimi_delta.h"
#include "lmxlab/core/lightning.h"
#include "lmxlab/core/mamba.h"
#include "lmxlab/core/mamba2.h"
#include "lmxlab/core/mamba3.h"
#include "lmxlab/core/mla.h"
#include "lmxlab/core/mlp.h"
#include "lmxlab/core/mlstm.h"
#include "lmxlab/core/moe.h"
#include "lmxlab/core/nsa.h"
#include "lmxlab/core/parallel.h"
#include "lmxlab/core/recompute.h"
#include "lmxlab/core/rg_lru.h"
#include "lmxlab/core/rwkv.h"
#include "lmxlab/core/rwkv7.h"
#include "lmxlab/core/short_conv.h"

#include <mlx/ops.h>

#include <numbers>
#include <utility>

namespace lmxlab::core {

using config::Wiring;

std::unique_ptr<Mixer> make_mixer(const config::Mixer& mixer, const Build& build) {
  return std::visit(
      [&](const auto& c) -> std::unique_ptr<Mixer> {
        using C = std::decay_t<decltype(c)>;
        if constexpr (std::same_as<C, config::Attention>)
          return std::make_unique<Attention>(c, build);
        else if constexpr (std::same_as<C, config::Mla>)
          return std::make_unique<Mla>(c, build);
        else if constexpr (std::same_as<C, config::Nsa>)
          return std::make_unique<Nsa>(c, build);
        else if constexpr (std::same_as<C, config::Mamba2>)
          return std::make_unique<Mamba2>(c, build);
        else if constexpr (std::same_as<C, config::GatedDelta>)
          return std::make_unique<GatedDelta>(c, build);
        else if constexpr (std::same_as<C, config::ShortConv>)
          return std::make_unique<ShortConv>(c, build);
        else if constexpr (std::same_as<C, config::KimiDelta>)
          return std::make_unique<KimiDelta>(c, build);
        else if constexpr (std::same_as<C, config::Mamba>)
          return std::make_unique<Mamba>(c, build);
        else if constexpr (std::same_as<C, config::Lightning>)
          return std::make_unique<Lightning>(c, build);
        else if constexpr (std::same_as<C, config::Parallel>)
          return std::make_unique<Parallel>(c, build);
        else if constexpr (std::same_as<C, config::RgLru>)
          return std::make_unique<RgLru>(c, build);
        else if constexpr (std::same_as<C, config::RwkvTime>)
          return std::make_unique<RwkvTime>(c, build);
        else if constexpr (std::same_as<C, config::RwkvChannel>)
          return std::make_unique<RwkvChannel>(c, build);
        else if constexpr (std::same_as<C, config::Rwkv7>)
          return std::make_unique<Rwkv7>(c, build);
        else if constexpr (std::same_as<C, config::Mamba3>)
          return std::make_unique<Mamba3>(c, build);
        else if constexpr (std::same_as<C, config::Mlstm>)
          return std::make_unique<Mlstm>(c, build);
        else if constexpr (std::same_as<C, config::Custom>)
          return make_custom_mixer(c, build);
        else
          return nullptr;
      },
      mixer);
}

namespace {

std::unique_ptr<Ffn> make(const config::Ffn& ffn, const config::Norm& norm, const Build& build) {
  return std::visit(
      [&](const auto& c) -> std::unique_ptr<Ffn> {
        using C = std::decay_t<decltype(c)>;
        if constexpr (std::same_as<C, config::Mlp>)
          return std::make_unique<Mlp>(c, build);
        else if constexpr (std::same_as<C, config::Moe>)
          return std::make_unique<Moe>(c, build);
        else if constexpr (std::same_as<C, config::MlpAndMoe>)
          return std::make_unique<MlpAndMoe>(c, norm, build);
        else if constexpr (std::same_as<C, config::Custom>)
          return make_custom_ffn(c, build);
        else
          return nullptr;
      },
      ffn);
}

mx::array before(Residual& stream, const std::optional<Norm>& norm, const Pass& pass) {
  return norm ? stream.normed(*norm, pass.training()) : stream.value();
}

}  // namespace

Block::Block(const config::Block& c, const Build& b)
    : wiring_(c.wiring),
      mixer_scales_{c.stream_scale, c.branch_scale},
      ffn_scales_{c.ffn_stream_scale.value_or(c.stream_scale),
                  c.ffn_branch_scale.value_or(c.branch_scale)},
      mixer_(make_mixer(c.mixer, b)),
      ffn_(make(c.ffn, c.norm, b)) {
  const bool before = wiring_ == Wiring::pre || wiring_ == Wiring::sandwich ||
                      wiring_ == Wiring::twin || wiring_ == Wiring::chain;
  const bool after =
      wiring_ == Wiring::post || wiring_ == Wiring::branch || wiring_ == Wiring::sandwich;
  const bool parallel = wiring_ == Wiring::parallel;
  if ((mixer_ && before) || parallel) before_mixer_.emplace(c.norm, b.dim);
  if (mixer_ && after) after_mixer_.emplace(c.norm, b.dim);
  if (ffn_ && before) before_ffn_.emplace(c.norm, b.dim);
  if (ffn_ && after) after_ffn_.emplace(c.norm, b.dim);
  if (c.shortcut) shortcut_.emplace(*c.shortcut, b);
  if (c.laurel > 0) laurel_.emplace(c, b);
  if (c.layer_scale) layer_scalar_ = Param{ones({1}), false};
  if (!b.model) return;
  if (c.shared) {
    shared_ = static_cast<size_t>(*c.shared);
    shared_part_.emplace(b.model->shared_blocks[shared_], b);
  }
  if (const auto& l = b.model->layer_inputs) layer_input_.emplace(*l, c.norm, b);
  if (const auto& a = b.model->altup) altup_.emplace(*a, c.norm, b), active_ = a->active;
}

// The names are those of the Hugging Face models with the same wiring: Llama, OLMo 2, Gemma 2, Phi.
void Block::visit(Visitor& v) {
  const bool after = wiring_ != Wiring::pre && wiring_ != Wiring::chain && !side_by_side();
  v("self_attn", mixer_);
  v("mlp", ffn_);
  v("input_layernorm", before_mixer_);
  v("post_attention_layernorm", after ? after_mixer_ : before_ffn_);
  if (after) v("pre_feedforward_layernorm", before_ffn_);
  v("post_feedforward_layernorm", after_ffn_);
  v("shortcut", shortcut_), v("laurel", laurel_), v("", layer_input_), v("altup", altup_);
  v("layer_scalar", layer_scalar_), v("", shared_part_);
}

std::unique_ptr<LayerCache> Block::make_cache(const CacheOptions& options,
                                              const SharedBlock* shared) const {
  if (!mixer_) return nullptr;
  auto own = mixer_->make_cache(options);
  if (!shared_part_) return own;
  std::vector<std::unique_ptr<LayerCache>> parts;
  parts.push_back(shared[shared_].attention.make_cache(options)), parts.push_back(std::move(own));
  return std::make_unique<CompositeCache>(std::move(parts));
}

void Block::operator()(Residual& stream, Pass& pass) const {
  const bool again = pass.recomputes();
  const Dropping here(pass);
  // Both as stages of whole arrays: what each position goes through by itself.
  const Stage first = [this](const Arrays& in, Pass& p) {
    const Dropping inside(p);
    Residual s(in[0]);
    auto out = project(s, p);
    out.insert(out.begin(), s.value());
    return out;
  };
  const Stage last = [this](const Arrays& in, Pass& p) -> Arrays {
    const Dropping inside(p);
    Residual s(in[0]);
    finish(s, {in.begin() + 1, in.end()}, p);
    return {s.value()};
  };
  Arrays parts;
  if (!again) {
    parts = project(stream, pass);
  } else if (mixer_ || side_by_side() || laurel_) {
    const bool passes = wiring_ != Wiring::chain;  // the stream of a chain is another behind a norm
    parts = recomputed_by_rows(first, parameters_of(true), {stream.value()}, pass, passes);
    stream = Residual(parts[0]);
    parts.erase(parts.begin());
  }
  Arrays rest;
  if (side_by_side() || laurel_) {
    rest.push_back(parts[0]);
    parts.erase(parts.begin());
  }
  if (mixer_) rest.push_back(mixer_->mix(parts, pass));
  parts.clear();
  if (!again) return finish(stream, rest, pass);
  rest.insert(rest.begin(), stream.value());
  stream = Residual(recomputed_by_rows(last, parameters_of(false), rest, pass)[0]);
}

// What both branches see, where they are parallel; then what the mixer mixes.
Arrays Block::project(Residual& stream, Pass& pass) const {
  if (!mixer_ && !side_by_side() && !laurel_) return {};
  const auto n = [&] {
    if (!shared_part_) return before(stream, before_mixer_, pass);
    const auto& x = stream.value();
    const auto beside = pass.shared_blocks[shared_](x, *pass.embeddings, *shared_part_, pass);
    return (*before_mixer_)(kernels::add(x, beside));
  }();
  Arrays out;
  if (wiring_ == Wiring::chain) stream = Residual(n);
  if (wiring_ == Wiring::parallel) out.push_back(n);
  if (laurel_) out.push_back((*laurel_)(n));
  if (wiring_ == Wiring::twin) out.push_back(before(stream, before_ffn_, pass));
  if (mixer_)
    for (const auto& a : mixer_->project(n, pass)) out.push_back(a);
  return out;
}

// @param parts  what both branches see, where they are parallel; what the mixer has mixed.
void Block::finish(Residual& stream, const Arrays& parts, Pass& pass) const {
  // A part of the user's own may compute in another type: the stream keeps its own.
  const auto branch = [&](const mx::array& y, float scale, const char* name) {
    auto out = pass.drop(kernels::cast(y, stream.dtype()));
    if (scale != 1) out = kernels::scale(out, scale);
    pass.show(name, out);
    return out;
  };
  if (mixer_)
    join(stream, branch(mixer_->finish(parts.back(), pass), mixer_scales_.branch, "mixer"),
         mixer_scales_.stream, after_mixer_);
  if (laurel_)
    stream = Residual(
        kernels::scale(kernels::add(stream.value(), parts[0]), 1 / std::numbers::sqrt2_v<float>));
  const auto carried = std::exchange(pass.shortcut, std::nullopt);
  if (ffn_) {
    const auto x = side_by_side() ? parts[0] : before(stream, before_ffn_, pass);
    if (wiring_ == Wiring::chain) stream = Residual(x);
    if (shortcut_) pass.shortcut = (*shortcut_)(x, pass);
    join(stream, branch(ffn_->beside(x, stream.value(), pass), ffn_scales_.branch, "ffn"),
         ffn_scales_.stream, after_ffn_);
  }
  if (carried) stream.add(*carried);
  if (layer_input_ && !altup_) stream.add((*layer_input_)(stream.value(), *pass.layer_input));
  if (layer_scalar_)
    stream =
        Residual(mx::multiply(stream.value(), kernels::cast(layer_scalar_->value, stream.dtype())));
}

mx::array Block::over_streams(const mx::array& streams, Pass& pass) const {
  const auto predicted = altup_->predict(streams, pass.training());
  Residual active(stream_of(predicted, active_));
  (*this)(active, pass);
  const auto corrected = altup_->correct(predicted, active.value(), pass.training());
  if (!layer_input_) return corrected;
  // Every stream but the first gets it, whichever blocks see.
  const auto more =
      (*layer_input_)(altup_->scaled(stream_of(corrected, active_)), *pass.layer_input);
  auto parts = mx::split(corrected, mx::Shape{1}, 2);
  parts[1] = mx::add(parts[1], mx::expand_dims(more, 2));
  return mx::concatenate(parts, 2);
}

void Block::join(Residual& stream, const mx::array& branch, float past,
                 const std::optional<Norm>& after) const {
  if (past != 1) stream = Residual(kernels::scale(stream.value(), past));
  if (!after) {
    stream.add(branch);
  } else if (wiring_ == Wiring::post) {  // the norm is over the sum, not over the branch
    stream.add(branch);
    stream = Residual((*after)(stream.value()));
  } else {
    stream = Residual(after->onto(stream.value(), branch));
  }
}

std::vector<Entry> Block::parameters_of(bool projection) const {
  struct Parts {
    Block& block;
    bool projection;
    void visit(Visitor& v) {
      if (block.mixer_) block.mixer_->visit_part(v, projection);
      const bool early = block.wiring_ == Wiring::twin;
      if (early == projection) v("", block.before_ffn_);
      if (projection) return v("", block.before_mixer_), v("", block.laurel_);
      v("", block.layer_scalar_), v("", block.after_mixer_), v("", block.ffn_),
          v("", block.after_ffn_);
    }
  } parts{const_cast<Block&>(*this), projection};
  return collect(parts);
}

}  // namespace lmxlab::core
