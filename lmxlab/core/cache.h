// Keys and values of past positions, kept for the next pass. They grow in place: a buffer moves
// only at growth steps.
#pragma once

#include "lmxlab/kernels/attention.h"

#include <mlx/array.h>

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

  /// Appends L positions; k, v: [B, K, L, Dh], keys rotated already. Lazy.
  /// The result must be used and dropped before the next append, or that one copies the buffer.
  virtual Keys append(const mx::array& k, const mx::array& v) = 0;
  /// The buffers themselves, with room for n positions more, for whoever writes them in place; then
  /// `give_back` is called. None where they do not lie in order, or have another type.
  virtual std::optional<Loan> lend(int /*n*/, const CacheRow& /*k*/, const CacheRow& /*v*/) {
    return std::nullopt;
  }
  /// Takes them back with n positions more.
  virtual void give_back(mx::array /*k*/, mx::array /*v*/, int /*n*/) {}
  /// Room for this many positions from the next growth on, to grow once. A window keeps its own
  /// limit.
  virtual void reserve(int positions) = 0;
  /// Positions seen so far.
  virtual int length() const = 0;
  /// The most positions that `trim` can take back now.
  virtual int trimmable() const = 0;
  /// Takes back the last n positions. @throws Error(unsupported) if n > trimmable().
  virtual void trim(int n) = 0;
  /// Row i becomes row rows[i]; the batch may shrink or grow. Lazy.
  virtual void reorder(const mx::array& rows) = 0;
  /// Its arrays, to be evaluated together with the logits. Empty before the first append.
  virtual std::vector<mx::array> arrays() const = 0;
  /// Restores what `arrays` and `length` gave. @throws Error(mismatch)
  virtual void restore(std::vector<mx::array> arrays, int length) = 0;
  /// Bytes of its buffers, as allocated.
  virtual size_t bytes() const = 0;
};

struct CacheOptions {
  /// 0: keys and values as they are. 16: float32 ones as float16. 8 or 4: packed in MLX's affine
  /// format, each row of a head in groups of 64 numbers (32 where 64 does not divide it), as they
  /// are appended: 0.53 or 0.28 of the bytes of 16-bit numbers (0.56, 0.31 in groups of 32).
  int kv_bits = 0;
  /// Every position sees itself and the max_kv - 1 before it at most, and no more are kept; 0: all.
  int max_kv = 0;
};

/// All positions, in a buffer that grows by kGrowth positions.
/// @throws Error(usage) for other bits; packed ones at the first append, for heads of numbers that
///   are no multiple of 32.
std::unique_ptr<LayerCache> plain_cache(const CacheOptions& options = {});
/// The last `window` positions, in a ring.
std::unique_ptr<LayerCache> rotating_cache(int window, const CacheOptions& options = {});

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
  /// Called by the model once a pass: every layer has appended n positions.
  void advance(int n) { length_ += n; }
  LayerCache* layer(int i) { return layers_[static_cast<size_t>(i)].get(); }
  const LayerCache* layer(int i) const { return layers_[static_cast<size_t>(i)].get(); }
  int layers() const { return static_cast<int>(layers_.size()); }
  /// Rows of the batch it was filled with; 0 before the first pass, or if nothing keeps keys.
  int rows() const;

  void reserve(int positions);
  int trimmable() const;
  /// @throws Error(unsupported) if a window has forgotten what lies before; nothing is changed
  ///   then.
  void trim(int n);
  void reorder(const mx::array& rows);
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
  std::vector<std::unique_ptr<LayerCache>> layers_;
  std::shared_ptr<Runtime> runtime_;
  int length_ = 0;
};

}  // namespace core
}  // namespace lmxlab
