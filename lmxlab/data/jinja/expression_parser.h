// Tokens to expressions: the half of the parser that statements stand on. Private.
#pragma once

#include "lmxlab/data/jinja/ast.h"
#include "lmxlab/data/jinja/lexer.h"
#include "lmxlab/data/jinja/parser.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data::jinja {

class ExpressionParser {
 protected:
  using Type = Token::Type;
  explicit ExpressionParser(std::string_view source) : tokens_(tokenize(source)) {}

  // ---- tokens ----

  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& take() {
    const Token& token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool is(Type type) const { return now().type == type; }
  bool is_op(std::string_view sign) const { return is(Type::op) && now().text == sign; }
  static bool is_name(const Token& token, std::string_view name) {
    return token.type == Type::name && token.text == name;
  }
  bool is_name(std::string_view name) const { return is_name(now(), name); }
  bool take_op(std::string_view sign) { return is_op(sign) && (take(), true); }
  bool take_name(std::string_view name) { return is_name(name) && (take(), true); }

  [[noreturn]] void expected(const std::string& what) const {
    if (is(Type::end))
      fail_syntax(now().line, "unexpected end of template, expected '" + what + "'.");
    fail_syntax(now().line, "expected token '" + what + "', got '" + describe(now()) + "'");
  }
  void expect_op(std::string_view sign) {
    if (!take_op(sign)) expected(std::string(sign));
  }
  void expect_name(std::string_view name) {
    if (!take_name(name)) expected(std::string(name));
  }
  void expect_type(Type type) {
    if (!is(type)) expected(describe(Token{type, {}, 0}));
    take();
  }
  std::string any_name() {
    if (!is(Type::name)) expected("name");
    return take().text;
  }

  // ---- nodes ----

  ExprPtr make(Expr::Kind kind, int line, std::vector<ExprPtr> items = {}) {
    auto e = std::make_unique<Expr>(Expr{kind, line});
    for (const auto& item : items)
      if (item) e->depth = std::max(e->depth, item->depth + 1);
    e->items = std::move(items);
    check_depth(*e);
    return e;
  }
  template <class... Items>
  ExprPtr of(Expr::Kind kind, int line, Items... items) {
    std::vector<ExprPtr> list;
    (list.push_back(std::move(items)), ...);
    return make(kind, line, std::move(list));
  }
  static void check_depth(const Expr& e) {
    if (e.depth > kMaxExprDepth) too_deep(e.line, "expressions", kMaxExprDepth);
  }
  [[noreturn]] static void too_deep(int line, const std::string& what, int limit) {
    throw Error(Kind::resource, "[chat template] line " + std::to_string(line) + ": more than " +
                                    std::to_string(limit) + " " + what + " inside each other");
  }
  static Value text_value(std::string text) {
    return Value(Text{std::make_shared<const std::string>(std::move(text)), false});
  }
  void give_arguments(Expr& e, CallArguments arguments) {
    const auto deeper = [&](const ExprPtr& a) {
      if (a) e.depth = std::max(e.depth, a->depth + 1);
    };
    for (const auto& a : arguments.positional) deeper(a);
    for (const auto& a : arguments.named) deeper(a.second);
    deeper(arguments.star);
    deeper(arguments.star_star);
    check_depth(e);
    e.arguments = std::move(arguments);
  }

  // Guards the parser's own recursion.
  struct Deeper {
    Deeper(int& depth, int limit, int line, const char* what) : depth_(depth) {
      if (++depth_ > limit) {
        --depth_;
        too_deep(line, what, limit);
      }
    }
    ~Deeper() { --depth_; }
    int& depth_;
  };

  struct TupleOptions {
    bool simplified = false, with_conditional = true, explicit_parentheses = false;
    bool with_member = false;
    std::string_view end = {};  // a name that ends it too
  };
  /// Expressions with commas between them make a tuple; one alone is itself.
  ExprPtr tuple(const TupleOptions& options);
  ExprPtr expression(bool with_conditional = true);
  /// Filters after a bar, from `e`; null: what a block contains.
  ExprPtr filter(ExprPtr e);
  /// The same without the first bar.
  ExprPtr one_filter(ExprPtr e);

  std::vector<Token> tokens_;
  size_t at_ = 0;

 private:
  ExprPtr logical_or();
  ExprPtr logical_and();
  ExprPtr logical_not();
  ExprPtr compare();
  ExprPtr binary(Operator op, int line, ExprPtr left, ExprPtr right);
  ExprPtr sum();
  ExprPtr concat();
  ExprPtr product();
  ExprPtr power();
  ExprPtr unary(bool with_filters = true);
  ExprPtr constant(int line, Value value);
  ExprPtr primary(bool with_member = false);
  ExprPtr list();
  ExprPtr dict();
  ExprPtr postfix(ExprPtr e);
  ExprPtr filters_and_tests(ExprPtr e);
  ExprPtr subscript(ExprPtr e);
  CallArguments call_arguments();
  ExprPtr call(ExprPtr callee);
  std::string dotted_name();
  ExprPtr test(ExprPtr e);

  int expr_depth_ = 0;
};

}  // namespace lmxlab::data::jinja
