#include "lmxlab/data/curriculum.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/random.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

namespace lmxlab::data {
namespace {

// Sources one after another. The position is the number of batches taken, whatever they are of.
class Stages : public BatchSource {
 public:
  struct Stage {
    int64_t batches;  // of the last: any number
    std::function<Batch()> next;
    std::function<void(int64_t taken)> seek;
  };
  explicit Stages(std::vector<Stage> stages) : stages_(std::move(stages)) {}

  Batch next() override {
    while (now_ + 1 < stages_.size() && taken_ - before_ >= stages_[now_].batches)
      before_ += stages_[now_++].batches;
    ++taken_;
    return stages_[now_].next();
  }
  BatchPosition position() const override { return {0, taken_}; }
  void restore(const BatchPosition& p) override {
    if (p.epoch != 0 || p.batch < 0)
      throw Error(Kind::mismatch, "[curriculum] position epoch " + std::to_string(p.epoch) +
                                      ", batch " + std::to_string(p.batch) +
                                      ": expected a count of batches in epoch 0");
    taken_ = p.batch, before_ = 0, now_ = 0;
    while (now_ + 1 < stages_.size() && taken_ - before_ >= stages_[now_].batches)
      before_ += stages_[now_++].batches;
    stages_[now_].seek(taken_ - before_);
    for (size_t i = now_ + 1; i < stages_.size(); ++i) stages_[i].seek(0);
  }

 private:
  std::vector<Stage> stages_;
  size_t now_ = 0;
  int64_t taken_ = 0, before_ = 0;  // batches, and those of earlier stages
};

// Of an iterator with epochs.
template <class Iterator>
Stages::Stage stage(int64_t batches, Iterator iterator) {
  const auto shared = std::make_shared<Iterator>(std::move(iterator));
  return {batches, [shared] { return *shared->next(); },
          [shared](int64_t taken) {
            const auto each = shared->batches_per_epoch();
            shared->restore({taken / each, taken % each});
          }};
}

std::vector<int64_t> ids_of(const mx::array& a) {
  auto wide = mx::contiguous(mx::astype(a, mx::int64));
  mx::eval(wide);
  return {wide.data<int64_t>(), wide.data<int64_t>() + wide.size()};
}

// The tokens of a row that are no padding.
std::vector<int64_t> tokens_of(const Rows& rows, uint32_t row) {
  const auto batch = rows.batch({&row, 1});
  auto ids = ids_of(batch.inputs);
  if (batch.tokens) ids.resize(static_cast<size_t>(*batch.tokens));  // padding stands behind
  return ids;
}

}  // namespace

double Competence::at(int64_t batch) const {
  if (batch >= batches) return 1;
  const double t = static_cast<double>(batch) / static_cast<double>(batches);
  const double least = std::pow(start, power);
  return std::min(1.0, std::pow(t * (1 - least) + least, 1 / power));
}

std::unique_ptr<BatchSource> easiest_first(Rows rows, std::span<const double> difficulty, int batch,
                                           uint64_t seed, const Competence& competence) {
  if (static_cast<int64_t>(difficulty.size()) != rows.count)
    throw Error(Kind::mismatch, "[curriculum] " + std::to_string(rows.count) + " rows have " +
                                    std::to_string(difficulty.size()) + " difficulties");
  if (!(competence.start > 0 && competence.start <= 1 && competence.power > 0))
    throw Error(Kind::usage,
                "[curriculum] start: expected a share above 0, at most 1, and a power above 0");
  RowBatches all(rows, batch, {.shuffle = true, .seed = seed, .epochs = 0});
  std::vector<uint32_t> order(difficulty.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return difficulty[a] < difficulty[b]; });
  const auto number = std::make_shared<int64_t>(0);
  auto draw = [=, rows = std::move(rows)] {
    const double share = competence.at(*number);
    const auto pool = std::clamp<int64_t>(
        static_cast<int64_t>(std::ceil(share * static_cast<double>(rows.count))), batch,
        rows.count);
    // Floyd's sample of different ones.
    HostRandom random(seed, static_cast<uint64_t>(*number));
    std::vector<uint32_t> picked;
    for (int64_t top = pool - batch; top < pool; ++top) {
      auto at = order[random.below(static_cast<uint64_t>(top) + 1)];
      if (std::find(picked.begin(), picked.end(), at) != picked.end())
        at = order[static_cast<size_t>(top)];
      picked.push_back(at);
    }
    ++*number;
    return rows.batch(picked);
  };
  std::vector<Stages::Stage> stages;
  stages.push_back(
      {competence.batches, std::move(draw), [number](int64_t taken) { *number = taken; }});
  stages.push_back(stage(0, std::move(all)));
  return std::make_unique<Stages>(std::move(stages));
}

std::vector<int> growing_lengths(int length, const Growth& growth) {
  if (growth.from < 1 || growth.from >= length)
    throw Error(Kind::usage, "[curriculum] from: expected from 1 to below the context of " +
                                 std::to_string(length) + " tokens, got " +
                                 std::to_string(growth.from));
  if (growth.stages < 1 || growth.batches < growth.stages)
    throw Error(Kind::usage,
                "[curriculum] stages: expected from 1 to the " + std::to_string(growth.batches) +
                    " batches of the curriculum, got " + std::to_string(growth.stages));
  std::vector<int> out;
  for (int s = 0; s < growth.stages; ++s) {
    const int64_t more = int64_t(length - growth.from) * s / growth.stages;
    const int n = growth.from + static_cast<int>(more);
    out.push_back(n >= 8 ? n / 8 * 8 : n);
  }
  return out;
}

std::unique_ptr<BatchSource> growing_windows(const mx::array& tokens, int batch, int length,
                                             uint64_t seed, const Growth& growth) {
  const auto lengths = growing_lengths(length, growth);
  std::vector<Stages::Stage> stages;
  const auto add = [&](int64_t batches, int rows, int n) {
    const auto own = seed + stages.size();
    stages.push_back(stage(
        batches, BatchIterator(tokens, rows, n, {.shuffle = true, .seed = own, .epochs = 0})));
  };
  for (size_t s = 0; s < lengths.size(); ++s) {
    const auto until = [&](size_t i) { return growth.batches * int64_t(i) / growth.stages; };
    const auto rows = std::max<int64_t>(int64_t(batch) * length / lengths[s], 1);
    add(until(s + 1) - until(s), static_cast<int>(rows), lengths[s]);
  }
  add(0, batch, length);
  return std::make_unique<Stages>(std::move(stages));
}

std::vector<double> rarity(const Rows& rows) {
  std::unordered_map<int64_t, int64_t> counts;
  int64_t all = 0;
  for (int64_t i = 0; i < rows.count; ++i)
    for (const auto id : tokens_of(rows, static_cast<uint32_t>(i))) ++counts[id], ++all;
  std::vector<double> out;
  for (int64_t i = 0; i < rows.count; ++i) {
    double sum = 0;
    const auto ids = tokens_of(rows, static_cast<uint32_t>(i));
    for (const auto id : ids)
      sum -= std::log(static_cast<double>(counts.at(id)) / static_cast<double>(all));
    out.push_back(ids.empty() ? 0 : sum / static_cast<double>(ids.size()));
  }
  return out;
}

}  // namespace lmxlab::data
