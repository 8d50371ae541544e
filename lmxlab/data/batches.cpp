#include "lmxlab/data/batches.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/random.h"

#include <mlx/allocator.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cstring>
#include <numeric>

namespace lmxlab::data {

BatchIterator batch_iterator(mx::array tokens, int batch, int length, BatchOptions options) {
  return BatchIterator(std::move(tokens), batch, length, options);
}

BatchIterator::BatchIterator(mx::array tokens, int batch, int length, BatchOptions options)
    : tokens_(std::move(tokens)), batch_(batch), length_(length), options_(options) {
  if (tokens_.ndim() != 1 || !mx::issubdtype(tokens_.dtype(), mx::integer))
    throw Error(Kind::usage, "[batches] tokens: expected integers [n]");
  if (batch < 1 || length < 1)
    throw Error(Kind::usage, "[batches] batch and length must be at least 1, got " +
                                 std::to_string(batch) + " and " + std::to_string(length));
  const int64_t needed = static_cast<int64_t>(batch) * length + 1;
  if (static_cast<int64_t>(tokens_.size()) < needed)
    throw Error(Kind::usage, "[batches] a batch of " + std::to_string(batch) + " rows of " +
                                 std::to_string(length) + " tokens needs " +
                                 std::to_string(needed) + " tokens, the data have " +
                                 std::to_string(tokens_.size()) +
                                 ". Use a smaller batch or context, or more data.");
  if (!tokens_.is_available()) mx::eval(tokens_);
  start_epoch();
}

int64_t BatchIterator::windows(int64_t phase) const {
  return (static_cast<int64_t>(tokens_.size()) - 1 - phase) / length_;
}

// The number of batches must not depend on where the cuts lie, or a position would not say what
// follows.
int64_t BatchIterator::batches_per_epoch() const {
  const int64_t least = options_.shuffle ? windows(length_ - 1) : windows(0);
  return std::max<int64_t>(least / batch_, 1);
}

void BatchIterator::start_epoch() {
  if (!options_.shuffle || order_epoch_ == position_.epoch) return;
  HostRandom random(options_.seed, static_cast<uint64_t>(position_.epoch));
  const bool room = windows(length_ - 1) >= batch_;
  phase_ = room ? static_cast<int64_t>(random.below(static_cast<uint64_t>(length_))) : 0;
  order_.resize(static_cast<size_t>(windows(phase_)));
  std::iota(order_.begin(), order_.end(), 0u);
  random.shuffle(order_);
  order_epoch_ = position_.epoch;
}

std::optional<Batch> BatchIterator::next() {
  if (position_.batch >= batches_per_epoch()) ++position_.epoch, position_.batch = 0;
  if (options_.epochs > 0 && position_.epoch >= options_.epochs) return std::nullopt;
  start_epoch();
  const int64_t first = position_.batch++ * batch_;
  if (!options_.shuffle) {
    const auto rows = [&](int64_t shift) {
      return mx::as_strided(tokens_, {batch_, length_}, {length_, 1},
                            static_cast<size_t>(first * length_ + shift));
    };
    return Batch{rows(0), rows(1)};
  }
  const auto width = static_cast<size_t>(length_) + 1;
  const size_t item = mx::size_of(tokens_.dtype());
  mx::array block(mx::allocator::malloc(static_cast<size_t>(batch_) * width * item),
                  {batch_, length_ + 1}, tokens_.dtype());
  const auto* from = tokens_.data<char>();
  auto* to = block.data<char>();
  const auto stride = tokens_.size() > 1 ? tokens_.strides()[0] : 1;
  for (size_t b = 0; b < static_cast<size_t>(batch_); ++b) {
    const int64_t start =
        phase_ + static_cast<int64_t>(order_[static_cast<size_t>(first) + b]) * length_;
    if (stride == 1) {
      std::memcpy(to + b * width * item, from + static_cast<size_t>(start) * item, width * item);
    } else {
      for (size_t i = 0; i < width; ++i)
        std::memcpy(to + (b * width + i) * item,
                    from + (start + static_cast<int64_t>(i)) * stride * static_cast<int64_t>(item),
                    item);
    }
  }
  return Batch{mx::slice(block, {0, 0}, {batch_, length_}),
               mx::slice(block, {0, 1}, {batch_, length_ + 1})};
}

void BatchIterator::restore(const BatchPosition& position) {
  if (position.epoch < 0 || position.batch < 0 || position.batch > batches_per_epoch())
    throw Error(Kind::mismatch, "[batches] position epoch " + std::to_string(position.epoch) +
                                    ", batch " + std::to_string(position.batch) +
                                    ": an epoch has " + std::to_string(batches_per_epoch()) +
                                    " batches. The data changed.");
  position_ = position;
  order_epoch_ = -1;
  start_epoch();
}

}  // namespace lmxlab::data
