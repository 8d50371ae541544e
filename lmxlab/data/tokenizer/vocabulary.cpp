#include "lmxlab/data/tokenizer/vocabulary.h"

#include "lmxlab/base/error.h"

#include <bit>
#include <unordered_set>

namespace lmxlab::data {

void bad_model(std::string_view model, const std::string& what) {
  throw Error(Kind::bad_data, "[tokenizer] model " + std::string(model) + ": " + what +
                                  ". The file is damaged or was edited; get it again.");
}

Vocabulary::Vocabulary(const TokenList& list, std::string_view model)
    : list_(list), slots_(std::bit_ceil(2 * list.size() + 1), -1) {
  std::unordered_set<int> seen;
  seen.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const auto& [token, id] = list[i];
    int32_t& at = slots_[slot(token)];
    if (at >= 0) bad_model(model, "the token \"" + token + "\" stands twice in vocab");
    at = static_cast<int32_t>(i);
    if (!seen.insert(id).second)
      bad_model(model, "the id " + std::to_string(id) + " stands twice in vocab");
  }
}

}  // namespace lmxlab::data
