// States, several memories of one mixer, and the memory of a whole model.
#include "lmxlab/core/cache.h"

#include "lmxlab/core/cache_errors.h"
#include "lmxlab/core/runtime.h"

#include <mlx/ops.h>

#include <algorithm>
#include <utility>

namespace lmxlab::core {

bool StateCache::fit(const std::vector<mx::array>& states) const {
  if (states.size() != of_.size()) return false;
  for (size_t i = 0; i < of_.size(); ++i) {
    mx::Shape shape = of_[i].shape;
    shape.insert(shape.begin(), states[0].ndim() > 0 ? states[0].shape(0) : 0);
    if (states[i].shape() != shape) return false;
  }
  return true;
}

std::optional<mx::array> StateCache::state(size_t i) const {
  if (now_.states.empty()) return std::nullopt;
  return now_.states[i];
}

void StateCache::put(std::vector<mx::array> states, int n) {
  if (!fit(states)) throw Error(Kind::internal, "[cache] a state of another shape");
  now_ = {std::move(states), now_.length + n};
}

bool StateCache::can_trim(int n) const {
  return n == 0 || (n > 0 && marked_ && now_.length - n == marked_->length);
}

void StateCache::trim(int n) {
  if (!can_trim(n)) cannot_trim(n, 0);
  if (n > 0) now_ = *marked_;
}

void StateCache::reorder(const mx::array& rows) {
  for (auto& a : now_.states) a = mx::take(a, rows, 0);
  if (marked_)
    for (auto& a : marked_->states) a = mx::take(a, rows, 0);
}

void StateCache::shift(int n) {
  if (n < -now_.length) cannot_shift(n, now_.length);
  now_.length += n;
  marked_.reset();
}

void StateCache::append_rows(const LayerCache& other) {
  const auto* more = dynamic_cast<const StateCache*>(&other);
  const auto& a = now_.states;
  if (!more || more->now_.states.size() != a.size()) cannot_join("a state of the same kind");
  const auto& b = more->now_.states;
  for (size_t i = 0; i < a.size(); ++i) {
    auto shape = b[i].shape();
    shape[0] = a[i].shape(0);
    if (shape != a[i].shape() || a[i].dtype() != b[i].dtype())
      cannot_join("a state of the same shape and type");
  }
  if (more->now_.length != now_.length) cannot_join(std::to_string(now_.length) + " positions");
  for (size_t i = 0; i < a.size(); ++i) now_.states[i] = mx::concatenate({a[i], b[i]}, 0);
  marked_.reset();
}

void StateCache::restore(std::vector<mx::array> arrays, int length) {
  if (!(arrays.empty() && length == 0) && !fit(arrays)) {
    std::string names;
    for (const auto& a : of_) names += (names.empty() ? "" : ", ") + a.name;
    throw Error(Kind::mismatch, "[cache] expected the state of a recurrent mixer (" + names +
                                    "), got " + std::to_string(arrays.size()) +
                                    " arrays of other shapes or numbers");
  }
  now_ = {std::move(arrays), length};
  marked_.reset();
}

size_t StateCache::bytes() const {
  size_t n = 0;
  for (const auto& a : now_.states) n += a.nbytes();
  if (marked_ && marked_->length != now_.length)
    for (const auto& a : marked_->states) n += a.nbytes();
  return n;
}

std::unique_ptr<LayerCache> CompositeCache::clone() const {
  std::vector<std::unique_ptr<LayerCache>> parts;
  for (const auto& p : parts_) parts.push_back(p->clone());
  return std::make_unique<CompositeCache>(std::move(parts));
}

void CompositeCache::reserve(int positions) {
  for (auto& p : parts_) p->reserve(positions);
}

int CompositeCache::trimmable() const {
  int n = length();
  for (const auto& p : parts_) n = std::min(n, p->trimmable());
  return n;
}

bool CompositeCache::can_trim(int n) const {
  return std::all_of(parts_.begin(), parts_.end(), [n](const auto& p) { return p->can_trim(n); });
}

void CompositeCache::trim(int n) {
  if (!can_trim(n)) cannot_trim(n, trimmable());
  for (auto& p : parts_) p->trim(n);
}

void CompositeCache::mark() {
  for (auto& p : parts_) p->mark();
}

void CompositeCache::unmark() {
  for (auto& p : parts_) p->unmark();
}

void CompositeCache::reorder(const mx::array& rows) {
  for (auto& p : parts_) p->reorder(rows);
}

void CompositeCache::shift(int n) {
  if (n < -length()) cannot_shift(n, length());
  for (auto& p : parts_) p->shift(n);
}

// Copies take the rows first: one part that refuses leaves all as they were.
void CompositeCache::append_rows(const LayerCache& other) {
  const auto* more = dynamic_cast<const CompositeCache*>(&other);
  if (!more || more->size() != size())
    cannot_join(std::to_string(size()) + " memories of one mixer");
  std::vector<std::unique_ptr<LayerCache>> joined;
  for (size_t i = 0; i < size(); ++i) {
    joined.push_back(parts_[i]->clone());
    joined.back()->append_rows(*more->parts_[i]);
  }
  parts_ = std::move(joined);
}

std::vector<mx::array> CompositeCache::arrays() const {
  std::vector<mx::array> out;
  for (const auto& p : parts_)
    for (auto& a : p->arrays()) out.push_back(a);
  return out;
}

size_t CompositeCache::array_count() const {
  size_t n = 0;
  for (const auto& p : parts_) n += p->array_count();
  return n;
}

// Copies are restored first: one part that refuses leaves all as they were.
void CompositeCache::restore(std::vector<mx::array> arrays, int length) {
  const bool none = arrays.empty() && length == 0;
  if (!none && arrays.size() != array_count())
    throw Error(Kind::mismatch, "[cache] expected the " + std::to_string(array_count()) +
                                    " arrays of a mixer's memories, got " +
                                    std::to_string(arrays.size()));
  std::vector<std::unique_ptr<LayerCache>> restored;
  auto next = arrays.begin();
  for (const auto& p : parts_) {
    const auto n = static_cast<std::ptrdiff_t>(none ? 0 : p->array_count());
    restored.push_back(p->clone());
    restored.back()->restore({next, next + n}, length);
    next += n;
  }
  parts_ = std::move(restored);
}

size_t CompositeCache::bytes() const {
  size_t n = 0;
  for (const auto& p : parts_) n += p->bytes();
  return n;
}

Cache::Cache(std::vector<std::unique_ptr<LayerCache>> layers, std::shared_ptr<Runtime> runtime)
    : layers_(std::move(layers)), runtime_(std::move(runtime)) {}

Cache::Cache(const Cache& other)
    : pads(other.pads),
      text_length(other.text_length),
      max_kv(other.max_kv),
      runtime_(other.runtime_),
      length_(other.length_),
      marked_(other.marked_) {
  for (const auto& l : other.layers_) layers_.push_back(l ? l->clone() : nullptr);
}
Cache& Cache::operator=(const Cache& other) {
  if (this != &other) *this = Cache(other);
  return *this;
}

void Cache::reserve(int positions) {
  for (auto& l : layers_)
    if (l) l->reserve(positions);
}

int Cache::trimmable() const {
  int n = length_;
  for (const auto& l : layers_)
    if (l) n = std::min(n, l->trimmable());
  return n;
}

bool Cache::can_trim(int n) const {
  return n >= 0 && n <= length_ && std::all_of(layers_.begin(), layers_.end(), [&](const auto& l) {
           return !l || l->can_trim(n);
         });
}

void Cache::trim(int n) {
  if (!can_trim(n)) cannot_trim(n, trimmable());
  for (auto& l : layers_)
    if (l) l->trim(n);
  length_ -= n;
}

void Cache::mark() {
  for (auto& l : layers_)
    if (l) l->mark();
  marked_ = length_;
}

void Cache::unmark() {
  for (auto& l : layers_)
    if (l) l->unmark();
  marked_.reset();
}

bool Cache::rewind(int length) {
  for (const int to : {length, std::min(length, marked_.value_or(length))})
    if (can_trim(length_ - to)) {
      trim(length_ - to);
      return true;
    }
  return false;
}

void Cache::reorder(const mx::array& rows) {
  for (auto& l : layers_)
    if (l) l->reorder(rows);
  if (pads) pads = mx::take(*pads, rows, 0);
}

void Cache::shift(int n) {
  for (auto& l : layers_)
    if (l) l->shift(n);
  length_ += n;
  if (pads) pads = mx::add(*pads, mx::array(n));
}

void Cache::join(const Cache& other) {
  if (rows() == 0 || other.rows() == 0) cannot_join("caches that have seen something, both");
  if (other.layers() != layers()) cannot_join(std::to_string(layers()) + " layers");
  if (other.max_kv != max_kv) cannot_join("max_kv " + std::to_string(max_kv));
  // Copies first, which are as long as the longer one.
  const int longest = std::max(length_, other.length_);
  const auto as_long = [&](const Cache& c) {
    Cache copy = c;
    if (!copy.pads) copy.pads = mx::zeros({c.rows()}, mx::int32);
    if (longest > c.length_) copy.shift(longest - c.length_);
    return copy;
  };
  Cache mine = as_long(*this);
  const Cache more = as_long(other);
  for (int i = 0; i < layers(); ++i) {
    if ((mine.layer(i) == nullptr) != (more.layer(i) == nullptr))
      cannot_join("the same kinds of layers");
    if (mine.layer(i)) mine.layer(i)->append_rows(*more.layer(i));
  }
  const bool padded = pads || other.pads || length_ != other.length_;
  mine.pads = padded ? std::optional(mx::concatenate({*mine.pads, *more.pads}, 0)) : std::nullopt;
  mine.text_length = std::max(text_length, other.text_length);
  *this = std::move(mine);
}

void Cache::keep(const std::vector<int>& some) {
  const int all = rows();
  for (const int i : some)
    if (i < 0 || i >= all)
      throw Error(Kind::usage, "[cache] there is no row " + std::to_string(i) + " of " +
                                   std::to_string(all) + " to keep");
  if (some.empty()) throw Error(Kind::usage, "[cache] keep: expected one row at least");
  reorder(mx::array(some.data(), {static_cast<int>(some.size())}, mx::int32));
  if (!pads) return;
  const Enter enter(runtime_);
  const int least = mx::min(*pads).item<int>(), most = mx::max(*pads).item<int>();
  if (least > 0 || most == least) shift(-std::min(least, length_));
  if (most == least) pads = std::nullopt;
}

std::vector<mx::array> Cache::arrays() const {
  std::vector<mx::array> out;
  for (const auto& l : layers_)
    if (l)
      for (auto& a : l->arrays()) out.push_back(a);
  return out;
}

int Cache::rows() const {
  for (const auto& l : layers_)
    if (l)
      if (const auto held = l->arrays(); !held.empty()) return held[0].shape(0);
  return 0;
}

size_t Cache::bytes() const {
  size_t n = 0;
  for (const auto& l : layers_) n += l ? l->bytes() : 0;
  return n;
}

}  // namespace lmxlab::core
