#include "lmxlab/core/transformer.h"

#include "lmxlab/core/mask.h"
#include "lmxlab/core/position.h"
#include "lmxlab/core/recompute.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/embedding.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>

namespace lmxlab::core {
namespace {

constexpr size_t kManyPositions = 16384;  // of a batch

// Blocks of a model as one stage.
struct Blocks {
  Transformer* model;
  std::function<mx::array(Pass&)> embed;

  /// @param in  what comes before the first; nothing before block 0
  Arrays operator()(size_t first, size_t last, const Arrays& in, Pass& pass) const {
    const Stage stage = [blocks = *this, first, last](const Arrays& before, Pass& p) -> Arrays {
      const auto x = first < last ? blocks(first, last - 1, before, p) : before;
      Residual stream(x.empty() ? blocks.embed(p) : x[0]);
      p.layer = static_cast<int>(last);
      blocks.model->layers[last](stream, p);
      return {stream.value()};
    };
    struct Parts {
      Transformer& model;
      size_t first, last;
      void visit(Visitor& v) {
        for (size_t i = first; i <= last; ++i) v("", model.layers[i]);
        if (first == 0)
          v("", model.embed_tokens), v("", model.embed_positions), v("", model.embed_norm);
      }
    } parts{*model, first, last};
    return recomputed(stage, collect(parts), in, pass);
  }
};

// What a block reads beside the stream, and what it leaves for later ones.
template <class F>
void each_read(Pass& pass, const config::Block& b, F f) {
  if (pass.layer_input) f(*pass.layer_input);
  if (b.shared) f(*pass.embeddings);
  if (pass.shortcut) f(*pass.shortcut);
  if (const auto* a = std::get_if<config::Attention>(&b.mixer); a && a->kv_from) {
    auto& keys = pass.lent.at(*a->kv_from);
    f(keys.k), f(keys.v);
  }
  if (const auto* r = std::get_if<config::Rwkv7>(&b.mixer); r && r->values_from)
    f(pass.values.at(*r->values_from));
}
template <class F>
void each_left(Pass& pass, F f) {
  if (pass.shortcut) f(*pass.shortcut);
  if (const auto it = pass.lent.find(pass.layer); it != pass.lent.end())
    f(it->second.k), f(it->second.v);
  if (const auto it = pass.values.find(pass.layer); it != pass.values.end()) f(it->second);
}

}  // namespace

Transformer::Transformer(const config::Model& config, uint64_t seed)
    : Transformer(config, Init(seed)) {}

Transformer::Transformer(const config::Model& c, Init init)
    : embed_tokens(c.vocab, c.dim, c.init_std, init), norm(c.final_norm, c.dim), config_(c) {
  if (const auto* learned = std::get_if<config::Learned>(&c.position))
    embed_positions = Param{init.normal({learned->length + learned->offset, c.dim}, c.init_std)};
  if (c.embed_norm) embed_norm.emplace(*c.embed_norm, c.dim);
  const int n = static_cast<int>(c.layers.size());
  // Branches add up along the stream; GPT-2's report scales their last projections for it.
  const float residual_std = c.init_std / std::sqrt(2.0f * static_cast<float>(n));
  const Build build{c.dim, 0, n, c.init_std, residual_std, init, &c};
  if (c.layer_inputs) layer_inputs.emplace(c, build);
  if (c.altup) altup.emplace(*c.altup, build);
  shared_blocks.reserve(c.shared_blocks.size());
  for (const auto& s : c.shared_blocks) shared_blocks.emplace_back(s, build);
  layers.reserve(c.layers.size());
  for (int i = 0; i < n; ++i) {
    const bool lends = std::any_of(c.layers.begin(), c.layers.end(), [&](const config::Block& b) {
      const auto* a = std::get_if<config::Attention>(&b.mixer);
      return a && a->kv_from == i;
    });
    const bool lends_values =
        std::any_of(c.layers.begin(), c.layers.end(), [&](const config::Block& b) {
          const auto* r = std::get_if<config::Rwkv7>(&b.mixer);
          return r && r->values_from == i;
        });
    layers.emplace_back(
        c.layers[static_cast<size_t>(i)],
        Build{c.dim, i, n, c.init_std, residual_std, init, &c, 0, lends, lends_values});
  }
  if (c.score)
    put_score(init);
  else if (!c.tie_head)
    lm_head.emplace(c.dim, c.vocab, c.head_bias, c.init_std, init);
  make_mtp_heads(c.mtp_heads, init);  // last: the model is the same without them
}

void Transformer::make_mtp_heads(const std::vector<config::Block>& blocks, Init& init) {
  const int n = static_cast<int>(layers.size());
  const float residual_std = config_.init_std / std::sqrt(2.0f * static_cast<float>(n));
  for (const auto& b : blocks)
    mtp_heads.emplace_back(
        b, config_.final_norm,
        Build{config_.dim, n - 1, n, config_.init_std, residual_std, init, &config_});
}

void Transformer::add_mtp_heads(const std::vector<config::Block>& blocks, uint64_t seed) {
  Init init(seed);
  make_mtp_heads(blocks, init);
  config_.mtp_heads.insert(config_.mtp_heads.end(), blocks.begin(), blocks.end());
}

void Transformer::put_score(Init init) {
  config_.score = true;
  lm_head.reset();
  score.emplace(config_.dim, 1, false, config_.init_std, init);
}

std::vector<std::unique_ptr<LayerCache>> Transformer::make_caches(
    const CacheOptions& options) const {
  std::vector<std::unique_ptr<LayerCache>> out;
  for (const auto& block : layers) out.push_back(block.make_cache(options, shared_blocks.data()));
  return out;
}

mx::Dtype Transformer::dtype() const {
  if (const auto own = embed_tokens.weight.dtype()) return *own;
  const auto norms = collect(const_cast<Norm&>(norm));
  return norms.empty() ? mx::float32 : norms[0].param->value.dtype();
}

mx::array Transformer::embed(const mx::array& tokens, Pass& pass) const {
  const int length = tokens.shape(1);
  auto x = embed_tokens(tokens, pass.dtype);
  if (config_.embed_scale != 1) x = kernels::scale(x, config_.embed_scale);
  if (embed_positions) {
    const int before = std::get<config::Learned>(config_.position).offset;
    const int limit = embed_positions->value.shape(0) - before;
    if (!pass.pads && pass.offset + length > limit)
      throw Error(Kind::usage, "[model] " + std::to_string(pass.offset + length) +
                                   " positions, but the model has learned only " +
                                   std::to_string(limit) + ". Shorten the text.");
    // The columns of a padded row are more than its positions, which only its owner knows.
    const auto at =
        pass.pads ? mx::clip(query_positions(pass, length), mx::array(0), mx::array(limit - 1))
                  : query_positions(pass, length);
    const auto rows = before ? mx::add(at, mx::array(before)) : at;
    x = kernels::add(x, kernels::embedding(embed_positions->value, rows, x.dtype()));
  } else if (std::holds_alternative<config::Sinusoidal>(config_.position)) {
    const auto waves = sinusoids(query_positions(pass, length), config_.dim);
    x = kernels::add(x, kernels::cast(waves, x.dtype()));
  }
  if (embed_norm) x = (*embed_norm)(x);
  x = pass.drop(x);
  if (pass.tap) pass.tap("embedding", x);
  return x;
}

mx::array Transformer::hidden(const mx::array& tokens, Pass& pass) const {
  const bool again = pass.recomputes() && !layers.empty();
  if (again && one_stream()) return norm(recomputed_blocks(tokens, pass));
  auto x = embed(tokens, pass);
  if (!shared_blocks.empty()) pass.embeddings = x, pass.shared_blocks = shared_blocks.data();
  const auto all = layer_inputs ? std::optional((*layer_inputs)(tokens, x)) : std::nullopt;
  if (altup) x = altup->open(x);
  Residual stream(x);
  for (size_t i = 0; i < layers.size(); ++i) {
    pass.layer = static_cast<int>(i);
    if (all) pass.layer_input = mx::take(*all, pass.layer, 2);
    if (again)
      stream = Residual(recomputed_block(stream.value(), pass));
    else if (altup)
      stream = Residual(layers[i].over_streams(stream.value(), pass));
    else
      layers[i](stream, pass);
    if (pass.tap)
      pass.show("output",
                altup ? stream_of(stream.value(), config_.altup->active) : stream.value());
  }
  if (pass.cache) pass.cache->advance(tokens.shape(1));
  return norm(altup ? altup->close(stream.value()) : stream.value());
}

bool Transformer::one_stream() const {
  if (layer_inputs || altup || !shared_blocks.empty()) return false;
  return std::none_of(config_.layers.begin(), config_.layers.end(), [](const config::Block& b) {
    const auto* a = std::get_if<config::Attention>(&b.mixer);
    const auto* r = std::get_if<config::Rwkv7>(&b.mixer);
    return b.shortcut || (a && a->kv_from) || (r && r->values_from);
  });
}

// One array lies between two blocks, not one and a branch that waits; the first begins with the
// tokens. Where positions are many, every other block's input is not kept either, but computed
// again from the one before.
mx::array Transformer::recomputed_blocks(const mx::array& tokens, Pass& pass) const {
  const size_t n = layers.size();
  const bool many = tokens.size() > kManyPositions;
  const Blocks blocks{const_cast<Transformer*>(this),
                      [this, tokens](Pass& p) { return embed(tokens, p); }};
  Arrays x;
  for (size_t first = 0, last; first < n; first = last + 1) {
    last = many && first + 2 < n ? first + 1 : first;  // nothing comes after the last block's
    x = blocks(first, last, x, pass);
  }
  return x[0];
}

// Where blocks leave each other more than the stream. All of that goes in and out of the stage: a
// gradient of what it captured would be lost.
mx::array Transformer::recomputed_block(const mx::array& x, Pass& pass) const {
  const auto i = static_cast<size_t>(pass.layer);
  const auto& config = config_.layers[i];
  Arrays in{x};
  each_read(pass, config, [&](const mx::array& a) { in.push_back(a); });
  const auto left = std::make_shared<Pass>();  // gone when the backward pass runs the stage again
  const Stage stage = [this, i, to = std::weak_ptr(left)](const Arrays& from, Pass& p) {
    size_t n = 1;
    p.recompute = false, p.layer = static_cast<int>(i);
    each_read(p, config_.layers[i], [&](mx::array& a) { a = from[n++]; });
    Residual stream(from[0]);
    if (altup)
      stream = Residual(layers[i].over_streams(from[0], p));
    else
      layers[i](stream, p);
    Arrays out{stream.value()};
    each_left(p, [&](const mx::array& a) { out.push_back(a); });
    if (const auto seen = to.lock()) *seen = p;
    return out;
  };
  struct Parts {
    Transformer& model;
    size_t block;
    std::optional<int> shared;
    void visit(Visitor& v) {
      v("", model.layers[block]);
      if (shared) v("", model.shared_blocks[static_cast<size_t>(*shared)]);
    }
  } parts{const_cast<Transformer&>(*this), i, config.shared};
  const auto out = recomputed(stage, collect(parts), in, pass);
  pass.shortcut = left->shortcut;
  const auto take = [&](auto& all, auto& theirs) {
    if (const auto it = theirs.find(pass.layer); it != theirs.end())
      all.insert_or_assign(pass.layer, it->second);
  };
  take(pass.lent, left->lent), take(pass.values, left->values);
  size_t n = 1;
  each_left(pass, [&](mx::array& a) { a = out[n++]; });
  return out[0];
}

Pass Transformer::mtp_pass(int depth, const Pass& model) const {
  Pass out;
  out.dtype = model.dtype, out.dropout = model.dropout, out.key = model.key;
  out.recompute = model.recompute, out.tap = model.tap, out.sums = model.sums;
  out.layer = static_cast<int>(layers.size()) + depth;
  return out;
}

mx::array Transformer::mtp(int depth, const mx::array& hidden, const mx::array& tokens,
                           Pass& pass) const {
  auto& model = const_cast<Transformer&>(*this);
  auto& head = model.mtp_heads.at(static_cast<size_t>(depth));
  const Stage stage = [&model, &head, tokens](const Arrays& in, Pass& p) -> Arrays {
    // Positions are in what it reads, and rotary ones in its attention.
    auto x = model.embed_tokens(tokens, p.dtype);
    if (model.config_.embed_scale != 1) x = kernels::scale(x, model.config_.embed_scale);
    return {head(in[0], x, p)};
  };
  if (!pass.recomputes()) {
    auto out = stage({hidden}, pass)[0];
    if (pass.tap) pass.show("output", out);
    if (pass.cache) pass.cache->advance(tokens.shape(1));
    return out;
  }
  struct Parts {
    Embedding& table;
    MtpHead& head;
    void visit(Visitor& v) { v("", table), v("", head); }
  } parts{model.embed_tokens, head};
  return recomputed(stage, collect(parts), {hidden}, pass)[0];
}

mx::array Transformer::head(const mx::array& h) const {
  if (score) return (*score)(h);
  auto logits = lm_head ? (*lm_head)(h) : embed_tokens.as_head(h);
  if (config_.logit_scale != 1) logits = kernels::scale(logits, config_.logit_scale);
  if (config_.logit_softcap) {
    const mx::array cap(*config_.logit_softcap, logits.dtype());
    logits = mx::multiply(mx::tanh(mx::divide(logits, cap)), cap);
  }
  return logits;
}

mx::array Transformer::scores(const mx::array& tokens, const mx::array& last, Pass& pass) const {
  if (!score)
    throw Error(Kind::usage,
                "[model] expected a reward model, one with a head of one number; this one predicts "
                "tokens. Train one with objective.kind = \"reward\".");
  const int rows = tokens.shape(0), length = tokens.shape(1);
  const auto h = mx::reshape(hidden(tokens, pass), {rows * length, config_.dim});
  if (pass.tap) pass.tap("hidden", h);
  const auto at = mx::add(mx::multiply(mx::arange(rows, mx::int32), mx::array(length)),
                          mx::astype(last, mx::int32));
  return mx::astype(mx::flatten((*score)(mx::take(h, at, 0))), mx::float32);
}

mx::array Transformer::operator()(const mx::array& tokens, Pass& pass) const {
  const auto h = hidden(tokens, pass);
  if (pass.tap) pass.tap("hidden", h);
  const auto logits = head(h);
  if (pass.tap) pass.tap("logits", logits);
  return logits;
}

std::vector<LayerWeight> weights_of(Transformer& model) {
  struct Finder : Visitor {
    std::vector<LayerWeight> out;
    void linear(const std::string& path, Linear& l) override {
      if (path != "score") out.push_back({path, &l.weight});
    }
    void embedding(const std::string& path, Embedding& e) override {
      out.push_back({path, &e.weight, true});
    }
    void experts(const std::string& path, ExpertLinear& l) override {
      out.push_back({path, &l.weight});
    }
  } finder;
  model.visit(finder);
  return std::move(finder.out);
}

}  // namespace lmxlab::core
