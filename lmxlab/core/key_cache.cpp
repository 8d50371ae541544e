// Caches of keys and values: all positions, or a ring of the last ones.
#include "lmxlab/core/cache.h"

#include "lmxlab/base/error.h"
#include "lmxlab/config/count.h"
#include "lmxlab/core/cache_errors.h"
#include "lmxlab/kernels/append_quantized.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>

#include <algorithm>
#include <utility>

namespace lmxlab::core {
namespace {

mx::array columns(const mx::array& x, int from, int to) {  // [B, K, S, Dh] -> [B, K, to - from, Dh]
  return mx::slice(x, {0, 0, from, 0}, {x.shape(0), x.shape(1), to, x.shape(3)});
}

// What is kept of keys and values: arrays [B, K, S, *], one column a position.
using Parts = std::vector<mx::array>;

// Which arrays: the numbers themselves, or each as packed words, scales and biases.
class Format {
 public:
  Format(int bits, Holds holds) : bits_(bits), values_(holds == Holds::keys_and_values) {
    if (bits != 0 && bits != 4 && bits != 8 && bits != 16)
      throw Error(Kind::usage,
                  "[cache] kv_bits: expected 0 (none), 16, 8 or 4, got " + std::to_string(bits));
  }
  bool packed() const { return bits_ == 4 || bits_ == 8; }
  /// Of numbers that come as `dtype` and are not packed.
  mx::Dtype kept(mx::Dtype dtype) const {
    return bits_ == 16 && dtype == mx::float32 ? mx::float16 : dtype;
  }
  bool values() const { return values_; }
  bool lendable() const { return values_ && !packed(); }
  size_t parts() const { return (packed() ? 3 : 1) * (values_ ? 2 : 1); }

  Parts encode(const mx::array& k, const mx::array& v) const {
    Parts all;
    const auto add = [&](const mx::array& x) {
      if (!packed()) return all.push_back(kernels::cast(x, kept(x.dtype())));
      for (auto& part : mx::quantize(x, group(x.shape(3)), bits_)) all.push_back(part);
    };
    add(k);
    if (values_) add(v);
    return all;
  }
  Keys decode(const Parts& p, int start, bool ring) const {
    if (!packed()) return {p[0], values_ ? p[1] : p[0], start, ring};
    const auto numbers = [](const kernels::QuantizedKeys& q) {
      return mx::dequantize(q.packed, q.scales, q.biases, q.group, q.bits);
    };
    Keys::Packed packed{packed_part(p, 0), packed_part(p, values_ ? 3 : 0)};
    auto k = numbers(packed.k), v = values_ ? numbers(packed.v) : k;
    return {std::move(k), std::move(v), start, ring, std::move(packed)};
  }

  // Three arrays from the i-th on.
  kernels::QuantizedKeys packed_part(const Parts& p, size_t i) const {
    const int width = p[i].shape(3) * 32 / bits_;
    return {p[i], p[i + 1], p[i + 2], width / p[i + 1].shape(3), bits_};
  }

 private:
  static int group(int width) {
    if (width % 32 != 0)
      throw Error(Kind::usage, "[cache] kv_bits: heads of " + std::to_string(width) +
                                   " numbers cannot be packed: expected a multiple of 32. Leave "
                                   "keys and values as they are.");
    return config::kv_group(width);
  }
  int bits_;
  bool values_;
};

mx::array room(const mx::array& like, int n) {
  return mx::zeros({like.shape(0), like.shape(1), n, like.shape(3)}, like.dtype());
}

int rounded(int n) {
  return (n + kGrowth - 1) / kGrowth * kGrowth;
}

// Buffers [B, K, capacity, *] of which the first `used` columns are filled; none at first.
struct Buffers {
  Format format;
  Parts all = {};

  int capacity() const { return all.empty() ? 0 : all[0].shape(2); }
  // Makes room for `to` columns, keeping the first `used`.
  void grow(const Parts& like, int used, int to) {
    if (used == 0) {
      all.clear();
      for (const auto& part : like) all.push_back(room(part, to));
      return;
    }
    for (auto& part : all)
      part = mx::concatenate({columns(part, 0, used), room(part, to - used)}, 2);
  }
  // Numbers of one position, where only their shape and type count.
  Parts like(const CacheRow& k, const CacheRow& v) const {
    const auto one = [&](const CacheRow& r) {
      return mx::zeros({r.batch, r.heads, 1, r.width}, format.kept(r.dtype));
    };
    return {one(k), one(v)};
  }
  std::optional<Loan> lend(const CacheRow& nk, const CacheRow& nv, int at) {
    const auto other = [&](const mx::array& buffer, const CacheRow& row) {
      return buffer.dtype() != format.kept(row.dtype) || buffer.shape(0) != row.batch ||
             buffer.shape(1) != row.heads || buffer.shape(3) != row.width;
    };
    if (other(all[0], nk) || other(all[1], nv)) return std::nullopt;
    Loan loan{std::move(all[0]), std::move(all[1]), at};
    all.clear();
    return loan;
  }
  void give_back(mx::array k, mx::array v) { all = {std::move(k), std::move(v)}; }
  // The old handles are given up before the update, so that it happens in place.
  void write(const Parts& parts, int at) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto& x = parts[i];
      auto old = std::exchange(all[i], x);
      const mx::Shape start{0, 0, at, 0}, stop{x.shape(0), x.shape(1), at + x.shape(2), x.shape(3)};
      all[i] = mx::slice_update(old, mx::astype(x, old.dtype()), start, stop);
    }
  }
  // The same of numbers, in two steps of the graph where they are packed.
  void append(const mx::array& k, const mx::array& v, int at) {
    const std::vector<const mx::array*> numbers =
        format.values() ? std::vector{&k, &v} : std::vector{&k};
    bool other = !format.packed();
    for (size_t i = 0; i < numbers.size() && !other; ++i)
      other = all[3 * i + 1].dtype() != numbers[i]->dtype();
    if (other) return write(format.encode(k, v), at);
    std::vector<kernels::QuantizedKeys> old;
    for (size_t i = 0; i < numbers.size(); ++i) old.push_back(format.packed_part(all, 3 * i));
    all.clear();
    for (size_t i = 0; i < numbers.size(); ++i) {
      const auto part = kernels::append_quantized(*numbers[i], std::move(old[i]), at);
      all.insert(all.end(), {part.packed, part.scales, part.biases});
    }
  }
  Keys view(int n, int start, bool ring) const {
    if (all.empty()) throw Error(Kind::internal, "[cache] nothing was appended yet");
    Parts some;
    for (const auto& part : all) some.push_back(columns(part, 0, n));
    return format.decode(some, start, ring);
  }
  void reorder(const mx::array& rows) {
    for (auto& part : all) part = mx::take(part, rows, 0);
  }
  // These columns, behind as many empty ones as are missing.
  void lay_out(const Parts& some, int n) {
    all.clear();
    for (const auto& part : some) {
      const int missing = n - part.shape(2);
      all.push_back(missing > 0 ? mx::concatenate({room(part, missing), part}, 2)
                                : mx::contiguous(part));
    }
  }
  bool joins(const Buffers& other) const {
    if (all.size() != other.all.size()) return false;
    for (size_t i = 0; i < all.size(); ++i)
      if (all[i].dtype() != other.all[i].dtype() || all[i].shape(1) != other.all[i].shape(1) ||
          all[i].shape(3) != other.all[i].shape(3))
        return false;
    return true;
  }
  // Both hold `used` columns that count.
  void append_rows(const Buffers& other, int used) {
    for (size_t i = 0; i < all.size(); ++i)
      all[i] = mx::concatenate({columns(all[i], 0, used), columns(other.all[i], 0, used)}, 0);
  }
  void restore(Parts arrays, int needed) {
    if (arrays.empty() && needed == 0) return all.clear();
    const auto fits = [&](const mx::array& a) {
      return a.ndim() == 4 && a.shape(2) >= needed && a.shape(2) == arrays[0].shape(2);
    };
    if (arrays.size() != format.parts() || !std::all_of(arrays.begin(), arrays.end(), fits))
      throw Error(Kind::mismatch,
                  "[cache] expected " + std::string(format.packed() ? "packed " : "") +
                      (format.values() ? "keys and values, " : "keys, ") +
                      std::to_string(format.parts()) + " arrays [B, K, S, *] of at least " +
                      std::to_string(needed) + " positions");
    all = std::move(arrays);
  }
  size_t bytes() const {
    size_t n = 0;
    for (const auto& part : all) n += part.nbytes();
    return n;
  }
};

class Plain : public KeyCache {
 public:
  Plain(int bits, Holds holds) : buffers_{Format(bits, holds)} {}
  std::unique_ptr<LayerCache> clone() const override { return std::make_unique<Plain>(*this); }
  Keys append(const mx::array& k, const mx::array& v) override {
    make_room(k.shape(2), [&] { return buffers_.format.encode(k, v); });
    buffers_.append(k, v, length_);
    length_ += k.shape(2);
    return buffers_.view(length_, 0, false);
  }
  Keys held() const override { return buffers_.view(length_, 0, false); }
  std::optional<Loan> lend(int n, const CacheRow& k, const CacheRow& v) override {
    if (!buffers_.format.lendable()) return std::nullopt;
    make_room(n, [&] { return buffers_.like(k, v); });
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
  void shift(int n) override {
    if (n < -length_) cannot_shift(n, length_);
    Parts some;
    for (const auto& part : buffers_.all) some.push_back(columns(part, std::max(0, -n), length_));
    length_ += n;
    buffers_.lay_out(some, length_);
  }
  void append_rows(const LayerCache& other) override {
    const auto* more = dynamic_cast<const Plain*>(&other);
    if (!more || !buffers_.joins(more->buffers_)) cannot_join("keys of the same kind and shape");
    if (more->length_ != length_) cannot_join(std::to_string(length_) + " positions");
    buffers_.append_rows(more->buffers_, length_);
  }
  std::vector<mx::array> arrays() const override { return buffers_.all; }
  size_t array_count() const override { return buffers_.format.parts(); }
  void restore(std::vector<mx::array> arrays, int length) override {
    buffers_.restore(std::move(arrays), length);
    length_ = length;
  }
  size_t bytes() const override { return buffers_.bytes(); }

 private:
  template <class F>
  void make_room(int n, F parts) {
    const int to = length_ + n;
    if (to > buffers_.capacity())
      buffers_.grow(parts(), length_, std::max(rounded(to), std::exchange(reserved_, 0)));
  }

  Buffers buffers_;
  int length_ = 0, reserved_ = 0;
};

class Rotating : public KeyCache {
 public:
  Rotating(int window, int bits, Holds holds) : buffers_{Format(bits, holds)}, window_(window) {}
  std::unique_ptr<LayerCache> clone() const override { return std::make_unique<Rotating>(*this); }

  Keys append(const mx::array& k, const mx::array& v) override {
    return k.shape(2) == 1 ? append_one(k, v) : append_many(k, v);
  }
  Keys held() const override { return buffers_.view(kept(), 0, length_ > window_); }
  // Until the ring is full.
  std::optional<Loan> lend(int n, const CacheRow& k, const CacheRow& v) override {
    if (length_ + n > window_ || !buffers_.format.lendable()) return std::nullopt;
    make_room(n, [&] { return buffers_.like(k, v); });
    return buffers_.lend(k, v, length_);
  }
  void give_back(mx::array k, mx::array v, int n) override {
    buffers_.give_back(std::move(k), std::move(v));
    length_ += n;
  }
  void reserve(int positions) override { reserved_ = std::min(rounded(positions), window_); }
  int length() const override { return length_; }
  int trimmable() const override { return length_ <= window_ ? length_ : 0; }
  bool can_trim(int n) const override {
    return KeyCache::can_trim(n) || (n > 0 && before_ && length_ - n == *marked_);
  }
  void trim(int n) override {
    if (!can_trim(n)) cannot_trim(n, trimmable());
    if (n > trimmable()) buffers_.all = *std::exchange(before_, std::nullopt);
    length_ -= n;
  }
  void mark() override { marked_ = length_, before_.reset(); }
  void unmark() override { marked_.reset(), before_.reset(); }
  void reorder(const mx::array& rows) override {
    buffers_.reorder(rows);
    if (!before_) return;
    for (auto& part : *before_) part = mx::take(part, rows, 0);
  }
  // What a full ring has forgotten does not come back: its oldest columns are the first it has.
  void shift(int n) override {
    if (n < -length_) cannot_shift(n, length_);
    unmark();
    const int before = kept();
    const int now = std::min(length_ + n, window_), some = std::min(before, now);
    Parts tail;
    for (const auto& part : buffers_.all) tail.push_back(last(part, some));
    length_ += n;
    buffers_.lay_out(tail, now);
    for (auto& part : buffers_.all) part = ring(part);
  }
  void append_rows(const LayerCache& other) override {
    const auto* more = dynamic_cast<const Rotating*>(&other);
    if (!more || more->window_ != window_ || !buffers_.joins(more->buffers_))
      cannot_join("keys of the same kind and shape, in a window of " + std::to_string(window_));
    if (more->length_ != length_) cannot_join(std::to_string(length_) + " positions");
    unmark();
    buffers_.append_rows(more->buffers_, kept());
  }
  std::vector<mx::array> arrays() const override { return buffers_.all; }
  size_t array_count() const override { return buffers_.format.parts(); }
  void restore(std::vector<mx::array> arrays, int length) override {
    if (arrays.size() <= 2 && !arrays.empty() && arrays[0].ndim() == 4 &&
        arrays[0].shape(2) > window_)
      throw Error(Kind::mismatch, "[cache] " + std::to_string(arrays[0].shape(2)) +
                                      " positions do not fit a window of " +
                                      std::to_string(window_));
    buffers_.restore(std::move(arrays), std::min(length, window_));
    length_ = length;
    unmark();
  }
  size_t bytes() const override {
    size_t n = buffers_.bytes();
    if (before_)
      for (const auto& part : *before_) n += part.nbytes();
    return n;
  }

 private:
  int kept() const { return std::min(length_, window_); }
  // Columns that the mark needs are about to go: the buffers stay what they are.
  void keep_marked() {
    if (marked_ && !before_) before_ = buffers_.all;
  }

  // The position p lies in column p mod window.
  Keys append_one(const mx::array& k, const mx::array& v) {
    if (length_ < window_)
      make_room(1, [&] { return buffers_.format.encode(k, v); });
    else
      keep_marked();
    buffers_.append(k, v, length_ % window_);
    ++length_;
    return held();
  }

  // The first of several queries still sees window - 1 positions before it, so the ring is laid out
  // in order, with the new positions behind; its last `window` columns are what is kept.
  Keys append_many(const mx::array& k, const mx::array& v) {
    const int n = k.shape(2), total = length_ + n;
    if (total <= window_) {
      make_room(n, [&] { return buffers_.format.encode(k, v); });
      buffers_.append(k, v, length_);
      length_ = total;
      return buffers_.view(total, 0, false);
    }
    keep_marked();
    const int before = std::min(length_, window_ - 1);
    const int width = before + n;
    const auto parts = buffers_.format.encode(k, v);
    auto joined = parts;
    for (size_t i = 0; i < parts.size() && before > 0; ++i) {
      const auto& buffer = buffers_.all[i];
      joined[i] = mx::concatenate({last(buffer, before), mx::astype(parts[i], buffer.dtype())}, 2);
    }
    const int start = length_ - before;
    buffers_.all.clear();
    length_ = total;
    for (const auto& part : joined)
      buffers_.all.push_back(ring(columns(part, width - window_, width)));
    return buffers_.format.decode(joined, start, false);
  }

  template <class F>
  void make_room(int n, F parts) {
    const int needed = length_ + n;
    if (needed <= buffers_.capacity()) return;
    const int to = std::min(std::max(rounded(needed), std::exchange(reserved_, 0)), window_);
    buffers_.grow(parts(), length_, to);
  }

  // The last positions, in order, as they lie once there are more than the window holds.
  mx::array ring(const mx::array& tail) const {
    const int turn = length_ > window_ ? length_ % window_ : 0;  // the column of the first of them
    if (turn == 0) return mx::contiguous(tail);
    return mx::concatenate(
        {columns(tail, window_ - turn, window_), columns(tail, 0, window_ - turn)}, 2);
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
  std::optional<int> marked_ = {};    // a length
  std::optional<Parts> before_ = {};  // the buffers, until columns of that length were lost
};

}  // namespace

std::unique_ptr<KeyCache> plain_cache(const CacheOptions& options, Holds holds) {
  return std::make_unique<Plain>(options.kv_bits, holds);
}
std::unique_ptr<KeyCache> rotating_cache(int window, const CacheOptions& options, Holds holds) {
  return std::make_unique<Rotating>(window, options.kv_bits, holds);
}

}  // namespace lmxlab::core
