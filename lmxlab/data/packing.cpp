#include "lmxlab/data/packing.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/random.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>

namespace lmxlab::data {

double Packing::fill() const {
  const auto places = static_cast<double>(rows.size()) * context;
  return places > 0 ? static_cast<double>(tokens) / places : 0;
}

Packing pack(std::span<const size_t> lengths, int context, const PackOptions& options) {
  if (context < 1)
    throw Error(Kind::usage,
                "[packing] context: expected at least 1, got " + std::to_string(context));
  const auto width = static_cast<size_t>(context);
  Packing out{context};
  out.together = options.together;
  std::vector<PackedPiece> pieces;
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] > width && !options.cut) {
      ++out.dropped;
      continue;
    }
    out.cut += lengths[i] > width;
    for (size_t at = 0; at < lengths[i]; at += width)
      pieces.push_back({i, at, std::min(at + width, lengths[i])});
  }
  const auto size = [](const PackedPiece& p) { return p.end - p.begin; };
  if (options.together)
    std::stable_sort(pieces.begin(), pieces.end(),
                     [&](const auto& a, const auto& b) { return size(a) > size(b); });
  std::set<std::pair<size_t, size_t>> room;  // that rows have left, and the row
  for (const auto& p : pieces) {
    out.tokens += static_cast<int64_t>(size(p));
    const auto best = room.lower_bound({size(p), 0});
    size_t row = out.rows.size(), left = width;
    if (options.together && best != room.end()) {
      std::tie(left, row) = *best;
      room.erase(best);
    } else {
      out.rows.emplace_back();
    }
    out.rows[row].push_back(p);
    if (left > size(p)) room.emplace(left - size(p), row);
  }
  return out;
}

Packing pack(const std::vector<TokenSample>& samples, int context, const PackOptions& options) {
  std::vector<size_t> lengths;
  for (const auto& s : samples) lengths.push_back(s.ids.size());
  return pack(lengths, context, options);
}

Batch packed_batch(const std::vector<TokenSample>& samples, const Packing& packing, int64_t first,
                   int count, std::span<const uint32_t> order) {
  const auto rows = static_cast<size_t>(count), width = static_cast<size_t>(packing.context);
  const size_t size = width * rows;
  std::vector<int32_t> inputs(size), targets(size), documents(size, -1), positions(size);
  std::vector<uint8_t> loss(size);
  int64_t tokens = 0;
  for (size_t b = 0; b < rows; ++b) {
    size_t at = b * width;
    int32_t document = 0;
    const size_t row = static_cast<size_t>(first) + b;
    for (const auto& p : packing.rows[order.empty() ? row : order[row]]) {
      const TokenSample& s = samples[p.sample];
      tokens += static_cast<int64_t>(p.end - p.begin);
      for (size_t i = p.begin; i < p.end; ++i, ++at) {
        inputs[at] = s.ids[i];
        documents[at] = document;
        positions[at] = static_cast<int32_t>(i - p.begin);
        if (i + 1 == p.end) continue;
        targets[at] = s.ids[i + 1];
        loss[at] = s.loss[i + 1];
      }
      ++document;
    }
  }
  const mx::Shape shape{count, packing.context};
  const auto ints = [&](const std::vector<int32_t>& v) {
    return mx::array(v.data(), shape, mx::int32);
  };
  Batch out{ints(inputs), ints(targets), mx::array(loss.data(), shape, mx::bool_)};
  if (packing.together) out.documents = ints(documents), out.positions = ints(positions);
  out.tokens = tokens;
  return out;
}

PackedBatches::PackedBatches(std::vector<TokenSample> samples, Packing packing, int batch,
                             BatchOptions options)
    : samples_(std::move(samples)), packing_(std::move(packing)), batch_(batch), options_(options) {
  if (batch < 1)
    throw Error(Kind::usage, "[packing] batch: expected at least 1, got " + std::to_string(batch));
  if (packing_.rows.size() < static_cast<size_t>(batch))
    throw Error(Kind::usage,
                "[packing] a batch of " + std::to_string(batch) +
                    " rows is more than the samples fill: " + std::to_string(packing_.rows.size()) +
                    ". Use a smaller batch or context, or more samples.");
  for (const auto& row : packing_.rows)
    for (const auto& p : row)
      if (p.sample >= samples_.size() || p.end > samples_[p.sample].ids.size() ||
          samples_[p.sample].loss.size() != samples_[p.sample].ids.size())
        throw Error(Kind::mismatch, "[packing] the packing is of other samples: expected sample " +
                                        std::to_string(p.sample) + " to have " +
                                        std::to_string(p.end) + " tokens and as many marks");
}

int64_t PackedBatches::batches_per_epoch() const {
  return static_cast<int64_t>(packing_.rows.size()) / batch_;
}

void PackedBatches::start_epoch() {
  if (order_epoch_ == position_.epoch) return;
  order_.resize(packing_.rows.size());
  std::iota(order_.begin(), order_.end(), 0u);
  if (options_.shuffle) {
    HostRandom random(options_.seed, static_cast<uint64_t>(position_.epoch));
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.below(i)]);
  }
  order_epoch_ = position_.epoch;
}

std::optional<Batch> PackedBatches::next() {
  if (position_.batch >= batches_per_epoch()) ++position_.epoch, position_.batch = 0;
  if (options_.epochs > 0 && position_.epoch >= options_.epochs) return std::nullopt;
  start_epoch();
  const int64_t first = position_.batch++ * batch_;
  return packed_batch(samples_, packing_, first, batch_, order_);
}

void PackedBatches::restore(const BatchPosition& position) {
  if (position.epoch < 0 || position.batch < 0 || position.batch > batches_per_epoch())
    throw Error(Kind::mismatch, "[packing] position epoch " + std::to_string(position.epoch) +
                                    ", batch " + std::to_string(position.batch) +
                                    ": an epoch has " + std::to_string(batches_per_epoch()) +
                                    " batches. The data changed.");
  position_ = position;
}

}  // namespace lmxlab::data
