// What mixers keep of past positions for the next pass: keys and values, which grow in place (a
// buffer moves only at growth steps), or a state, which each pass replaces.
#pragma once

#include "lmxlab/kernels/attention.h"

#include <mlx/array.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace lmxlab {
namespace mx = mlx::core;
class Runtime;

namespace core {

/// What a query may look at: column j of k and v holds the position `start + j`, or, in a ring, the
/// latest position p with p mod width = j.
struct Keys {
  mx::array k, v;  // [B, K, S, Dh]; of packed ones the numbers, lazily
  int start = 0;
  bool ring = false;
  struct Packed {
    kernels::QuantizedKeys k, v;
  };
  std::optional<Packed> packed = {};
};

/// What a buffer of keys or values holds of a position: [B, K, Dh].
struct CacheRow {
  int batch, heads, width;
  mx::Dtype dtype;
};

/// Buffers [B, K, C, Dh] on loan: columns from `at` on are free, those before hold the positions
/// from 0 on, in order.
struct Loan {
  mx::array k, v;
  int at;
};

/// The memory of one mixer. Copies share their arrays; writing to one of them then copies.
class LayerCache {
 public:
  virtual ~LayerCache() = default;
  virtual std::unique_ptr<LayerCache> clone() const = 0;

  /// Room for this many positions from the next growth on, to grow once. A window keeps its own
  /// limit; a state has none to grow.
  virtual void reserve(int /*positions*/) {}
  /// Positions seen so far.
  virtual int length() const = 0;
  /// Any number of positions up to this can be taken back now.
  virtual int trimmable() const = 0;
  /// Whether exactly the last n can be: also those since a mark.
  virtual bool can_trim(int n) const { return n >= 0 && n <= trimmable(); }
  /// Takes back the last n positions. @throws Error(unsupported) unless can_trim(n).
  virtual void trim(int n) = 0;
  /// From now on until the next mark, `trim` can come back to this length: states keep what they
  /// are, a window what the first pass would write over, at the price of their bytes.
  virtual void mark() {}
  /// Gives up what was kept for a mark.
  virtual void unmark() {}
  /// Row i becomes row rows[i]; the batch may shrink or grow. Lazy.
  virtual void reorder(const mx::array& rows) = 0;
  /// Every position moves by n: n > 0 puts as many columns of padding before the first, n < 0 takes
  /// the first -n away. A mark is forgotten. Lazy; copies its buffers.
  /// @throws Error(usage) if there are fewer positions than are to go.
  virtual void shift(int n) = 0;
  /// The rows of another of its kind, which has seen as many positions, come behind its own. A mark
  /// is forgotten. Lazy; copies both. @throws Error(mismatch) for another kind, length or shape;
  /// nothing is changed then.
  virtual void append_rows(const LayerCache& other) = 0;
  /// Its arrays [B, ...], to be evaluated together with the logits. Empty before the first pass.
  virtual std::vector<mx::array> arrays() const = 0;
  /// How many those are, from the first pass on.
  virtual size_t array_count() const = 0;
  /// Restores what `arrays` and `length` gave; a mark is forgotten. @throws Error(mismatch)
  virtual void restore(std::vector<mx::array> arrays, int length) = 0;
  /// Bytes of its buffers, as allocated.
  virtual size_t bytes() const = 0;
};

/// Keys and values of the positions seen, or of the last of them.
class KeyCache : public LayerCache {
 public:
  /// Appends L positions; k, v: [B, K, L, Dh], keys rotated already. Lazy.
  /// The result must be used and dropped before the next append, or that one copies the buffer.
  virtual Keys append(const mx::array& k, const mx::array& v) = 0;
  /// What the last append gave, once more; after a trim, without what was taken back. A full ring
  /// cannot say what several queries of that append saw. @throws Error(internal) before the first.
  virtual Keys held() const = 0;
  /// The buffers themselves, with room for n positions more, for whoever writes them in place; then
  /// `give_back` is called. None where they do not lie in order, or have another type.
  virtual std::optional<Loan> lend(int /*n*/, const CacheRow& /*k*/, const CacheRow& /*v*/) {
    return std::nullopt;
  }
  /// Takes them back with n positions more.
  virtual void give_back(mx::array /*k*/, mx::array /*v*/, int /*n*/) {}
};

/// One array of a state, as a row of the batch has it: [B, shape...].
struct StateArray {
  std::string name;
  mx::Shape shape;
};

/// What a recurrent mixer knows of all positions seen: arrays of a fixed size, new ones each pass.
/// It forgets nothing by design but cannot go back, except to a mark.
class StateCache : public LayerCache {
 public:
  explicit StateCache(std::vector<StateArray> of) : of_(std::move(of)) {}
  std::unique_ptr<LayerCache> clone() const override { return std::make_unique<StateCache>(*this); }

  /// The i-th array, or none before the first pass: then it is zero.
  std::optional<mx::array> state(size_t i) const;
  /// What they are n positions later. Lazy. @throws Error(internal) for other arrays.
  void put(std::vector<mx::array> states, int n);
  /// How many arrays it has.
  size_t size() const { return of_.size(); }

  int length() const override { return now_.length; }
  int trimmable() const override { return 0; }
  bool can_trim(int n) const override;
  void trim(int n) override;
  void mark() override { marked_ = now_; }
  void unmark() override { marked_.reset(); }
  void reorder(const mx::array& rows) override;
  void shift(int n) override;
  void append_rows(const LayerCache& other) override;
  std::vector<mx::array> arrays() const override { return now_.states; }
  size_t array_count() const override { return of_.size(); }
  void restore(std::vector<mx::array> arrays, int length) override;
  /// Those of a mark included, once they are others.
  size_t bytes() const override;

 private:
  struct Moment {
    std::vector<mx::array> states = {};
    int length = 0;
  };
  bool fit(const std::vector<mx::array>& states) const;

  std::vector<StateArray> of_;
  Moment now_;
  std::optional<Moment> marked_;
};

/// Several memories of one mixer, which see the same positions: a mixer finds the i-th of a kind
/// (Pass::keys, Pass::states). Its arrays are theirs, one part's after another's.
class CompositeCache : public LayerCache {
 public:
  explicit CompositeCache(std::vector<std::unique_ptr<LayerCache>> parts)
      : parts_(std::move(parts)) {}
  std::unique_ptr<LayerCache> clone() const override;

  LayerCache* part(size_t i) { return parts_[i].get(); }
  const LayerCache* part(size_t i) const { return parts_[i].get(); }
  size_t size() const { return parts_.size(); }

  void reserve(int positions) override;
  int length() const override { return parts_.empty() ? 0 : parts_[0]->length(); }
  int trimmable() const override;
  bool can_trim(int n) const override;
  void trim(int n) override;
  void mark() override;
  void unmark() override;
  void reorder(const mx::array& rows) override;
  void shift(int n) override;
  void append_rows(const LayerCache& other) override;
  std::vector<mx::array> arrays() const override;
  size_t array_count() const override;
  void restore(std::vector<mx::array> arrays, int length) override;
  size_t bytes() const override;

 protected:
  std::vector<std::unique_ptr<LayerCache>> parts_;
};

struct CacheOptions {
  /// 0: keys and values as they are. 16: float32 ones as float16. 8 or 4: packed in MLX's affine
  /// format, each row of a head in groups of 64 numbers (32 where 64 does not divide it), as they
  /// are appended: 0.53 or 0.28 of the bytes of 16-bit numbers (0.56, 0.31 in groups of 32).
  int kv_bits = 0;
  /// Every position sees itself and the max_kv - 1 before it at most, and no more are kept; 0: all.
  /// States of recurrent mixers reach back further: neither option changes them.
  int max_kv = 0;
};

/// What a KeyCache holds: of keys alone `append` looks at no values, and the keys are what it gives
/// in their place.
enum class Holds { keys_and_values, keys };

/// All positions, in a buffer that grows by kGrowth positions.
/// @throws Error(usage) for other bits; packed ones at the first append, for heads of numbers that
///   are no multiple of 32.
std::unique_ptr<KeyCache> plain_cache(const CacheOptions& options = {},
                                      Holds holds = Holds::keys_and_values);
/// The last `window` positions, in a ring.
std::unique_ptr<KeyCache> rotating_cache(int window, const CacheOptions& options = {},
                                         Holds holds = Holds::keys_and_values);

inline constexpr int kGrowth = 256;

/// The memory of a whole model: one entry a block, none where a mixer keeps nothing. A value: a
/// copy stays what it was, at the price of a copy of the buffers at the next append.
class Cache {
 public:
  Cache() = default;
  explicit Cache(std::vector<std::unique_ptr<LayerCache>> layers,
                 std::shared_ptr<Runtime> runtime = nullptr);
  Cache(const Cache& other);
  Cache& operator=(const Cache& other);
  Cache(Cache&&) noexcept = default;
  Cache& operator=(Cache&&) noexcept = default;

  bool empty() const { return layers_.empty(); }
  /// Positions seen so far.
  int length() const { return length_; }
  /// Called by the model once a pass: every layer has seen n positions more.
  void advance(int n) { length_ += n; }
  LayerCache* layer(int i) { return layers_[static_cast<size_t>(i)].get(); }
  const LayerCache* layer(int i) const { return layers_[static_cast<size_t>(i)].get(); }
  int layers() const { return static_cast<int>(layers_.size()); }
  /// Rows of the batch it was filled with; 0 before the first pass, or if no layer keeps anything.
  int rows() const;

  void reserve(int positions);
  int trimmable() const;
  bool can_trim(int n) const;
  /// @throws Error(unsupported) if a window or a state has forgotten what lies before; nothing is
  ///   changed then.
  void trim(int n);
  void mark();
  void unmark();
  /// Takes back what lies behind `length`, or behind the mark where it cannot stop between the two.
  /// @return  whether it could; if not, nothing is changed.
  bool rewind(int length);
  void reorder(const mx::array& rows);
  /// Rows of a running batch come and go. The rows of another cache of the same model come behind
  /// these; those that have seen fewer positions get padding at their left, so that all end at the
  /// same place and go on together. A mark is forgotten. Lazy; copies both caches.
  /// @throws Error(mismatch) for a cache of another model or of other CacheOptions, and one that is
  ///   empty; nothing is changed then.
  void join(const Cache& other);
  /// Only these rows stay, in this order, and padding that all of them have goes. Evaluates `pads`;
  /// copies what stays. @throws Error(usage) for no row, or one that is not there.
  void keep(const std::vector<int>& rows);
  std::vector<mx::array> arrays() const;
  size_t bytes() const;
  /// Padding of the rows it was filled with (int32 [B]), kept for the passes to come.
  std::optional<mx::array> pads = {};
  /// Tokens of the whole text, where it is known and rotary frequencies depend on it; those that it
  /// has seen, if they are more.
  int text_length = 0;
  /// As CacheOptions says, for the passes to come.
  int max_kv = 0;

  const std::shared_ptr<Runtime>& runtime() const { return runtime_; }

 private:
  void shift(int n);

  std::vector<std::unique_ptr<LayerCache>> layers_;
  std::shared_ptr<Runtime> runtime_;
  int length_ = 0;
  std::optional<int> marked_ = {};  // a length
};

}  // namespace core
}  // namespace lmxlab
