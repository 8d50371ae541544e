// A JSON value of our own, so that no third-party type and no heavy header stands in a public
// header. Parsing and printing are nlohmann's (json.cpp) and toml++'s (toml.cpp).
#pragma once

#include "lmxlab/base/error.h"

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lmxlab {

/// null, bool, integer, number, string, array or object; objects keep their order.
class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;

  Json() = default;
  Json(std::nullptr_t) {}
  Json(bool v) : value_(v) {}
  template <std::integral T>
  Json(T v) : value_(static_cast<int64_t>(v)) {}
  Json(double v) : value_(v) {}
  Json(float v);  // by its shortest decimal
  Json(const char* v) : value_(std::string(v)) {}
  Json(std::string_view v) : value_(std::string(v)) {}
  Json(std::string v) : value_(std::move(v)) {}
  Json(Array v) : value_(std::move(v)) {}
  Json(Object v) : value_(std::move(v)) {}
  static Json object(std::initializer_list<Member> members = {}) { return Json(Object(members)); }
  static Json array(Array items = {}) { return Json(std::move(items)); }

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_integer() const { return std::holds_alternative<int64_t>(value_); }
  bool is_number() const { return value_.index() >= 2 && value_.index() <= 4; }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }
  /// "null", "a boolean", "an integer", ... for messages.
  std::string_view type_name() const;

  /// Each throws Error(bad_data) naming what was found. An integral double counts as an integer.
  bool as_bool() const;
  int64_t as_integer() const;
  double as_number() const;
  /// Of an integer beyond int64, which is a number and no integer here: its digits; else null.
  const std::string* digits() const;
  const std::string& as_string() const;
  const Array& as_array() const;
  Array& as_array();
  const Object& as_object() const;
  Object& as_object();

  /// The member, or null if it is absent or this is no object.
  const Json* find(std::string_view key) const;
  Json* find(std::string_view key);
  bool contains(std::string_view key) const { return find(key) != nullptr; }
  /// The member; throws Error(bad_data) if it is absent.
  const Json& at(std::string_view key) const;
  /// The member, added if absent; a null becomes an object.
  Json& operator[](std::string_view key);
  void push_back(Json item);
  void erase(std::string_view key);
  size_t size() const;

  /// Equal as values; the order of an object's members does not matter.
  bool operator==(const Json& other) const;

  /// What becomes of members with one key: the last counts, as in Python and JavaScript, or the
  /// document is refused.
  enum class Repeated { last_counts, error };
  /// @throws Error(bad_data) with `name` and the position.
  static Json parse(std::string_view text, const std::string& name = "JSON",
                    Repeated repeated = Repeated::last_counts);
  /// indent < 0: on one line. Always valid UTF-8: invalid bytes are replaced. NaN and infinities
  /// become null.
  std::string dump(int indent = -1) const;

 private:
  struct Large {  // an integer as it was written
    std::string digits;
    bool operator==(const Large&) const = default;
  };
  friend class JsonBuilder;
  std::variant<std::monostate, bool, int64_t, double, Large, std::string, Array, Object> value_;
};

/// What Python's json module writes and JSON has not: Infinity, -Infinity and NaN as they are, or
/// as transformers 5 spells them, {"__float__": "Infinity"}; numbers here.
/// @throws Error(bad_data) as Json::parse
Json parse_python_json(std::string_view text, const std::string& name = "JSON");

/// A TOML document as a Json object (dates as strings).
/// @throws Error(bad_data) with `name`, line and column.
Json parse_toml(std::string_view text, const std::string& name = "TOML");
/// An object as a TOML document; null members are left out, since TOML has no null.
/// @throws Error(unsupported) for a null in a list.
std::string dump_toml(const Json& object);

/// Sets `value` at a dotted path ("layers.3.mixer.window"; "*" for every element). Objects on the
/// way are made.
/// @throws Error(usage) if the path is malformed, or leads through something that has no members.
void set_path(Json& root, std::string_view path, const Json& value);
/// A value as typed on the command line: JSON if it parses as such, else the text itself.
Json parse_value(std::string_view text);

}  // namespace lmxlab
