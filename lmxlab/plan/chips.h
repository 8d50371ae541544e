// Machines with one memory (and two cards with their own, for contrast): how much it holds and how
// fast it is read.
#pragma once

#include "lmxlab/plan/plan.h"

#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::plan {

struct Chip {
  std::string name;       // "M4 Max"
  int64_t memory = 0;     // GB = 10^9 bytes are what vendors mean by 2^30 here: bytes
  double bandwidth = 0;   // bytes a second
  bool discrete = false;  // a card: its memory is not the machine's
  int year = 0;
};

/// As their makers state them, largest memory of each.
const std::vector<Chip>& chips();
/// By name, "M4 Max" or "m4-max", with "64GB" behind it for less memory than the largest.
/// @throws Error(not_found) naming the nearest.
Chip find_chip(std::string_view name);

/// Of the RAM of a machine; the rest is for the system, other programs, files in its cache, and on
/// a Mac what the graphics memory may not take (Metal's working set is two thirds to three quarters
/// of it).
inline constexpr double kUsableShare = 0.75;
Budget budget_of(const Chip& chip);

/// What is said of a machine with so much memory: parameters, "about 7/28 B" for 16 GB, 30/120 for
/// 64, 60/240 for 128, 90/360 for 192. Two bytes a weight over fifteen sixteenths of the memory,
/// whole billions; at half a byte four times as many. An upper bound: nothing else has room.
struct Rule {
  int64_t sixteen_bits = 0, four_bits = 0;
};
Rule rule_of_thumb(int64_t memory);

/// Tokens a second at most, if each reads the weights once and the cache.
double decode_bound(int64_t bytes_read, double bandwidth);

}  // namespace lmxlab::plan
