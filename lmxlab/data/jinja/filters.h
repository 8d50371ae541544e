// Jinja's filters, tests and globals by name. Private.
#pragma once

#include "lmxlab/data/jinja/operators.h"

namespace lmxlab::data::jinja {

struct Filter {
  std::string_view name;
  Value (*run)(Runtime& rt, const Value& value, const Arguments& arguments);
};
struct Test {
  std::string_view name;
  bool (*run)(Runtime& rt, const Value& value, const Arguments& arguments);
};

/// Null if there is none of this name.
const Filter* find_filter(std::string_view name);
const Test* find_test(std::string_view name);
/// range, dict, namespace, raise_exception, ...
std::vector<std::pair<std::string, Value>> make_globals(Runtime& rt);

/// What namespace() makes: attributes that `set` may change.
class Namespace : public Object, public Runtime::Kept {
 public:
  std::string_view type_name() const override { return "Namespace"; }
  std::string repr(Runtime& rt) const override;
  std::optional<Value> attribute(Runtime& rt, std::string_view name, const Value& self) override;
  bool truth(Runtime&) override { return true; }
  /// @throws Error if the name begins with an underscore.
  void set(Runtime& rt, const std::string& name, const Value& value);
  void drop() override { members_.clear(); }

 private:
  std::vector<std::pair<std::string, Value>> members_;
};

/// json.dumps; indent none: on one line.
std::string to_json_text(Runtime& rt, const Value& v, bool ensure_ascii, const Value& indent,
                         std::string_view item_separator, std::string_view key_separator,
                         bool sort_keys);
/// pprint.pformat.
std::string pretty(Runtime& rt, const Value& v);

// The tables, in three files by subject.
extern const std::vector<Filter> kTextFilters, kSequenceFilters, kValueFilters;

}  // namespace lmxlab::data::jinja
