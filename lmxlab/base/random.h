// Counter-based random numbers on the host, the same on every machine: the standard library's
// shuffles differ.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace lmxlab {

/// SplitMix64 (Steele, Lea, Flood 2014): a sequence from any seed.
class HostRandom {
 public:
  explicit HostRandom(uint64_t seed, uint64_t stream = 0)
      : state_(seed + mix(stream + 0x632BE59BD9B4E019ull)) {}
  uint64_t next() { return mix(state_ += 0x9E3779B97F4A7C15ull); }
  /// Uniform in [0, n), n >= 1, without bias.
  uint64_t below(uint64_t n) {
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t x = next();
    while (x >= limit) x = next();
    return x % n;
  }

  /// Every order is as likely (Fisher-Yates).
  template <class T>
  void shuffle(std::vector<T>& all) {
    for (size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[below(i)]);
  }

 private:
  static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

}  // namespace lmxlab
