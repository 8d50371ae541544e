#include "lmxlab/base/json.h"

#include "lmxlab/base/text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <unordered_map>

namespace lmxlab {

using Theirs = nlohmann::json;

// Builds our value from the parser's events: no second document in memory, no recursion, bounded
// depth.
class JsonBuilder : public nlohmann::json_sax<Theirs> {
 public:
  Json root;
  std::string problem;
  Json::Repeated repeated = Json::Repeated::last_counts;

  bool null() override { return put(Json()); }
  bool boolean(bool v) override { return put(Json(v)); }
  bool number_integer(number_integer_t v) override { return put(Json(v)); }
  bool number_unsigned(number_unsigned_t v) override {
    return v > static_cast<uint64_t>(INT64_MAX) ? large(std::to_string(v))
                                                : put(Json(static_cast<int64_t>(v)));
  }
  bool number_float(number_float_t v, const string_t& text) override {
    const bool whole = text.find_first_not_of("-0123456789") == text.npos;
    return whole ? large(text) : put(Json(v));
  }
  bool string(string_t& v) override { return put(Json(std::move(v))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool key(string_t& v) override { return keys_.back() = std::move(v), true; }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) override {
    problem = e.what();
    if (const auto at = problem.find("] "); at != std::string::npos)
      problem = problem.substr(at + 2);
    return false;
  }

 private:
  bool put(Json v) {
    if (stack_.empty()) return root = std::move(v), true;
    auto& top = stack_.back();
    if (top.is_array())
      top.as_array().push_back(std::move(v));
    else
      top.as_object().emplace_back(std::move(keys_.back()), std::move(v));
    return true;
  }
  bool large(std::string digits) {
    Json v;
    v.value_ = Json::Large{std::move(digits)};
    return put(std::move(v));
  }
  bool open(Json v) {
    if (stack_.size() >= 512) return problem = "nested deeper than 512 levels", false;
    stack_.push_back(std::move(v)), keys_.emplace_back();
    return true;
  }
  bool close() {
    Json v = std::move(stack_.back());
    if (v.is_object() && !keep_last(v.as_object())) return false;
    stack_.pop_back(), keys_.pop_back();
    return put(std::move(v));
  }
  bool keep_last(Json::Object& members) {
    std::unordered_map<std::string_view, size_t> first;
    std::vector<bool> drop(members.size());
    bool any = false;
    for (size_t i = 0; i < members.size(); ++i) {
      const auto [at, fresh] = first.emplace(members[i].first, i);
      if (fresh) continue;
      if (repeated == Json::Repeated::error)
        return problem = "the key \"" + members[i].first + "\" stands twice", false;
      members[at->second].second = std::move(members[i].second);
      drop[i] = any = true;
    }
    if (!any) return true;
    Json::Object kept;
    for (size_t i = 0; i < members.size(); ++i)
      if (!drop[i]) kept.push_back(std::move(members[i]));
    members = std::move(kept);
    return true;
  }
  std::vector<Json> stack_;
  std::vector<std::string> keys_;
};

namespace {

void print(const Json& v, std::string& out, int indent, int depth) {
  const auto line = [&](int d) {
    if (indent >= 0) out += '\n', out.append(static_cast<size_t>(indent) * d, ' ');
  };
  if (v.is_array()) {
    const auto& items = v.as_array();
    if (items.empty()) return void(out += "[]");
    // Arrays of plain values stay on one line: shapes and ids read better so.
    const bool flat = std::none_of(items.begin(), items.end(),
                                   [](const Json& e) { return e.is_array() || e.is_object(); });
    out += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) out += flat && indent >= 0 ? ", " : ",";
      if (!flat) line(depth + 1);
      print(items[i], out, indent, depth + 1);
    }
    if (!flat) line(depth);
    out += ']';
  } else if (v.is_object()) {
    const auto& members = v.as_object();
    if (members.empty()) return void(out += "{}");
    out += '{';
    for (size_t i = 0; i < members.size(); ++i) {
      if (i) out += ',';
      line(depth + 1);
      print(Json(members[i].first), out, indent, depth + 1);
      out += indent >= 0 ? ": " : ":";
      print(members[i].second, out, indent, depth + 1);
    }
    line(depth);
    out += '}';
  } else if (v.is_string()) {
    out += Theirs(v.as_string()).dump(-1, ' ', false, Theirs::error_handler_t::replace);
  } else if (v.is_bool()) {
    out += v.as_bool() ? "true" : "false";
  } else if (v.is_integer()) {
    out += std::to_string(v.as_integer());
  } else if (const std::string* digits = v.digits()) {
    out += *digits;
  } else if (v.is_number()) {
    out += Theirs(v.as_number()).dump();
  } else {
    out += "null";
  }
}

[[noreturn]] void wrong_type(const char* expected, const Json& v) {
  throw Error(Kind::bad_data,
              std::string("expected ") + expected + ", got " + std::string(v.type_name()));
}

}  // namespace

Json::Json(float v) : value_(shortest(v)) {}

std::string_view Json::type_name() const {
  static constexpr std::string_view names[] = {"null",     "a boolean", "an integer", "a number",
                                               "a number", "a string",  "an array",   "an object"};
  return names[value_.index()];
}

bool Json::as_bool() const {
  if (const auto* v = std::get_if<bool>(&value_)) return *v;
  wrong_type("a boolean", *this);
}
int64_t Json::as_integer() const {
  if (const auto* v = std::get_if<int64_t>(&value_)) return *v;
  if (const auto* v = std::get_if<double>(&value_))
    if (std::trunc(*v) == *v && std::abs(*v) < 9e15) return static_cast<int64_t>(*v);
  wrong_type("an integer", *this);
}
double Json::as_number() const {
  if (const auto* v = std::get_if<double>(&value_)) return *v;
  if (const auto* v = std::get_if<int64_t>(&value_)) return static_cast<double>(*v);
  if (const auto* v = std::get_if<Large>(&value_)) return std::strtod(v->digits.c_str(), nullptr);
  wrong_type("a number", *this);
}
const std::string* Json::digits() const {
  const auto* v = std::get_if<Large>(&value_);
  return v ? &v->digits : nullptr;
}
const std::string& Json::as_string() const {
  if (const auto* v = std::get_if<std::string>(&value_)) return *v;
  wrong_type("a string", *this);
}
const Json::Array& Json::as_array() const {
  if (const auto* v = std::get_if<Array>(&value_)) return *v;
  wrong_type("an array", *this);
}
Json::Array& Json::as_array() {
  return const_cast<Array&>(std::as_const(*this).as_array());
}
const Json::Object& Json::as_object() const {
  if (const auto* v = std::get_if<Object>(&value_)) return *v;
  wrong_type("an object", *this);
}
Json::Object& Json::as_object() {
  return const_cast<Object&>(std::as_const(*this).as_object());
}

const Json* Json::find(std::string_view key) const {
  if (const auto* members = std::get_if<Object>(&value_))
    for (const auto& [k, v] : *members)
      if (k == key) return &v;
  return nullptr;
}
Json* Json::find(std::string_view key) {
  return const_cast<Json*>(std::as_const(*this).find(key));
}
const Json& Json::at(std::string_view key) const {
  if (const auto* v = find(key)) return *v;
  throw Error(Kind::bad_data, "key \"" + std::string(key) + "\" is missing");
}
Json& Json::operator[](std::string_view key) {
  if (is_null()) value_ = Object{};
  if (auto* v = find(key)) return *v;
  auto& members = as_object();
  return members.emplace_back(std::string(key), Json()).second;
}
void Json::push_back(Json item) {
  if (is_null()) value_ = Array{};
  as_array().push_back(std::move(item));
}
void Json::erase(std::string_view key) {
  if (auto* members = std::get_if<Object>(&value_))
    std::erase_if(*members, [&](const Member& m) { return m.first == key; });
}
size_t Json::size() const {
  if (const auto* v = std::get_if<Array>(&value_)) return v->size();
  if (const auto* v = std::get_if<Object>(&value_)) return v->size();
  return 0;
}

bool Json::operator==(const Json& other) const {
  if (is_object() && other.is_object()) {
    if (size() != other.size()) return false;
    return std::all_of(as_object().begin(), as_object().end(), [&](const Member& m) {
      const auto* theirs = other.find(m.first);
      return theirs && m.second == *theirs;
    });
  }
  if (digits() && other.digits()) return *digits() == *other.digits();
  if (is_number() && other.is_number()) return as_number() == other.as_number();
  return value_ == other.value_;
}

Json Json::parse(std::string_view text, const std::string& name, Repeated repeated) {
  JsonBuilder builder;
  builder.repeated = repeated;
  if (!Theirs::sax_parse(text.begin(), text.end(), &builder))
    throw Error(Kind::bad_data, name + " is not valid JSON: " + builder.problem);
  return std::move(builder.root);
}

std::string Json::dump(int indent) const {
  std::string out;
  print(*this, out, indent, 0);
  return out;
}

namespace {

void set_at(Json& root, const std::vector<std::string>& keys, size_t at, const Json& value) {
  if (at == keys.size()) return void(root = value);
  const std::string& key = keys[at];
  if (root.is_array()) {
    auto& items = root.as_array();
    if (key == "*") {
      for (auto& item : items) set_at(item, keys, at + 1, value);
      return;
    }
    size_t index = items.size();
    const auto [end, code] = std::from_chars(key.data(), key.data() + key.size(), index);
    if (code != std::errc() || end != key.data() + key.size() || index >= items.size())
      throw Error(Kind::usage, "\"" + key + "\" is no element: expected * or an index below " +
                                   std::to_string(items.size()));
    return set_at(items[index], keys, at + 1, value);
  }
  if (!root.is_object() && !root.is_null())
    throw Error(Kind::usage, "\"" + key + "\" leads into " + std::string(root.type_name()));
  set_at(root[key], keys, at + 1, value);
}

}  // namespace

void set_path(Json& root, std::string_view path, const Json& value) {
  const auto keys = split(path, '.');
  if (keys.size() > 64 || std::count(keys.begin(), keys.end(), std::string()) > 0)
    throw Error(Kind::usage,
                "\"" + std::string(path.substr(0, 80)) +
                    "\" is no path: expected up to 64 names with single dots between them");
  set_at(root, keys, 0, value);
}

Json parse_value(std::string_view text) {
  try {
    return Json::parse(text);
  } catch (const Error&) {
    return Json(text);
  }
}

namespace {

constexpr std::string_view kFloatKey = "__float__";
// Longest first: a sign belongs to what follows.
constexpr std::string_view kNoNumbers[] = {"-Infinity", "Infinity", "NaN"};

// {"__float__": "Infinity"} as the number.
void resolve_floats(Json& j) {
  if (j.is_array())
    for (auto& item : j.as_array()) resolve_floats(item);
  if (!j.is_object()) return;
  const Json* word = j.size() == 1 ? j.find(kFloatKey) : nullptr;
  if (word && word->is_string()) {
    const auto& w = word->as_string();
    const double infinity = std::numeric_limits<double>::infinity();
    if (w == "Infinity") return void(j = Json(infinity));
    if (w == "-Infinity") return void(j = Json(-infinity));
    if (w == "NaN") return void(j = Json(std::numeric_limits<double>::quiet_NaN()));
  }
  for (auto& [key, value] : j.as_object()) resolve_floats(value);
}

}  // namespace

Json parse_python_json(std::string_view text, const std::string& name) {
  std::string out;
  bool quoted = false;
  for (size_t i = 0; i < text.size();) {
    if (!quoted) {
      const auto* word = std::find_if(std::begin(kNoNumbers), std::end(kNoNumbers),
                                      [&](auto w) { return text.substr(i).starts_with(w); });
      if (word != std::end(kNoNumbers)) {
        out += "{\"" + std::string(kFloatKey) + "\":\"" + std::string(*word) + "\"}";
        i += word->size();
        continue;
      }
    } else if (text[i] == '\\' && i + 1 < text.size()) {  // an escape and what it escapes
      out += text.substr(i, 2);
      i += 2;
      continue;
    }
    if (text[i] == '"') quoted = !quoted;
    out += text[i++];
  }
  auto json = Json::parse(out, name);
  resolve_floats(json);
  return json;
}

}  // namespace lmxlab
