// Operators, attributes, subscripts and calls, with Python's meaning inside Jinja's sandbox.
// Private.
#pragma once

#include "lmxlab/data/jinja/runtime.h"

namespace lmxlab::data::jinja {

enum class Operator { add, sub, mul, div, floordiv, mod, pow };
std::string_view sign_of(Operator op);

/// @throws Error as Python raises; Error(resource) for results beyond the limits.
Value binary(Runtime& rt, Operator op, const Value& a, const Value& b);
Value negate(Runtime& rt, const Value& v);
Value plus(Runtime& rt, const Value& v);
bool contains(Runtime& rt, const Value& item, const Value& in);

/// getattr(): what the sandbox refuses comes as undefined; none where there is no such attribute.
std::optional<Value> find_attribute(Runtime& rt, const Value& object, std::string_view name);
/// object.name: an attribute, else an element; undefined if there is neither.
Value get_attribute(Runtime& rt, const Value& object, std::string_view name);
/// object[key]: an element, else an attribute; undefined if there is neither.
Value get_item(Runtime& rt, const Value& object, const Value& key);
/// Bounds are integers or none (or missing).
Value slice(Runtime& rt, const Value& object, const Value& start, const Value& stop,
            const Value& step);
Value call(Runtime& rt, const Value& callee, const Arguments& arguments);

/// A method of a built-in type, or null. `unsafe`: it would change the value.
struct Method {
  std::string_view name;
  Value (*run)(Runtime& rt, const Value& self, const Arguments& arguments);
  bool unsafe = false;
};
const Method* find_method(const Value& self, std::string_view name);

/// Escaped for HTML, as markupsafe.escape.
std::string escape_html(std::string_view text);
/// The text of `v` ready to stand beside markup.
std::string escaped(Runtime& rt, const Value& v);

/// format % values, and format.format(...).
Value format_percent(Runtime& rt, const Value& format, const Value& values);
Value format_braces(Runtime& rt, const Value& format, const Arguments& arguments);
/// format(v, spec).
std::string format_value(Runtime& rt, const Value& v, std::string_view spec);

/// float(v), int(v) of texts; none where Python raises ValueError.
std::optional<double> parse_float(std::string_view text);
std::optional<Integer> parse_integer(std::string_view text, int base);
/// As a double. @throws Error if it is no number or too large.
double to_real(Runtime& rt, const Value& v);

}  // namespace lmxlab::data::jinja
