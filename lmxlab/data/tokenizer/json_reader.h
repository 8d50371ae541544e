// Reading JSON objects of a known form, with the place of whatever is wrong. Private.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/data/tokenizer/vocabulary.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>

namespace lmxlab::data {

[[noreturn]] inline void bad_place(const std::string& path, const std::string& what) {
  throw Error(Kind::bad_data, "[tokenizer] " + path + ": " + what);
}
[[noreturn]] inline void unsupported_place(const std::string& path, const std::string& what) {
  throw Error(Kind::unsupported, "[tokenizer] " + path + ": " + what +
                                     " is not supported. Use a tokenizer.json without it.");
}
inline std::string inside(const std::string& path, std::string_view key) {
  return path + "." + std::string(key);
}

/// An object, with the places of its members for messages, that knows which of them are understood.
class Reader {
 public:
  Reader(const Json& in, std::string path, std::initializer_list<std::string_view> known)
      : in_(in), path_(std::move(path)) {
    if (!in.is_object()) bad_place(path_, "expected an object, got " + std::string(in.type_name()));
    for (const auto& [key, value] : in.as_object())
      if (!value.is_null() && std::find(known.begin(), known.end(), key) == known.end())
        unsupported_place(path_, "the key \"" + key + "\"");
  }
  const std::string& path() const { return path_; }
  std::string at(std::string_view key) const { return inside(path_, key); }
  /// The member, or null if it is absent or null.
  const Json* get(std::string_view key) const {
    const Json* j = in_.find(key);
    return j && !j->is_null() ? j : nullptr;
  }
  const Json& need(std::string_view key) const {
    if (const Json* j = get(key)) return *j;
    bad_place(path_, "\"" + std::string(key) + "\" is missing");
  }
  bool flag(std::string_view key, bool otherwise) const {
    const Json* j = get(key);
    if (!j) return otherwise;
    if (!j->is_bool())
      bad_place(at(key), "expected true or false, got " + std::string(j->type_name()));
    return j->as_bool();
  }
  const std::string& text(std::string_view key) const { return text_of(need(key), at(key)); }
  std::string text_or(std::string_view key, std::string_view otherwise) const {
    return get(key) ? text(key) : std::string(otherwise);
  }
  const Json::Array& list(std::string_view key) const { return list_of(need(key), at(key)); }
  /// An integer from 0 to 2^31 - 1.
  size_t count(std::string_view key) const { return count_of(need(key), at(key)); }
  int id(std::string_view key) const { return id_of(need(key), at(key)); }

  static const std::string& text_of(const Json& j, const std::string& path) {
    if (!j.is_string()) bad_place(path, "expected a string, got " + std::string(j.type_name()));
    return j.as_string();
  }
  static const Json::Array& list_of(const Json& j, const std::string& path) {
    if (!j.is_array()) bad_place(path, "expected a list, got " + std::string(j.type_name()));
    return j.as_array();
  }
  static int id_of(const Json& j, const std::string& path) {
    if (!j.is_integer() || j.as_integer() < 0 || j.as_integer() >= kLargestId)
      bad_place(path,
                "expected an id from 0 to " + std::to_string(kLargestId - 1) + ", got " + shown(j));
    return static_cast<int>(j.as_integer());
  }
  static size_t count_of(const Json& j, const std::string& path) {
    if (!j.is_integer() || j.as_integer() < 0 || j.as_integer() > 0x7FFFFFFF)
      bad_place(path, "expected an integer from 0 to 2147483647, got " + shown(j));
    return static_cast<size_t>(j.as_integer());
  }

 private:
  static std::string shown(const Json& j) {
    return j.is_integer() ? std::to_string(j.as_integer()) : std::string(j.type_name());
  }
  const Json& in_;
  std::string path_;
};

}  // namespace lmxlab::data
