// Why a pass through the cache is not the pass in one piece: which layer is the first to differ,
// and which of the positions that its cache holds it looks at.
#include "lmxlab/checks/support.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <optional>

namespace lmxlab::checks {
namespace {

using Activations = std::map<std::string, mx::array, std::less<>>;

// What every layer's mixer gives, behind what a cache has seen.
Activations seen_by_tap(LanguageModel& model, const mx::array& tokens, Cache& cache) {
  Activations out;
  auto pass = model.make_pass(&cache);
  pass.tap = [&](std::string_view name, const mx::array& a) {
    out.insert_or_assign(std::string(name), a);
  };
  const auto logits = model.transformer()(tokens, pass);
  eval(logits, cache);
  return out;
}

std::string mixer_of(int layer) {
  return "layers." + std::to_string(layer) + ".mixer";
}

// Every part of a kind in a layer's memory.
template <class C>
void each(core::LayerCache* entry, const std::function<void(C&)>& f) {
  if (auto* all = dynamic_cast<core::CompositeCache*>(entry)) {
    for (size_t i = 0; i < all->size(); ++i) each<C>(all->part(i), f);
  } else if (auto* one = dynamic_cast<C*>(entry)) {
    f(*one);
  }
}

// Other numbers at one position, in keys and values.
void disturb(core::KeyCache& cache, int position) {
  auto arrays = cache.arrays();
  if (arrays.empty() || cache.length() <= position) return;
  const int width = arrays[0].shape(2), length = cache.length();
  const int column = length > width ? position % width : position;
  if (length > width && position < length - width) return;
  for (auto& a : arrays) {
    const mx::Shape from{0, 0, column, 0}, to{a.shape(0), a.shape(1), column + 1, a.shape(3)};
    a = mx::slice_update(a, mx::add(mx::slice(a, from, to), mx::array(1.0f, a.dtype())), from, to);
  }
  cache.restore(std::move(arrays), length);
}
void disturb(core::StateCache& cache) {
  auto arrays = cache.arrays();
  for (auto& a : arrays) a = mx::add(a, mx::array(1.0f, a.dtype()));
  cache.restore(std::move(arrays), cache.length());
}

std::string list(const std::vector<int>& all) {
  std::string out;
  for (const int i : all) out += (out.empty() ? "" : ", ") + std::to_string(i);
  return out;
}

// Of a choice of keys nobody can say beforehand what is seen.
bool chooses(const config::Mixer& m) {
  const auto* mla = std::get_if<config::Mla>(&m);
  return (mla && mla->indexer) || std::holds_alternative<config::Nsa>(m);
}

}  // namespace

std::string why_the_cache_differs(LanguageModel& model, const mx::array& tokens, int first) {
  const Enter enter(model.runtime());
  const int length = tokens.shape(1);
  Cache before = cache_for(model, length);
  go_on(model, columns(tokens, 0, first), before);
  Cache one_piece = cache_for(model, length), two_pieces = before;
  const auto whole = seen_by_tap(model, tokens, one_piece);
  const auto piece = seen_by_tap(model, columns(tokens, first, length), two_pieces);
  const auto differ = [&](const std::string& name) {
    const auto a = whole.find(name), b = piece.find(name);
    if (a == whole.end() || b == piece.end() || a->second.ndim() != 3) return false;
    const auto want = positions(a->second, first, length);
    return !compare("", b->second, want, rounding_bound(model, want)).ok;
  };
  if (differ("embedding"))
    return "the embeddings of a piece differ already. Likely cause: a lost position offset "
           "(learned "
           "or sinusoidal positions that begin at 0 again)";
  const int layers = static_cast<int>(model.config().layers.size());
  int layer = 0;
  while (layer < layers && !differ(mixer_of(layer))) ++layer;
  if (layer == layers)
    return "one piece behind another agrees in every mixer, more pieces do not: what a later write "
           "to the cache does is wrong. Likely cause: a place in a ring, or a buffer that grew";

  // What the next position's mixer does where one position's keys, or a state, are others.
  const auto next = [&](Cache cache) {
    const auto all = seen_by_tap(model, columns(tokens, first, first + 1), cache);
    return all.at(mixer_of(layer));
  };
  const auto as_it_is = next(before);
  const auto moved = [&](const std::function<void(core::LayerCache*)>& change) {
    Cache other = before;
    change(other.layer(layer));
    return !mx::array_equal(next(std::move(other)), as_it_is).item<bool>();
  };
  const auto where =
      "in layer " + std::to_string(layer) + ", behind " + std::to_string(first) + " tokens, ";
  int keys = 0, states = 0;
  auto* entry = before.layer(layer);
  each<core::KeyCache>(entry, [&](core::KeyCache&) { ++keys; });
  each<core::StateCache>(entry, [&](core::StateCache&) { ++states; });
  if (keys + states == 0)
    return where + "nothing is kept of what came before. Likely cause: a mixer without a cache";
  const auto state_moves = states == 0 || moved([](core::LayerCache* c) {
                             each<core::StateCache>(c, [](core::StateCache& s) { disturb(s); });
                           });
  if (!state_moves)
    return where +
           "the state of what came before is not read. Likely cause: a state that is not "
           "carried from one pass to the next";
  if (keys == 0)
    return where +
           "the state is read, but is not what one pass has there. Likely cause: a state "
           "that was put too early or too late, or a convolution's window off by one";

  const auto& mixer = model.config().layers[static_cast<size_t>(layer)].mixer;
  const auto* attention = config::attention_in(mixer);
  const bool chunked = attention && attention->chunked;
  const int window = attention && !chunked ? attention->window.value_or(0) : 0;
  std::vector<int> unseen, expected, beyond;
  for (int at = 0; at < first; ++at) {
    const bool reach = window == 0 || at > first - window;
    const bool seen = moved([&](core::LayerCache* c) {
      each<core::KeyCache>(c, [&](core::KeyCache& k) { disturb(k, at); });
    });
    if (reach) expected.push_back(at);
    if (reach && !seen) unseen.push_back(at);
    if (!reach && seen) beyond.push_back(at);
  }
  if (!beyond.empty())
    return where + "positions are seen that lie outside its window (" + list(beyond) +
           "). Likely cause: a window that forgets too late, or a cache off by one";
  if (!unseen.empty() && !chunked && !chooses(mixer)) {
    if (unseen == expected && expected.size() > 1)
      return where +
             "nothing that came before is seen. Likely cause: keys that are not carried "
             "from one pass to the next";
    if (unseen == std::vector{first - 1})
      return where + "the last position before it is not seen (" + list(unseen) +
             "). Likely cause: a cache off by one, which writes over its last position or leaves "
             "it out";
    if (unseen == std::vector{expected[0]})
      return where + "the oldest position that it may see is not seen (" + list(unseen) +
             "). Likely cause: a cache off by one, whose window is too short or begins too late";
    return where + "some positions are not seen (" + list(unseen) +
           "). Likely cause: a mask that does not fit what the cache holds";
  }
  return where +
         "all that came before is seen, but not as in one pass. Likely cause: a lost "
         "position offset (rotary or ALiBi positions that begin at 0 again), or keys kept "
         "at another position's place";
}

}  // namespace lmxlab::checks
