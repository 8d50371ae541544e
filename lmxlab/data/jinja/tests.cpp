// Tests: what stands behind `is`.
#include "lmxlab/data/jinja/filters.h"
#include "lmxlab/data/jinja/unicode.h"

#include <algorithm>

namespace lmxlab::data::jinja {
namespace {

using Args = Arguments;

template <bool (*holds)(Runtime&, const Value&)>
bool plain(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "test", args, {});
  return holds(rt, v);
}
template <bool (*holds)(Runtime&, const Value&, const Value&)>
bool against(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "test", args, {"other"}, 1);
  return holds(rt, v, b[0]);
}

bool remainder_is(Runtime& rt, const Value& v, const Value& by, int64_t wanted) {
  return equal(rt, binary(rt, Operator::mod, v, by), Value::integer(wanted));
}
bool odd(Runtime& rt, const Value& v) {
  return remainder_is(rt, v, Value::integer(2), 1);
}
bool even(Runtime& rt, const Value& v) {
  return remainder_is(rt, v, Value::integer(2), 0);
}
bool divisibleby(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "divisibleby", args, {"num"}, 1);
  return remainder_is(rt, v, b[0], 0);
}
bool defined(Runtime&, const Value& v) {
  return !v.is_undefined();
}
bool undefined(Runtime&, const Value& v) {
  return v.is_undefined();
}
bool is_filter(Runtime& rt, const Value& v) {
  hash(rt, v);  // fails for what cannot be a name
  return v.is_text() && find_filter(v.text());
}
bool is_test(Runtime& rt, const Value& v) {
  hash(rt, v);
  return v.is_text() && find_test(v.text());
}
bool none(Runtime&, const Value& v) {
  return v.is_none();
}
bool boolean(Runtime&, const Value& v) {
  return v.is_bool();
}
bool is_true(Runtime&, const Value& v) {
  return v.is_bool() && v.boolean();
}
bool is_false(Runtime&, const Value& v) {
  return v.is_bool() && !v.boolean();
}
bool integer(Runtime&, const Value& v) {
  return v.is_integer() && !v.is_bool();
}
bool real(Runtime&, const Value& v) {
  return v.is_float();
}
bool number(Runtime&, const Value& v) {
  return v.is_number();
}
bool text(Runtime&, const Value& v) {
  return v.is_text();
}
bool escaped_text(Runtime&, const Value& v) {
  return v.is_markup();
}
bool mapping(Runtime&, const Value& v) {
  return v.is_dict();
}
bool sequence(Runtime& rt, const Value& v) {
  if (v.is_object()) return v.object().has_items() && v.object().length(rt);
  return v.is_text() || v.is_sequence() || v.is_dict() || v.is_undefined();
}
bool iterable(Runtime& rt, const Value& v) {
  return try_iterate(rt, v) != nullptr || v.type_name() == "LoopContext";
}
bool callable(Runtime&, const Value& v) {
  return is_callable(v);
}
template <bool lower>
bool cased(Runtime& rt, const Value& v) {
  const Value s = rt.text(to_text(rt, v));
  return truth(rt, find_method(s, lower ? "islower" : "isupper")->run(rt, s, {}));
}
bool sameas(Runtime&, const Value& a, const Value& b) {
  return a.same(b);
}
bool in(Runtime& rt, const Value& a, const Value& b) {
  return contains(rt, a, b);
}
bool not_equal(Runtime& rt, const Value& a, const Value& b) {
  return !equal(rt, a, b);
}
template <Order order>
bool in_order(Runtime& rt, const Value& a, const Value& b) {
  return ordered(rt, a, b, order);
}

constexpr Test kTests[] = {
    {"odd", plain<odd>},
    {"even", plain<even>},
    {"divisibleby", divisibleby},
    {"defined", plain<defined>},
    {"undefined", plain<undefined>},
    {"filter", plain<is_filter>},
    {"test", plain<is_test>},
    {"none", plain<none>},
    {"boolean", plain<boolean>},
    {"false", plain<is_false>},
    {"true", plain<is_true>},
    {"integer", plain<integer>},
    {"float", plain<real>},
    {"lower", plain<cased<true>>},
    {"upper", plain<cased<false>>},
    {"string", plain<text>},
    {"mapping", plain<mapping>},
    {"number", plain<number>},
    {"sequence", plain<sequence>},
    {"iterable", plain<iterable>},
    {"callable", plain<callable>},
    {"sameas", against<sameas>},
    {"escaped", plain<escaped_text>},
    {"in", against<in>},
    {"==", against<equal>},
    {"eq", against<equal>},
    {"equalto", against<equal>},
    {"!=", against<not_equal>},
    {"ne", against<not_equal>},
    {">", against<in_order<Order::gt>>},
    {"gt", against<in_order<Order::gt>>},
    {"greaterthan", against<in_order<Order::gt>>},
    {">=", against<in_order<Order::ge>>},
    {"ge", against<in_order<Order::ge>>},
    {"<", against<in_order<Order::lt>>},
    {"lt", against<in_order<Order::lt>>},
    {"lessthan", against<in_order<Order::lt>>},
    {"<=", against<in_order<Order::le>>},
    {"le", against<in_order<Order::le>>},
};

}  // namespace

const Test* find_test(std::string_view name) {
  const auto* it = std::find_if(std::begin(kTests), std::end(kTests),
                                [&](const Test& t) { return t.name == name; });
  return it == std::end(kTests) ? nullptr : it;
}

}  // namespace lmxlab::data::jinja
