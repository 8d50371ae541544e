// Evaluating expressions.
#include "lmxlab/data/jinja/filters.h"
#include "lmxlab/data/jinja/interpreter.h"

#include <algorithm>

namespace lmxlab::data::jinja {

// Small, since it stands on the stack once for every level of an expression.
Value Interpreter::eval(const Expr& e, Activation& act) {
  using K = Expr::Kind;
  step();
  switch (e.kind) {
    case K::constant:
    case K::data: return e.value;
    case K::name:
    case K::member: {
      const Value& v = act.at(e.slot);
      return v.is_missing() ? undefined_name(e.name) : v;
    }
    default: break;
  }
  const Level level(*this);
  switch (e.kind) {
    case K::tuple:
    case K::list: return eval_items(e, act);
    case K::dict: return eval_dict(e, act);
    case K::conditional: return eval_conditional(e, act);
    case K::logical_or:
    case K::logical_and:
    case K::logical_not: return eval_logical(e, act);
    case K::negate: return negate(*this, eval(*e.items[0], act));
    case K::plus: return plus(*this, eval(*e.items[0], act));
    case K::binary: return eval_binary(e, act);
    case K::compare: return eval_compare(e, act);
    case K::concat: return eval_concat(e, act);
    case K::attribute:
    case K::item: return eval_subscript(e, act);
    case K::slice: return eval_slice(e, act);
    case K::call: return eval_call(e, act);
    case K::filter: return eval_filter(e, act);
    case K::test: return eval_test(e, act);
    default: return Value(None{});
  }
}

Value Interpreter::eval_items(const Expr& e, Activation& act) {
  std::vector<Value> items;
  items.reserve(e.items.size());
  for (const auto& item : e.items) items.push_back(eval(*item, act));
  return e.kind == Expr::Kind::tuple ? tuple(std::move(items)) : list(std::move(items));
}

Value Interpreter::eval_dict(const Expr& e, Activation& act) {
  DictBuilder out(*this);
  for (size_t i = 0; i < e.items.size(); i += 2) {
    const Value key = eval(*e.items[i], act);
    out.set(key, eval(*e.items[i + 1], act));
  }
  return out.finish();
}

Value Interpreter::eval_conditional(const Expr& e, Activation& act) {
  if (truth(*this, eval(*e.items[0], act))) return eval(*e.items[1], act);
  if (e.items[2]) return eval(*e.items[2], act);
  return undefined("the inline if-expression on line " + std::to_string(e.line) +
                   " evaluated to false and no else section was defined.");
}

Value Interpreter::eval_logical(const Expr& e, Activation& act) {
  Value left = eval(*e.items[0], act);
  const bool is_true = truth(*this, left);
  if (e.kind == Expr::Kind::logical_not) return Value(!is_true);
  return is_true == (e.kind == Expr::Kind::logical_or) ? left : eval(*e.items[1], act);
}

Value Interpreter::eval_binary(const Expr& e, Activation& act) {
  const Value left = eval(*e.items[0], act);
  const Value right = eval(*e.items[1], act);
  line = e.line;
  return binary(*this, e.op, left, right);
}

Value Interpreter::eval_compare(const Expr& e, Activation& act) {
  using C = Expr::Compare;
  Value left = eval(*e.items[0], act);
  for (size_t i = 0; i < e.comparisons.size(); ++i) {
    Value right = eval(*e.items[i + 1], act);
    const auto holds = [&] {
      switch (e.comparisons[i]) {
        case C::eq: return equal(*this, left, right);
        case C::ne: return !equal(*this, left, right);
        case C::lt: return ordered(*this, left, right, Order::lt);
        case C::le: return ordered(*this, left, right, Order::le);
        case C::gt: return ordered(*this, left, right, Order::gt);
        case C::ge: return ordered(*this, left, right, Order::ge);
        case C::in: return contains(*this, left, right);
        case C::not_in: return !contains(*this, left, right);
      }
      return false;
    };
    if (!holds()) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Interpreter::eval_concat(const Expr& e, Activation& act) {
  std::string out;
  for (const auto& item : e.items) append_text(*this, eval(*item, act), out);
  return text(std::move(out));
}

Value Interpreter::eval_subscript(const Expr& e, Activation& act) {
  const Value object = eval(*e.items[0], act);
  if (e.kind == Expr::Kind::attribute) {
    line = e.line;
    return get_attribute(*this, object, e.name);
  }
  const Value key = eval(*e.items[1], act);
  line = e.line;
  return get_item(*this, object, key);
}

Value Interpreter::eval_or_none(const ExprPtr& e, Activation& act) {
  return e ? eval(*e, act) : Value(None{});
}

Value Interpreter::eval_slice(const Expr& e, Activation& act) {
  const Value object = eval(*e.items[0], act);
  const Value start = eval_or_none(e.items[1], act);
  const Value stop = eval_or_none(e.items[2], act);
  const Value by = eval_or_none(e.items[3], act);
  line = e.line;
  return slice(*this, object, start, stop, by);
}

Arguments Interpreter::eval_arguments(const CallArguments& arguments, Activation& act) {
  Arguments out;
  for (const auto& a : arguments.positional) out.positional.push_back(eval(*a, act));
  for (const auto& [name, a] : arguments.named) out.named.emplace_back(name, eval(*a, act));
  if (arguments.star) {
    const Value rest = eval(*arguments.star, act);
    const CursorPtr cursor = try_iterate(*this, rest);
    if (!cursor) fail("argument after * must be an iterable, not " + std::string(rest.type_name()));
    for (Value item; cursor->next(*this, item);) {
      make(sizeof(Value));
      out.positional.push_back(std::move(item));
    }
  }
  if (arguments.star_star) {
    const Value rest = eval(*arguments.star_star, act);
    if (!rest.is_dict())
      fail("argument after ** must be a mapping, not " + std::string(rest.type_name()));
    for (const auto& [name, _] : out.named)
      if (rest.dict().find(name)) fail("got multiple values for keyword argument '" + name + "'");
    for (const auto& [key, value] : rest.dict().items) {
      if (!key.is_text()) fail("keywords must be strings");
      make(key.text().size() + sizeof(Value));
      out.named.emplace_back(key.text(), value);
    }
  }
  return out;
}

Value Interpreter::eval_call(const Expr& e, Activation& act, const Value* caller) {
  const Value callee = eval(*e.items[0], act);
  Arguments arguments = eval_arguments(e.arguments, act);
  if (caller) arguments.named.emplace_back("caller", *caller);
  line = e.line;
  return jinja::call(*this, callee, arguments);
}

Value Interpreter::eval_filter(const Expr& e, Activation& act) {
  if (!e.filter) fail("No filter named " + repr_text(e.name) + " found.");
  const Value v = e.items[0] ? eval(*e.items[0], act) : *filtered_;
  const Arguments arguments = eval_arguments(e.arguments, act);
  line = e.line;
  return e.filter->run(*this, v, arguments);
}

Value Interpreter::eval_test(const Expr& e, Activation& act) {
  if (!e.test) fail("No test named " + repr_text(e.name) + " found.");
  const Value v = eval(*e.items[0], act);
  const Arguments arguments = eval_arguments(e.arguments, act);
  line = e.line;
  return Value(e.test->run(*this, v, arguments));
}

}  // namespace lmxlab::data::jinja
