#include "lmxlab/data/rows.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/random.h"

#include <mlx/allocator.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cstring>
#include <numeric>

namespace lmxlab::data {

Rows window_rows(mx::array tokens, int length) {
  if (tokens.ndim() != 1 || !mx::issubdtype(tokens.dtype(), mx::integer))
    throw Error(Kind::usage, "[rows] tokens: expected integers [n]");
  if (length < 1)
    throw Error(Kind::usage, "[rows] length: expected at least 1, got " + std::to_string(length));
  if (!tokens.is_available()) mx::eval(tokens);
  const auto count = std::max<int64_t>(static_cast<int64_t>(tokens.size()) - 1, 0) / length;
  const size_t width = static_cast<size_t>(length) + 1, item = mx::size_of(tokens.dtype());
  return {
      count, [=](std::span<const uint32_t> rows) -> Batch {
        const int n = static_cast<int>(rows.size());
        mx::array block(mx::allocator::malloc(rows.size() * width * item), {n, length + 1},
                        tokens.dtype());
        const auto stride =
            tokens.size() > 1 ? static_cast<size_t>(tokens.strides()[0]) : size_t{1};
        const auto* from = tokens.data<char>();
        auto* to = block.data<char>();
        for (const uint32_t row : rows) {
          const auto* first = from + row * static_cast<size_t>(length) * stride * item;
          for (size_t i = 0; i < width; i += stride == 1 ? width : 1)
            std::memcpy(to + i * item, first + i * stride * item,
                        stride == 1 ? width * item : item);
          to += width * item;
        }
        return {mx::slice(block, {0, 0}, {n, length}), mx::slice(block, {0, 1}, {n, length + 1})};
      }};
}

Rows packed_rows(std::vector<TokenSample> samples, Packing packing) {
  for (const auto& row : packing.rows)
    for (const auto& p : row)
      if (p.sample >= samples.size() || p.end > samples[p.sample].ids.size() ||
          samples[p.sample].loss.size() != samples[p.sample].ids.size())
        throw Error(Kind::mismatch, "[packing] the packing is of other samples: expected sample " +
                                        std::to_string(p.sample) + " to have " +
                                        std::to_string(p.end) + " tokens and as many marks");
  const auto of = std::make_shared<const std::vector<TokenSample>>(std::move(samples));
  const auto as = std::make_shared<const Packing>(std::move(packing));
  return {static_cast<int64_t>(as->rows.size()),
          [=](std::span<const uint32_t> rows) { return packed_batch(*of, *as, rows); }};
}

RowBatches::RowBatches(Rows rows, int batch, BatchOptions options)
    : rows_(std::move(rows)), batch_(batch), options_(options) {
  if (batch < 1)
    throw Error(Kind::usage, "[rows] batch: expected at least 1, got " + std::to_string(batch));
  if (rows_.count < batch)
    throw Error(Kind::usage, "[rows] a batch of " + std::to_string(batch) +
                                 " is more than the data have: " + std::to_string(rows_.count) +
                                 ". Use a smaller batch or context, or more data.");
}

void RowBatches::start_epoch() {
  if (order_epoch_ == position_.epoch) return;
  order_.resize(static_cast<size_t>(rows_.count));
  std::iota(order_.begin(), order_.end(), 0u);
  if (options_.shuffle)
    HostRandom(options_.seed, static_cast<uint64_t>(position_.epoch)).shuffle(order_);
  order_epoch_ = position_.epoch;
}

std::optional<Batch> RowBatches::next() {
  if (position_.batch >= batches_per_epoch()) ++position_.epoch, position_.batch = 0;
  if (options_.epochs > 0 && position_.epoch >= options_.epochs) return std::nullopt;
  start_epoch();
  const auto first = static_cast<size_t>(position_.batch++ * batch_);
  return rows_.batch(std::span(order_).subspan(first, static_cast<size_t>(batch_)));
}

void RowBatches::restore(const BatchPosition& position) {
  if (position.epoch < 0 || position.batch < 0 || position.batch > batches_per_epoch())
    throw Error(Kind::mismatch, "[rows] position epoch " + std::to_string(position.epoch) +
                                    ", batch " + std::to_string(position.batch) +
                                    ": an epoch has " + std::to_string(batches_per_epoch()) +
                                    " batches. The data changed.");
  position_ = position;
}

HeldOut in_order(Rows rows, int batch) {
  const int64_t size = std::min<int64_t>(batch, rows.count);
  if (size == 0) return {};
  return {(rows.count + size - 1) / size, [rows = std::move(rows), size](int64_t i) {
            std::vector<uint32_t> some(static_cast<size_t>(std::min(size, rows.count - i * size)));
            std::iota(some.begin(), some.end(), static_cast<uint32_t>(i * size));
            return rows.batch(some);
          }};
}

}  // namespace lmxlab::data
