// FNV-1a of 64 bits (Fowler, Noll, Vo): names files and tells versions apart; keeps nobody out.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace lmxlab {

class Fnv {
 public:
  explicit Fnv(uint64_t basis = 0xcbf29ce484222325) : hash_(basis) {}
  Fnv& add(std::string_view bytes) {
    for (const unsigned char c : bytes) hash_ = (hash_ ^ c) * 0x100000001b3;
    return *this;
  }
  uint64_t value() const { return hash_; }
  /// 16 hexadecimal digits.
  std::string digits() const {
    char out[17];
    std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(hash_));
    return out;
  }

 private:
  uint64_t hash_;
};

}  // namespace lmxlab
