#include "lmxlab/core/cache.h"

#include "lmxlab/base/error.h"

#include <mlx/ops.h>

#include <algorithm>
#include <utility>

namespace lmxlab::core {
namespace {

mx::array columns(const mx::array& x, int from, int to) {  // [B, K, S, Dh] -> [B, K, to - from, Dh]
  return mx::slice(x, {0, 0, from, 0}, {x.shape(0), x.shape(1), to, x.shape(3)});
}

CacheRow row_of(const mx::array& x) {
  return {x.shape(0), x.shape(1), x.shape(3), x.dtype()};
}

mx::array room(const CacheRow& row, int n) {
  return mx::zeros({row.batch, row.heads, n, row.width}, row.dtype);
}

int rounded(int n) {
  return (n + kGrowth - 1) / kGrowth * kGrowth;
}

// A pair of buffers [B, K, capacity, Dh] of which the first `used` columns are filled.
struct Buffers {
  std::optional<mx::array> k, v;

  int capacity() const { return k ? k->shape(2) : 0; }
  // Makes room for `capacity` columns, keeping the first `used`.
  void grow(const CacheRow& nk, const CacheRow& nv, int used, int to) {
    const auto one = [&](std::optional<mx::array>& buffer, const CacheRow& like) {
      if (used == 0) {
        buffer = room(like, to);
      } else {
        const auto kept = columns(*buffer, 0, used);
        buffer = mx::concatenate({kept, room(like, to - used)}, 2);
      }
    };
    one(k, nk), one(v, nv);
  }
  std::optional<Loan> lend(const CacheRow& nk, const CacheRow& nv, int at) {
    const auto other = [](const mx::array& buffer, const CacheRow& row) {
      return buffer.dtype() != row.dtype || buffer.shape(0) != row.batch ||
             buffer.shape(1) != row.heads || buffer.shape(3) != row.width;
    };
    if (other(*k, nk) || other(*v, nv)) return std::nullopt;
    Loan loan{std::move(*k), std::move(*v), at};
    k.reset(), v.reset();
    return loan;
  }
  void give_back(mx::array nk, mx::array nv) { k = std::move(nk), v = std::move(nv); }
  // The old handles are given up before the update, so that it happens in place.
  void write(const mx::array& nk, const mx::array& nv, int at) {
    const auto one = [&](std::optional<mx::array>& buffer, const mx::array& x) {
      auto old = std::move(*buffer);
      buffer.reset();
      const mx::Shape start{0, 0, at, 0}, stop{x.shape(0), x.shape(1), at + x.shape(2), x.shape(3)};
      buffer = mx::slice_update(old, mx::astype(x, old.dtype()), start, stop);
    };
    one(k, nk), one(v, nv);
  }
  Keys view(int n, int start, bool ring) const {
    return {columns(*k, 0, n), columns(*v, 0, n), start, ring};
  }
  void reorder(const mx::array& rows) {
    if (!k) return;
    k = mx::take(*k, rows, 0), v = mx::take(*v, rows, 0);
  }
  std::vector<mx::array> arrays() const {
    if (!k) return {};
    return {*k, *v};
  }
  void restore(std::vector<mx::array> arrays, int needed) {
    if (arrays.empty() && needed == 0) return k.reset(), v.reset();
    if (arrays.size() != 2 || arrays[0].ndim() != 4 || arrays[1].ndim() != 4 ||
        arrays[0].shape(2) < needed || arrays[0].shape(2) != arrays[1].shape(2))
      throw Error(Kind::mismatch, "[cache] expected keys and values [B, K, S, Dh] of at least " +
                                      std::to_string(needed) + " positions");
    k = std::move(arrays[0]), v = std::move(arrays[1]);
  }
  size_t bytes() const { return k ? k->nbytes() + v->nbytes() : 0; }
};

[[noreturn]] void cannot_trim(int n, int possible) {
  throw Error(Kind::unsupported,
              "[cache] cannot take back " + std::to_string(n) + " positions: only " +
                  std::to_string(possible) +
                  " can be. Keep a copy of the cache before what may be undone.");
}

class Plain : public LayerCache {
 public:
  std::unique_ptr<LayerCache> clone() const override { return std::make_unique<Plain>(*this); }
  Keys append(const mx::array& k, const mx::array& v) override {
    make_room(k.shape(2), row_of(k), row_of(v));
    buffers_.write(k, v, length_);
    length_ += k.shape(2);
    return buffers_.view(length_, 0, false);
  }
  std::optional<Loan> lend(int n, const CacheRow& k, const CacheRow& v) override {
    make_room(n, k, v);
    return buffers_.lend(k, v, length_);
  }
  void give_back(mx::array k, mx::array v, int n) override {
    buffers_.give_back(std::move(k), std::move(v));
    length_ += n;
  }
  void reserve(int positions) override { reserved_ = rounded(positions); }
  int length() const override { return length_; }
  int trimmable() const override { return length_; }
  void trim(int n) override {
    if (n < 0 || n > length_) cannot_trim(n, length_);
    length_ -= n;
  }
  void reorder(const mx::array& rows) override { buffers_.reorder(rows); }
  std::vector<mx::array> arrays() const override { return buffers_.arrays(); }
  void restore(std::vector<mx::array> arrays, int length) override {
    buffers_.restore(std::move(arrays), length);
    length_ = length;
  }
  size_t bytes() const override { return buffers_.bytes(); }

 private:
  void make_room(int n, const CacheRow& k, const CacheRow& v) {
    const int to = length_ + n;
    if (to > buffers_.capacity())
      buffers_.grow(k, v, length_, std::max(rounded(to), std::exchange(reserved_, 0)));
  }

  Buffers buffers_;
  int length_ = 0, reserved_ = 0;
};

class Rotating : public LayerCache {
 public:
  explicit Rotating(int window) : window_(window) {}
  std::unique_ptr<LayerCache> clone() const override { return std::make_unique<Rotating>(*this); }

  Keys append(const mx::array& k, const mx::array& v) override {
    const int n = k.shape(2);
    return n == 1 ? append_one(k, v) : append_many(k, v, n);
  }
  // Until the ring is full.
  std::optional<Loan> lend(int n, const CacheRow& k, const CacheRow& v) override {
    if (length_ + n > window_) return std::nullopt;
    make_room(n, k, v);
    return buffers_.lend(k, v, length_);
  }
  void give_back(mx::array k, mx::array v, int n) override {
    buffers_.give_back(std::move(k), std::move(v));
    length_ += n;
  }
  void reserve(int positions) override { reserved_ = std::min(rounded(positions), window_); }
  int length() const override { return length_; }
  int trimmable() const override { return length_ <= window_ ? length_ : 0; }
  void trim(int n) override {
    if (n < 0 || n > trimmable()) cannot_trim(n, trimmable());
    length_ -= n;
  }
  void reorder(const mx::array& rows) override { buffers_.reorder(rows); }
  std::vector<mx::array> arrays() const override { return buffers_.arrays(); }
  void restore(std::vector<mx::array> arrays, int length) override {
    if (arrays.size() == 2 && arrays[0].ndim() == 4 && arrays[0].shape(2) > window_)
      throw Error(Kind::mismatch, "[cache] " + std::to_string(arrays[0].shape(2)) +
                                      " positions do not fit a window of " +
                                      std::to_string(window_));
    buffers_.restore(std::move(arrays), std::min(length, window_));
    length_ = length;
  }
  size_t bytes() const override { return buffers_.bytes(); }

 private:
  int held() const { return std::min(length_, window_); }

  // The position p lies in column p mod window.
  Keys append_one(const mx::array& k, const mx::array& v) {
    if (length_ < window_) make_room(1, row_of(k), row_of(v));
    buffers_.write(k, v, length_ % window_);
    ++length_;
    return buffers_.view(held(), 0, length_ > window_);
  }

  // The first of several queries still sees window - 1 positions before it, so the ring is laid out
  // in order, with the new positions behind; its last `window` columns are what is kept.
  Keys append_many(const mx::array& k, const mx::array& v, int n) {
    const int total = length_ + n;
    if (total <= window_) {
      make_room(n, row_of(k), row_of(v));
      buffers_.write(k, v, length_);
      length_ = total;
      return buffers_.view(total, 0, false);
    }
    const int before = std::min(length_, window_ - 1);
    const auto joined = [&](const std::optional<mx::array>& buffer, const mx::array& x) {
      if (before == 0) return x;
      return mx::concatenate({last(*buffer, before), mx::astype(x, buffer->dtype())}, 2);
    };
    const auto all_k = joined(buffers_.k, k), all_v = joined(buffers_.v, v);
    const int width = before + n;
    const auto kept = [&](const mx::array& all) {
      const auto tail = columns(all, width - window_, width);
      const int turn = (total - window_) % window_;  // the column of the tail's first position
      if (turn == 0) return mx::contiguous(tail);
      return mx::concatenate(
          {columns(tail, window_ - turn, window_), columns(tail, 0, window_ - turn)}, 2);
    };
    const int start = length_ - before;
    buffers_.k = kept(all_k), buffers_.v = kept(all_v);
    length_ = total;
    return {all_k, all_v, start, false};
  }

  void make_room(int n, const CacheRow& k, const CacheRow& v) {
    const int needed = length_ + n;
    if (needed <= buffers_.capacity()) return;
    const int to = std::min(std::max(rounded(needed), std::exchange(reserved_, 0)), window_);
    buffers_.grow(k, v, length_, to);
  }

  // The last n positions, in order.
  mx::array last(const mx::array& buffer, int n) const {
    if (length_ <= window_) return columns(buffer, length_ - n, length_);
    const int turn = length_ % window_;  // the oldest position
    const auto ordered =
        turn == 0 ? buffer
                  : mx::concatenate({columns(buffer, turn, window_), columns(buffer, 0, turn)}, 2);
    return columns(ordered, window_ - n, window_);
  }

  Buffers buffers_;
  int window_, length_ = 0, reserved_ = 0;
};

}  // namespace

std::unique_ptr<LayerCache> plain_cache() {
  return std::make_unique<Plain>();
}
std::unique_ptr<LayerCache> rotating_cache(int window) {
  return std::make_unique<Rotating>(window);
}

Cache::Cache(std::vector<std::unique_ptr<LayerCache>> layers, std::shared_ptr<Runtime> runtime)
    : layers_(std::move(layers)), runtime_(std::move(runtime)) {}

Cache::Cache(const Cache& other)
    : pads(other.pads), runtime_(other.runtime_), length_(other.length_) {
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

void Cache::trim(int n) {
  if (n < 0 || n > trimmable()) cannot_trim(n, trimmable());
  for (auto& l : layers_)
    if (l) l->trim(n);
  length_ -= n;
}

void Cache::reorder(const mx::array& rows) {
  for (auto& l : layers_)
    if (l) l->reorder(rows);
  if (pads) pads = mx::take(*pads, rows, 0);
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
