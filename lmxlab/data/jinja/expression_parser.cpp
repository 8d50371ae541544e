// Expressions, loosest first.
#include "lmxlab/data/jinja/expression_parser.h"

namespace lmxlab::data::jinja {

ExprPtr ExpressionParser::expression(bool with_conditional) {
  const Deeper deeper(expr_depth_, kMaxExprDepth, now().line, "expressions");
  ExprPtr e = logical_or();
  while (with_conditional && is_name("if")) {
    const int line = take().line;
    ExprPtr test = logical_or(), otherwise;
    if (take_name("else")) otherwise = expression();
    e = of(Expr::Kind::conditional, line, std::move(test), std::move(e), std::move(otherwise));
  }
  return e;
}

ExprPtr ExpressionParser::logical_or() {
  ExprPtr left = logical_and();
  while (is_name("or")) {
    const int line = take().line;
    left = of(Expr::Kind::logical_or, line, std::move(left), logical_and());
  }
  return left;
}

ExprPtr ExpressionParser::logical_and() {
  ExprPtr left = logical_not();
  while (is_name("and")) {
    const int line = take().line;
    left = of(Expr::Kind::logical_and, line, std::move(left), logical_not());
  }
  return left;
}

ExprPtr ExpressionParser::logical_not() {
  if (!is_name("not")) return compare();
  const Deeper deeper(expr_depth_, kMaxExprDepth, now().line, "expressions");
  const int line = take().line;
  return of(Expr::Kind::logical_not, line, logical_not());
}

ExprPtr ExpressionParser::compare() {
  static constexpr std::pair<std::string_view, Expr::Compare> signs[] = {
      {"==", Expr::Compare::eq}, {"!=", Expr::Compare::ne}, {"<", Expr::Compare::lt},
      {"<=", Expr::Compare::le}, {">", Expr::Compare::gt},  {">=", Expr::Compare::ge}};
  const int line = now().line;
  std::vector<ExprPtr> items;
  items.push_back(sum());
  std::vector<Expr::Compare> comparisons;
  for (;;) {
    const auto* sign = std::find_if(std::begin(signs), std::end(signs),
                                    [&](const auto& s) { return is_op(s.first); });
    if (sign != std::end(signs)) {
      take();
      comparisons.push_back(sign->second);
    } else if (take_name("in")) {
      comparisons.push_back(Expr::Compare::in);
    } else if (is_name("not") && is_name(ahead(), "in")) {
      take(), take();
      comparisons.push_back(Expr::Compare::not_in);
    } else {
      break;
    }
    items.push_back(sum());
  }
  if (comparisons.empty()) return std::move(items[0]);
  ExprPtr e = make(Expr::Kind::compare, line, std::move(items));
  e->comparisons = std::move(comparisons);
  return e;
}

ExprPtr ExpressionParser::binary(Operator op, int line, ExprPtr left, ExprPtr right) {
  ExprPtr e = of(Expr::Kind::binary, line, std::move(left), std::move(right));
  e->op = op;
  return e;
}

ExprPtr ExpressionParser::sum() {
  ExprPtr left = concat();
  while (is_op("+") || is_op("-")) {
    const Token& sign = take();
    left = binary(sign.text == "+" ? Operator::add : Operator::sub, sign.line, std::move(left),
                  concat());
  }
  return left;
}

ExprPtr ExpressionParser::concat() {
  const int line = now().line;
  std::vector<ExprPtr> items;
  items.push_back(product());
  while (take_op("~")) items.push_back(product());
  return items.size() == 1 ? std::move(items[0]) : make(Expr::Kind::concat, line, std::move(items));
}

ExprPtr ExpressionParser::product() {
  ExprPtr left = power();
  while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
    const Token& sign = take();
    const Operator op = sign.text == "*"    ? Operator::mul
                        : sign.text == "/"  ? Operator::div
                        : sign.text == "//" ? Operator::floordiv
                                            : Operator::mod;
    left = binary(op, sign.line, std::move(left), power());
  }
  return left;
}

ExprPtr ExpressionParser::power() {
  ExprPtr left = unary();
  while (is_op("**")) {
    const int line = take().line;
    left = binary(Operator::pow, line, std::move(left), unary());
  }
  return left;
}

ExprPtr ExpressionParser::unary(bool with_filters) {
  const Deeper deeper(expr_depth_, kMaxExprDepth, now().line, "expressions");
  ExprPtr e;
  if (is_op("-") || is_op("+")) {
    const Token& sign = take();
    e = of(sign.text == "-" ? Expr::Kind::negate : Expr::Kind::plus, sign.line, unary(false));
  } else {
    e = primary();
  }
  e = postfix(std::move(e));
  return with_filters ? filters_and_tests(std::move(e)) : std::move(e);
}

ExprPtr ExpressionParser::constant(int line, Value value) {
  ExprPtr e = make(Expr::Kind::constant, line);
  e->value = std::move(value);
  return e;
}

ExprPtr ExpressionParser::primary(bool with_member) {
  const Token& token = now();
  const int line = token.line;
  switch (token.type) {
    case Type::name: {
      take();
      const std::string& name = token.text;
      if (name == "true" || name == "True") return constant(line, Value(true));
      if (name == "false" || name == "False") return constant(line, Value(false));
      if (name == "none" || name == "None") return constant(line, Value(None{}));
      const bool member = with_member && take_op(".");
      ExprPtr e = make(member ? Expr::Kind::member : Expr::Kind::name, line);
      e->name = name;
      if (member) e->attribute = any_name();
      return e;
    }
    case Type::string: {
      std::string text;
      while (is(Type::string)) text += take().text;
      return constant(line, text_value(std::move(text)));
    }
    case Type::integer:
    case Type::real: take(); return constant(line, token.value);
    default: break;
  }
  if (take_op("(")) {
    ExprPtr e = tuple({.explicit_parentheses = true});
    expect_op(")");
    return e;
  }
  if (is_op("[")) return list();
  if (is_op("{")) return dict();
  fail_syntax(line, "unexpected '" + describe(token) + "'");
}

ExprPtr ExpressionParser::tuple(const TupleOptions& options) {
  const int line = now().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  for (;;) {
    if (!items.empty()) expect_op(",");
    if (is(Type::variable_end) || is(Type::block_end) || is_op(")") ||
        (!options.end.empty() && is_name(options.end)))
      break;
    items.push_back(options.simplified ? primary(options.with_member)
                                       : expression(options.with_conditional));
    if (!is_op(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items[0]);
    if (!options.explicit_parentheses)
      fail_syntax(now().line, "Expected an expression, got '" + describe(now()) + "'");
  }
  return make(Expr::Kind::tuple, line, std::move(items));
}

ExprPtr ExpressionParser::list() {
  const int line = take().line;
  std::vector<ExprPtr> items;
  while (!is_op("]")) {
    if (!items.empty()) expect_op(",");
    if (is_op("]")) break;
    items.push_back(expression());
  }
  expect_op("]");
  return make(Expr::Kind::list, line, std::move(items));
}

ExprPtr ExpressionParser::dict() {
  const int line = take().line;
  std::vector<ExprPtr> items;
  while (!is_op("}")) {
    if (!items.empty()) expect_op(",");
    if (is_op("}")) break;
    items.push_back(expression());
    expect_op(":");
    items.push_back(expression());
  }
  expect_op("}");
  return make(Expr::Kind::dict, line, std::move(items));
}

ExprPtr ExpressionParser::postfix(ExprPtr e) {
  for (;;) {
    if (is_op(".") || is_op("["))
      e = subscript(std::move(e));
    else if (is_op("("))
      e = call(std::move(e));
    else
      return e;
  }
}

ExprPtr ExpressionParser::filters_and_tests(ExprPtr e) {
  for (;;) {
    if (is_op("|"))
      e = filter(std::move(e));
    else if (is_name("is"))
      e = test(std::move(e));
    else if (is_op("("))
      e = call(std::move(e));
    else
      return e;
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr e) {
  const Token& token = take();
  if (token.text == ".") {
    const Token& member = take();
    if (member.type == Type::name) {
      ExprPtr out = of(Expr::Kind::attribute, token.line, std::move(e));
      out->name = member.text;
      return out;
    }
    if (member.type != Type::integer) fail_syntax(member.line, "expected name or number");
    return of(Expr::Kind::item, token.line, std::move(e), constant(member.line, member.value));
  }
  std::vector<ExprPtr> keys;
  bool sliced = false;
  while (!is_op("]")) {
    if (!keys.empty()) expect_op(",");
    ExprPtr start = is_op(":") ? nullptr : expression();
    if (!is_op(":")) {
      keys.push_back(std::move(start));
      continue;
    }
    take();
    const auto bound = [&]() -> ExprPtr {
      return is_op(":") || is_op("]") || is_op(",") ? nullptr : expression();
    };
    ExprPtr stop = bound();
    ExprPtr step = take_op(":") ? bound() : nullptr;
    sliced = true;
    keys.push_back(of(Expr::Kind::slice, token.line, ExprPtr(), std::move(start), std::move(stop),
                      std::move(step)));
  }
  expect_op("]");
  if (sliced) {
    if (keys.size() != 1) fail_syntax(token.line, "expected one slice, got several subscripts");
    keys[0]->depth = std::max(keys[0]->depth, e->depth + 1);
    keys[0]->items[0] = std::move(e);
    check_depth(*keys[0]);
    return std::move(keys[0]);
  }
  ExprPtr key =
      keys.size() == 1 ? std::move(keys[0]) : make(Expr::Kind::tuple, token.line, std::move(keys));
  return of(Expr::Kind::item, token.line, std::move(e), std::move(key));
}

CallArguments ExpressionParser::call_arguments() {
  const int line = now().line;
  expect_op("(");
  CallArguments out;
  const auto ensure = [&](bool valid) {
    if (!valid) fail_syntax(line, "invalid syntax for function call expression");
  };
  bool comma = false;
  while (!is_op(")")) {
    if (comma) {
      expect_op(",");
      if (is_op(")")) break;
    }
    comma = true;
    if (take_op("*")) {
      ensure(!out.star && !out.star_star);
      out.star = expression();
    } else if (take_op("**")) {
      ensure(!out.star_star);
      out.star_star = expression();
    } else if (is(Type::name) && ahead().type == Type::op && ahead().text == "=") {
      ensure(!out.star_star);
      const std::string name = take().text;
      take();
      for (const auto& given : out.named)
        if (given.first == name) fail_syntax(line, "keyword argument repeated: " + name);
      out.named.emplace_back(name, expression());
    } else {
      ensure(!out.star && !out.star_star && out.named.empty());
      out.positional.push_back(expression());
    }
  }
  expect_op(")");
  return out;
}

ExprPtr ExpressionParser::call(ExprPtr callee) {
  ExprPtr e = of(Expr::Kind::call, now().line, std::move(callee));
  give_arguments(*e, call_arguments());
  return e;
}

std::string ExpressionParser::dotted_name() {
  std::string name = any_name();
  while (take_op(".")) name += "." + any_name();
  return name;
}

ExprPtr ExpressionParser::one_filter(ExprPtr e) {
  const int line = now().line;
  std::string name = dotted_name();
  ExprPtr out = of(Expr::Kind::filter, line, std::move(e));
  out->name = std::move(name);
  if (is_op("(")) give_arguments(*out, call_arguments());
  return out;
}

ExprPtr ExpressionParser::filter(ExprPtr e) {
  while (take_op("|")) e = one_filter(std::move(e));
  return e;
}

ExprPtr ExpressionParser::test(ExprPtr e) {
  const int line = take().line;
  const bool negated = take_name("not");
  ExprPtr out = of(Expr::Kind::test, line, std::move(e));
  out->name = dotted_name();
  if (is_op("(")) {
    give_arguments(*out, call_arguments());
  } else if ((is(Type::name) || is(Type::string) || is(Type::integer) || is(Type::real) ||
              is_op("[") || is_op("{")) &&
             !is_name("else") && !is_name("or") && !is_name("and")) {
    if (is_name("is")) fail_syntax(now().line, "You cannot chain multiple tests with is");
    CallArguments arguments;
    arguments.positional.push_back(postfix(primary()));
    give_arguments(*out, std::move(arguments));
  }
  return negated ? of(Expr::Kind::logical_not, line, std::move(out)) : std::move(out);
}

}  // namespace lmxlab::data::jinja
