// TOML in and out, by toml++.
#include "lmxlab/base/json.h"

// What toml++ asserts of a file is no bug of ours ("[~" breaks it), and what it then assumes in
// release builds is undefined; without either it goes on to its own error.
#undef NDEBUG
#define TOML_ASSERT(condition) static_cast<void>(0)
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <sstream>

namespace lmxlab {
namespace {

Json ours(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table: {
      Json::Object members;
      // toml++ sorts keys; the order in the file is by source position.
      for (const auto& [key, value] : *node.as_table())
        members.emplace_back(std::string(key.str()), ours(value));
      return Json(std::move(members));
    }
    case toml::node_type::array: {
      Json::Array items;
      for (const auto& e : *node.as_array()) items.push_back(ours(e));
      return Json(std::move(items));
    }
    case toml::node_type::string: return Json(node.as_string()->get());
    case toml::node_type::integer: return Json(node.as_integer()->get());
    case toml::node_type::floating_point: return Json(node.as_floating_point()->get());
    case toml::node_type::boolean: return Json(node.as_boolean()->get());
    default: {
      std::ostringstream out;
      node.visit([&](const auto& v) {
        if constexpr (toml::is_date<decltype(v)> || toml::is_time<decltype(v)> ||
                      toml::is_date_time<decltype(v)>)
          out << v.get();
      });
      return Json(out.str());
    }
  }
}

/// toml++ bounds the nesting of values, but not the parts of a dotted key, whose tables it destroys
/// by recursion.
bool keys_too_deep(std::string_view text) {
  constexpr int kDeepest = 32;
  int dots = 0;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '#') {
      i = text.find('\n', i);
      if (i == std::string_view::npos) return false;
    } else if (c == '"' || c == '\'') {
      const std::string_view three = text.substr(i, 3);
      const bool lines = three.size() == 3 && three[1] == c && three[2] == c;
      const std::string_view mark = lines ? three : text.substr(i, 1);
      for (i += mark.size(); i < text.size() && !text.substr(i).starts_with(mark); ++i) {
        if (c == '"' && text[i] == '\\') ++i;
        if (!lines && i < text.size() && text[i] == '\n') break;
      }
      i = std::min(text.size(), i + mark.size());
    } else {
      if (c == '.' && ++dots > kDeepest) return true;
      if (std::string_view("=,[]{}\n").find(c) != std::string_view::npos) dots = 0;
      ++i;
    }
  }
  return false;
}

bool inline_only(const Json& v) {
  if (v.is_object()) return false;
  if (!v.is_array() || v.size() == 0) return true;
  for (const auto& e : v.as_array())
    if (!e.is_object()) return true;
  return false;
}

void print_value(const Json& v, std::string& out);

void print_key(const std::string& key, std::string& out) {
  const bool bare = !key.empty() && key.find_first_not_of(
                                        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                        "0123456789_-") == std::string::npos;
  if (bare)
    out += key;
  else
    print_value(Json(key), out);
}

void print_value(const Json& v, std::string& out) {
  if (v.is_array()) {
    out += '[';
    bool first = true;
    for (const auto& e : v.as_array()) {
      if (!first) out += ", ";
      print_value(e, out), first = false;
    }
    out += ']';
  } else if (v.is_object()) {
    out += "{ ";
    bool first = true;
    for (const auto& [key, e] : v.as_object()) {
      if (e.is_null()) continue;
      if (!first) out += ", ";
      print_key(key, out), out += " = ", print_value(e, out), first = false;
    }
    out += " }";
  } else if (v.is_number() && !v.is_integer()) {
    const double d = v.as_number();
    if (std::isnan(d)) {
      out += "nan";
    } else if (std::isinf(d)) {
      out += d < 0 ? "-inf" : "inf";
    } else {
      std::string text = v.dump();
      if (text.find_first_of(".eE") == std::string::npos) text += ".0";
      out += text;
    }
  } else if (v.is_null()) {
    throw Error(Kind::unsupported, "[toml] a list with a null in it: TOML has no null");
  } else {
    const std::string text =
        v.dump();  // JSON's strings, integers and booleans are TOML's, but for a bare DEL
    for (const char c : text) {
      if (c == '\x7f')
        out += "\\u007F";
      else
        out += c;
    }
  }
}

void print_table(const Json& table, const std::string& path, std::string& out) {
  for (const auto& [key, v] : table.as_object()) {
    if (v.is_null() || !inline_only(v)) continue;
    print_key(key, out), out += " = ", print_value(v, out), out += '\n';
  }
  for (const auto& [key, v] : table.as_object()) {
    if (v.is_null() || inline_only(v)) continue;
    std::string inner = path;
    if (!inner.empty()) inner += '.';
    print_key(key, inner);
    if (v.is_object()) {
      if (!out.empty()) out += '\n';
      out += "[" + inner + "]\n";
      print_table(v, inner, out);
    } else {
      for (const auto& e :
           v.as_array()) {  // a list of tables: members inline, for one screen a model
        out += "\n[[" + inner + "]]\n";
        for (const auto& [k, member] : e.as_object()) {
          if (member.is_null()) continue;
          print_key(k, out), out += " = ", print_value(member, out), out += '\n';
        }
      }
    }
  }
}

}  // namespace

Json parse_toml(std::string_view text, const std::string& name) {
  if (keys_too_deep(text))
    throw Error(Kind::bad_data, name + " is not valid TOML: a key has more than 32 parts");
  try {
    return ours(toml::parse(text));
  } catch (const toml::parse_error& e) {
    std::ostringstream where;
    where << "line " << e.source().begin.line << ", column " << e.source().begin.column;
    throw Error(Kind::bad_data, name + " is not valid TOML: " + std::string(e.description()) +
                                    " (" + where.str() + ")");
  }
}

std::string dump_toml(const Json& object) {
  std::string out;
  print_table(object, "", out);
  return out;
}

}  // namespace lmxlab
