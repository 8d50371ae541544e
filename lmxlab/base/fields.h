// One visit() a struct is the only list of its fields; JSON, TOML, --set, equality and help are
// visitors.
//
//   struct Rope {
//     float theta = 10'000;
//     template <class V> void visit(V& v) { v("theta", theta, "base of the frequencies"); }
//   };
//
// Enums give their names by `EnumNames<E>::table`; alternatives of a variant carry `static
// constexpr const char* kind`.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/base/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

namespace lmxlab {

/// Specialize with `static constexpr std::pair<E, const char*> table[]`.
template <class E>
struct EnumNames;

template <class E>
std::string enum_name(E value) {
  for (const auto& [v, name] : EnumNames<E>::table)
    if (v == value) return name;
  throw Error(Kind::internal, "an enumerator without a name");
}
template <class E>
std::vector<std::string> enum_names() {
  std::vector<std::string> out;
  for (const auto& [v, name] : EnumNames<E>::table) out.emplace_back(name);
  return out;
}
template <class E>
std::optional<E> enum_value(std::string_view name) {
  for (const auto& [v, n] : EnumNames<E>::table)
    if (name == n) return v;
  return std::nullopt;
}

namespace fields {

struct Nobody {
  template <class T>
  void operator()(const char*, T&, const char* = "") {}
};
template <class T>
concept Struct = requires(T& t, Nobody& n) {
  t.visit(n);
};
template <class T>
struct IsVariant : std::false_type {};
template <class... Ts>
struct IsVariant<std::variant<Ts...>> : std::true_type {};
template <class T>
concept Variant = IsVariant<T>::value;
template <class T>
concept Optional = requires(T& t) {
  typename T::value_type;
  t.has_value(), t.reset();
}
&&!Variant<T>;
template <class T>
concept List = requires(T& t) {
  typename T::value_type;
  t.begin(), t.size();
}
&&!std::same_as<T, std::string> && !std::same_as<T, Json>;
template <class T>
concept Enum = std::is_enum_v<T>;

template <class T>
Json write(const T& value);

struct Writer {
  Json out = Json::object();
  template <class T>
  void operator()(const char* name, T& value, const char* = "") {
    out.as_object().emplace_back(name, write(value));
  }
};

template <class T>
Json write(const T& value) {
  if constexpr (std::same_as<T, Json> || std::same_as<T, bool> || std::same_as<T, std::string> ||
                std::integral<T> || std::floating_point<T>) {
    return Json(value);
  } else if constexpr (Enum<T>) {
    return Json(enum_name(value));
  } else if constexpr (Variant<T>) {
    return std::visit(
        [](const auto& alternative) {
          Json members = write(alternative);
          Json out = Json::object({{"kind", Json(alternative.kind)}});
          for (auto& m : members.as_object()) out.as_object().push_back(std::move(m));
          return out;
        },
        value);
  } else if constexpr (Optional<T>) {
    return value ? write(*value) : Json();
  } else if constexpr (List<T>) {
    Json::Array items;
    for (const auto& e : value) items.push_back(write(e));
    return Json(std::move(items));
  } else {
    Writer w;
    const_cast<T&>(value).visit(w);  // visit() is written once, for readers and writers
    return std::move(w.out);
  }
}

inline std::string inside(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

template <class T>
void read(const Json& in, T& value, const std::string& path, Problems& problems);
template <class... Ts>
void read_variant(const Json& in, std::variant<Ts...>& value, const std::string& path,
                  Problems& problems);

struct Reader {
  const Json& in;
  const std::string& path;
  Problems& problems;
  std::vector<std::string> known;
  template <class T>
  void operator()(const char* name, T& value, const char* = "") {
    known.emplace_back(name);
    if (const Json* j = in.find(name)) read(*j, value, inside(path, name), problems);
  }
};

/// Absent members keep the struct's defaults, so that saved files stay readable when fields are
/// added.
template <class T>
void read(const Json& in, T& value, const std::string& path, Problems& problems) {
  const auto wrong = [&](const std::string& expected) {
    const std::string found =
        in.is_string() ? "\"" + in.as_string() + "\"" : std::string(in.type_name());
    problems.add((path.empty() ? "the document" : path) + ": expected " + expected + ", got " +
                 found);
  };
  if constexpr (std::same_as<T, Json>) {
    value = in;
  } else if constexpr (std::same_as<T, bool>) {
    in.is_bool() ? void(value = in.as_bool()) : wrong("true or false");
  } else if constexpr (std::same_as<T, std::string>) {
    in.is_string() ? void(value = in.as_string()) : wrong("a string");
  } else if constexpr (std::integral<T>) {
    // 2^53 and more as a double is no exact integer; the bound also keeps the conversion defined.
    const bool whole = in.is_integer() || (in.is_number() && std::abs(in.as_number()) < 9e15 &&
                                           std::trunc(in.as_number()) == in.as_number());
    if (!whole) return wrong("an integer");
    const int64_t n = in.as_integer();
    if (n < static_cast<int64_t>(std::numeric_limits<T>::min()) ||
        (n > 0 && static_cast<uint64_t>(n) > static_cast<uint64_t>(std::numeric_limits<T>::max())))
      return problems.add(path + ": " + std::to_string(n) + " is out of range");
    value = static_cast<T>(n);
  } else if constexpr (std::floating_point<T>) {
    in.is_number() ? void(value = static_cast<T>(in.as_number())) : wrong("a number");
  } else if constexpr (Enum<T>) {
    const auto e = in.is_string() ? enum_value<T>(in.as_string()) : std::nullopt;
    e ? void(value = *e) : wrong("one of " + join(enum_names<T>(), ", "));
  } else if constexpr (Variant<T>) {
    read_variant(in, value, path, problems);
  } else if constexpr (Optional<T>) {
    if (in.is_null()) return value.reset();
    typename T::value_type inner{};
    if (value) inner = *value;
    read(in, inner, path, problems);
    value = std::move(inner);
  } else if constexpr (List<T>) {
    if (!in.is_array()) return wrong("a list");
    const auto& items = in.as_array();
    if constexpr (requires { value.resize(items.size()); }) {
      value.clear();
      value.resize(items.size());
    } else if (items.size() != value.size()) {
      return wrong("a list of " + std::to_string(value.size()));
    }
    for (size_t i = 0; i < items.size(); ++i)
      read(items[i], value[i], inside(path, std::to_string(i)), problems);
  } else {
    if (!in.is_object()) return wrong("a table");
    Reader r{in, path, problems, {}};
    value.visit(r);
    for (const auto& [key, _] : in.as_object())
      if (key != "kind" && std::find(r.known.begin(), r.known.end(), key) == r.known.end())
        problems.add(inside(path, key) + ": unknown key; " + suggestion(key, r.known));
  }
}

/// {"kind": K, ...}. Without a kind, or with the current one, the present alternative is changed in
/// place.
template <class... Ts>
void read_variant(const Json& in, std::variant<Ts...>& value, const std::string& path,
                  Problems& problems) {
  std::string kind = std::visit([](const auto& a) { return std::string(a.kind); }, value);
  if (in.is_string()) {
    kind = in.as_string();
  } else if (in.is_object()) {
    if (const Json* k = in.find("kind")) {
      if (!k->is_string()) return problems.add(inside(path, "kind") + ": expected a string");
      kind = k->as_string();
    }
  } else {
    return problems.add(path + ": expected a table with a kind, got " +
                        std::string(in.type_name()));
  }
  bool found = false;
  const auto attempt = [&]<class A>(std::type_identity<A>) {
    if (found || kind != A::kind) return;
    found = true;
    A next = std::holds_alternative<A>(value) ? std::get<A>(value) : A{};
    if (in.is_object()) read(in, next, path, problems);
    value = std::move(next);
  };
  (attempt(std::type_identity<Ts>{}), ...);
  if (!found) {
    const std::vector<std::string> known{std::string(Ts::kind)...};
    problems.add(inside(path, "kind") + ": \"" + kind + "\" is unknown; " +
                 suggestion(kind, known));
  }
}

}  // namespace fields

template <class T>
Json to_json(const T& value) {
  return fields::write(value);
}

/// Reads into `value`; every fault is added to `problems` with its path.
template <class T>
void from_json(const Json& in, T& value, const std::string& path, Problems& problems) {
  fields::read(in, value, path, problems);
}

/// @throws Error(kind) naming `name` and every fault with its path.
template <class T>
T from_json(const Json& in, const std::string& name, Kind kind = Kind::bad_data) {
  T value{};
  Problems problems;
  fields::read(in, value, "", problems);
  problems.raise(kind, name);
  return value;
}

/// Equality of two structs, field by field (by their JSON form).
template <class T>
bool same_fields(const T& a, const T& b) {
  return to_json(a) == to_json(b);
}

struct FieldHelp {
  std::string name, value, help;
};
struct FieldLister {
  std::vector<FieldHelp> out;
  template <class T>
  void operator()(const char* name, T& value, const char* help = "") {
    out.push_back({name, fields::write(value).dump(), help});
  }
};
/// Name, default and help of each field, for `--help` and the documents.
template <class T>
std::vector<FieldHelp> describe_fields() {
  FieldLister lister;
  T defaults{};
  defaults.visit(lister);
  return std::move(lister.out);
}

}  // namespace lmxlab
