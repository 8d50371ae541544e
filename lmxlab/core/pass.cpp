#include "lmxlab/core/pass.h"

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/dropout.h"

#include <mlx/random.h>

#include <string>

namespace lmxlab::core {

namespace {

// The i-th of its kind in an entry; i counts down.
template <class C>
C* find(LayerCache* entry, int& i) {
  if (auto* all = dynamic_cast<CompositeCache*>(entry)) {
    for (size_t p = 0; p < all->size(); ++p)
      if (auto* found = find<C>(all->part(p), i)) return found;
    return nullptr;
  }
  auto* of_kind = dynamic_cast<C*>(entry);
  return of_kind && i-- == 0 ? of_kind : nullptr;
}

}  // namespace

template <class C>
C* Pass::slot(int i) const {
  LayerCache* entry = cache ? cache->layer(layer) : nullptr;
  auto* of_kind = find<C>(entry, i);
  if (entry && !of_kind)
    throw Error(Kind::usage, "[pass] the cache of layer " + std::to_string(layer) +
                                 " is of another kind than its mixer uses: expected one that this "
                                 "model's make_cache() made");
  return of_kind;
}
template KeyCache* Pass::slot<KeyCache>(int) const;
template StateCache* Pass::slot<StateCache>(int) const;

const Keys& Pass::lent_keys(int from) const {
  const auto it = lent.find(from);
  if (it == lent.end())
    throw Error(Kind::internal, "[pass] layer " + std::to_string(from) + " has lent no keys");
  return it->second;
}

const mx::array& Pass::lent_values(int from) const {
  const auto it = values.find(from);
  if (it == values.end())
    throw Error(Kind::internal, "[pass] layer " + std::to_string(from) + " has lent no values");
  return it->second;
}

mx::array Pass::drop(const mx::array& x, float rate) {
  if (!key || rate <= 0) return x;
  auto [next, mine] = mx::random::split(*key);
  key = next;
  return kernels::dropout(x, rate, mine, int64_t{first_row} * x.shape(-1));
}

void Pass::show(std::string_view what, const mx::array& x) const {
  if (tap) tap("layers." + std::to_string(layer) + "." + std::string(what), x);
}

}  // namespace lmxlab::core
