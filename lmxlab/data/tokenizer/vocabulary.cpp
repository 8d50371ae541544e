#include "lmxlab/data/tokenizer/vocabulary.h"

#include "lmxlab/base/error.h"

#include <unordered_set>

namespace lmxlab::data {

void bad_model(std::string_view model, const std::string& what) {
  throw Error(Kind::bad_data, "[tokenizer] model " + std::string(model) + ": " + what +
                                  ". The file is damaged or was edited; get it again.");
}

Vocabulary::Vocabulary(const TokenList& list, std::string_view model) {
  ids_.reserve(list.size());
  std::unordered_set<int> seen;
  seen.reserve(list.size());
  for (const auto& [token, id] : list) {
    if (!ids_.emplace(token, id).second)
      bad_model(model, "the token \"" + token + "\" stands twice in vocab");
    if (!seen.insert(id).second)
      bad_model(model, "the id " + std::to_string(id) + " stands twice in vocab");
  }
}

}  // namespace lmxlab::data
