// What is put around one sequence or two: the post-processors of tokenizer.json, and its truncation
// and padding. Private.
#pragma once

#include "lmxlab/data/tokenizer.h"
#include "lmxlab/data/tokenizer/pre_tokenizer.h"

#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace lmxlab::data {

/// BertProcessing: cls A sep, cls A sep B sep with types 0 and 1.
struct BertProcessing {
  std::pair<std::string, int> sep, cls;
};
/// RobertaProcessing: cls A sep, cls A sep sep B sep, all of type 0.
struct RobertaProcessing {
  std::pair<std::string, int> sep, cls;
  bool trim_offsets = true, add_prefix_space = true;
};
struct Template {
  struct Item {
    std::string token;  // empty: a sequence
    int type_id = 0;
    bool second = false;  // which one
  };
  struct Special {
    std::string name;
    std::vector<int> ids;
    std::vector<std::string> tokens;
  };
  std::vector<Item> single, pair;
  std::vector<Special> special_tokens;
  const Special* find(std::string_view name) const;
};
using PostProcessor = std::variant<ByteLevel, BertProcessing, RobertaProcessing, Template>;

struct Truncation {
  enum class Strategy { longest_first, only_first, only_second };
  size_t max_length = 512, stride = 0;
  Strategy strategy = Strategy::longest_first;
  bool left = false;
};
struct Padding {
  std::optional<size_t> fixed;  // else as long as it is
  std::optional<size_t> multiple_of;
  int id = 0, type_id = 0;
  std::string token = "[PAD]";
  bool left = false;
};

/// Tokens that `steps` put around one sequence, or two.
size_t added_count(const std::vector<PostProcessor>& steps, bool pair);
/// @param special  also what is put around; else only types are set.
/// @throws Error(unsupported) where steps contradict each other.
Encoding process(const std::vector<PostProcessor>& steps, std::vector<Encoding> sequences,
                 bool special);
/// @param reserved  how many tokens are put around.
/// @throws Error(usage) if the strategy cannot make it short enough.
void truncate(const Truncation& t, std::vector<Encoding>& sequences, size_t reserved);
/// @throws Error(resource) if the length is absurd.
void pad(const Padding& p, Encoding& encoding);

}  // namespace lmxlab::data
