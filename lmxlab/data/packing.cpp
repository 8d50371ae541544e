#include "lmxlab/data/packing.h"

#include "lmxlab/base/error.h"

#include <algorithm>
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

Batch packed_batch(const std::vector<TokenSample>& samples, const Packing& packing,
                   std::span<const uint32_t> rows) {
  const auto width = static_cast<size_t>(packing.context);
  const size_t size = width * rows.size();
  std::vector<int32_t> inputs(size), targets(size), documents(size, -1), positions(size);
  std::vector<uint8_t> loss(size);
  int64_t tokens = 0;
  for (size_t b = 0; b < rows.size(); ++b) {
    size_t at = b * width;
    int32_t document = 0;
    for (const auto& p : packing.rows[rows[b]]) {
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
  const mx::Shape shape{static_cast<int>(rows.size()), packing.context};
  const auto ints = [&](const std::vector<int32_t>& v) {
    return mx::array(v.data(), shape, mx::int32);
  };
  Batch out{ints(inputs), ints(targets), mx::array(loss.data(), shape, mx::bool_)};
  if (packing.together) out.documents = ints(documents), out.positions = ints(positions);
  out.tokens = tokens;
  return out;
}

}  // namespace lmxlab::data
