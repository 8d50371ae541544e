#include "lmxlab/core/block.h"

#include "lmxlab/core/attention.h"
#include "lmxlab/core/custom.h"
#include "lmxlab/core/mlp.h"
#include "lmxlab/core/recompute.h"

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

mx::array before(Residual& stream, const std::optional<Norm>& norm, const Pass& pass) {
  return norm ? stream.normed(*norm, pass.training()) : stream.value();
}
// A part of the user's own may compute in another type: the stream keeps its own.
template <class Part>
mx::array output(const Part& part, const mx::array& x, mx::Dtype type, const char* name,
                 Pass& pass) {
  const auto y = pass.drop(kernels::cast(part(x, pass), type));
  pass.show(name, y);
  return y;
}
bool recomputes(const Pass& pass) {
  return pass.recompute && !pass.tap && !pass.cache;
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
  if (!recomputes(pass)) return branches(stream, pass);
  const Stage all = [this](const mx::array& x, Pass& p) {
    Residual s(x);
    branches(s, p);
    return s.value();
  };
  // One array lies between two blocks, not one and a branch that waits.
  stream = Residual(recomputed(all, collect(const_cast<Block&>(*this)), stream.value(), pass));
}

void Block::branches(Residual& stream, Pass& pass) const {
  if (wiring_ == Wiring::parallel) {
    const auto n = before(stream, before_mixer_, pass);
    const auto type = stream.dtype();
    if (mixer_) stream.add(output(*mixer_, n, type, "mixer", pass));
    if (!ffn_) return;
    const Stage feed = [this, type](const mx::array& x, Pass& p) {
      return output(*ffn_, x, type, "ffn", p);
    };
    stream.add(recomputes(pass) ? recomputed_by_rows(feed, ffn_parameters(), n, pass)
                                : feed(n, pass));
    return;
  }
  if (mixer_) {
    const auto y =
        output(*mixer_, before(stream, before_mixer_, pass), stream.dtype(), "mixer", pass);
    join(stream, y, after_mixer_);
  }
  if (!ffn_) return;
  const auto feed = [this](Residual& s, Pass& p) {
    join(s, output(*ffn_, before(s, before_ffn_, p), s.dtype(), "ffn", p), after_ffn_);
  };
  if (!recomputes(pass)) return feed(stream, pass);
  const Stage rows = [feed](const mx::array& x, Pass& p) {
    Residual s(x);
    feed(s, p);
    return s.value();
  };
  stream = Residual(recomputed_by_rows(rows, ffn_parameters(), stream.value(), pass));
}

void Block::join(Residual& stream, const mx::array& branch,
                 const std::optional<Norm>& after) const {
  if (!after) {
    stream.add(branch);
  } else if (wiring_ == Wiring::post) {  // the norm is over the sum, not over the branch
    stream.add(branch);
    stream = Residual((*after)(stream.value()));
  } else {
    stream = Residual(after->onto(stream.value(), branch));
  }
}

std::vector<Entry> Block::ffn_parameters() const {
  struct Parts {
    Block& block;
    void visit(Visitor& v) { v("", block.ffn_), v("", block.before_ffn_), v("", block.after_ffn_); }
  } parts{const_cast<Block&>(*this)};
  return collect(parts);
}

}  // namespace lmxlab::core
