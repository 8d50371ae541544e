#include "lmxlab/plan/chips.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"

#include <algorithm>
#include <cctype>

namespace lmxlab::plan {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// Lower case, letters and digits alone.
std::string plain(std::string_view text) {
  std::string out;
  for (const char c : text)
    if (std::isalnum(static_cast<unsigned char>(c)))
      out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

const std::vector<Chip>& chips() {
  static const auto apple = [](const char* name, int memory, double rate, int year) {
    return Chip{name, memory * kGiB, rate * 1e9, false, year};
  };
  static const std::vector<Chip> all{apple("M1", 16, 68.25, 2020),
                                     apple("M1 Pro", 32, 200, 2021),
                                     apple("M1 Max", 64, 400, 2021),
                                     apple("M1 Ultra", 128, 800, 2022),
                                     apple("M2", 24, 100, 2022),
                                     apple("M2 Pro", 32, 200, 2023),
                                     apple("M2 Max", 96, 400, 2023),
                                     apple("M2 Ultra", 192, 800, 2023),
                                     apple("M3", 24, 100, 2023),
                                     apple("M3 Pro", 36, 150, 2023),
                                     apple("M3 Max", 128, 400, 2023),
                                     apple("M3 Ultra", 512, 819, 2025),
                                     apple("M4", 32, 120, 2024),
                                     apple("M4 Pro", 64, 273, 2024),
                                     apple("M4 Max", 128, 546, 2024),
                                     apple("M5", 32, 153, 2025),
                                     {"A100", 80 * kGiB, 2039e9, true, 2020},
                                     {"H100", 80 * kGiB, 3350e9, true, 2022}};
  return all;
}

Chip find_chip(std::string_view name) {
  auto wanted = plain(name);
  std::vector<std::string> names;
  const Chip* best = nullptr;
  for (const auto& c : chips()) {
    names.push_back(c.name);
    if (wanted.starts_with(plain(c.name)) && (!best || c.name.size() > best->name.size()))
      best = &c;
  }
  if (!best)
    throw Error(Kind::not_found, "[fit] there is no chip \"" + std::string(name) +
                                     "\" in the table; " + suggestion(std::string(name), names));
  auto chip = *best;
  auto rest = wanted.substr(plain(chip.name).size());
  if (rest.empty()) return chip;
  if (rest.ends_with("gb")) rest.resize(rest.size() - 2);
  if (rest.empty() || rest.size() > 4 ||
      !std::all_of(rest.begin(), rest.end(), [](unsigned char c) { return std::isdigit(c); }))
    throw Error(Kind::usage, "[fit] \"" + std::string(name) +
                                 "\": expected a chip and its memory, as in \"" + chip.name +
                                 " 32GB\"");
  const int64_t memory = std::stoll(rest) * kGiB;
  if (memory < kGiB || memory > chip.memory)
    throw Error(Kind::usage, "[fit] " + chip.name + " has at most " +
                                 std::to_string(chip.memory / kGiB) + " GB, not " + rest);
  chip.memory = memory;
  return chip;
}

Budget budget_of(const Chip& chip) {
  const auto gb = std::to_string(chip.memory / kGiB) + " GB";
  if (chip.discrete)
    return {static_cast<int64_t>(0.95 * double(chip.memory)), "95 % of the card's " + gb};
  return {static_cast<int64_t>(kUsableShare * double(chip.memory)), "75 % of " + gb};
}

Rule rule_of_thumb(int64_t memory) {
  constexpr int64_t kBillion = 1'000'000'000;
  const int64_t billions = memory / kGiB * 15 / 32;
  return {billions * kBillion, 4 * billions * kBillion};
}

double decode_bound(int64_t bytes_read, double bandwidth) {
  return bytes_read > 0 ? bandwidth / double(bytes_read) : 0;
}

}  // namespace lmxlab::plan
