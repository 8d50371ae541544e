#include "lmxlab/data/jinja/parser.h"

#include "lmxlab/data/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <set>

namespace lmxlab::data::jinja {
namespace {

using Type = Token::Type;
using Names = std::initializer_list<std::string_view>;

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)) {}

  Program run() {
    Program program;
    program.body = statements({});
    return program;
  }

 private:
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

  // ---- expressions, loosest first ----

  ExprPtr expression(bool with_conditional = true) {
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

  ExprPtr logical_or() {
    ExprPtr left = logical_and();
    while (is_name("or")) {
      const int line = take().line;
      left = of(Expr::Kind::logical_or, line, std::move(left), logical_and());
    }
    return left;
  }
  ExprPtr logical_and() {
    ExprPtr left = logical_not();
    while (is_name("and")) {
      const int line = take().line;
      left = of(Expr::Kind::logical_and, line, std::move(left), logical_not());
    }
    return left;
  }
  ExprPtr logical_not() {
    if (!is_name("not")) return compare();
    const Deeper deeper(expr_depth_, kMaxExprDepth, now().line, "expressions");
    const int line = take().line;
    return of(Expr::Kind::logical_not, line, logical_not());
  }

  ExprPtr compare() {
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

  ExprPtr binary(Operator op, int line, ExprPtr left, ExprPtr right) {
    ExprPtr e = of(Expr::Kind::binary, line, std::move(left), std::move(right));
    e->op = op;
    return e;
  }
  ExprPtr sum() {
    ExprPtr left = concat();
    while (is_op("+") || is_op("-")) {
      const Token& sign = take();
      left = binary(sign.text == "+" ? Operator::add : Operator::sub, sign.line, std::move(left),
                    concat());
    }
    return left;
  }
  ExprPtr concat() {
    const int line = now().line;
    std::vector<ExprPtr> items;
    items.push_back(product());
    while (take_op("~")) items.push_back(product());
    return items.size() == 1 ? std::move(items[0])
                             : make(Expr::Kind::concat, line, std::move(items));
  }
  ExprPtr product() {
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
  ExprPtr power() {
    ExprPtr left = unary();
    while (is_op("**")) {
      const int line = take().line;
      left = binary(Operator::pow, line, std::move(left), unary());
    }
    return left;
  }

  ExprPtr unary(bool with_filters = true) {
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

  ExprPtr constant(int line, Value value) {
    ExprPtr e = make(Expr::Kind::constant, line);
    e->value = std::move(value);
    return e;
  }

  ExprPtr primary(bool with_member = false) {
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

  struct TupleOptions {
    bool simplified = false, with_conditional = true, explicit_parentheses = false;
    bool with_member = false;
    std::string_view end = {};  // a name that ends it too
  };
  ExprPtr tuple(const TupleOptions& options) {
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

  ExprPtr list() {
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
  ExprPtr dict() {
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

  ExprPtr postfix(ExprPtr e) {
    for (;;) {
      if (is_op(".") || is_op("["))
        e = subscript(std::move(e));
      else if (is_op("("))
        e = call(std::move(e));
      else
        return e;
    }
  }
  ExprPtr filters_and_tests(ExprPtr e) {
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

  ExprPtr subscript(ExprPtr e) {
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
      keys.push_back(of(Expr::Kind::slice, token.line, nullptr_expr(), std::move(start),
                        std::move(stop), std::move(step)));
    }
    expect_op("]");
    if (sliced) {
      if (keys.size() != 1) fail_syntax(token.line, "expected one slice, got several subscripts");
      keys[0]->depth = std::max(keys[0]->depth, e->depth + 1);
      keys[0]->items[0] = std::move(e);
      check_depth(*keys[0]);
      return std::move(keys[0]);
    }
    ExprPtr key = keys.size() == 1 ? std::move(keys[0])
                                   : make(Expr::Kind::tuple, token.line, std::move(keys));
    return of(Expr::Kind::item, token.line, std::move(e), std::move(key));
  }
  static ExprPtr nullptr_expr() { return nullptr; }

  CallArguments call_arguments() {
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
  ExprPtr call(ExprPtr callee) {
    ExprPtr e = of(Expr::Kind::call, now().line, std::move(callee));
    give_arguments(*e, call_arguments());
    return e;
  }

  std::string dotted_name() {
    std::string name = any_name();
    while (take_op(".")) name += "." + any_name();
    return name;
  }
  ExprPtr one_filter(ExprPtr e) {
    const int line = now().line;
    std::string name = dotted_name();
    ExprPtr out = of(Expr::Kind::filter, line, std::move(e));
    out->name = std::move(name);
    if (is_op("(")) give_arguments(*out, call_arguments());
    return out;
  }
  ExprPtr filter(ExprPtr e) {
    while (take_op("|")) e = one_filter(std::move(e));
    return e;
  }

  ExprPtr test(ExprPtr e) {
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

  // ---- targets ----

  static bool assignable(const Expr& e) {
    if (e.kind == Expr::Kind::name || e.kind == Expr::Kind::member) return true;
    return e.kind == Expr::Kind::tuple &&
           std::all_of(e.items.begin(), e.items.end(),
                       [](const ExprPtr& item) { return assignable(*item); });
  }
  ExprPtr target(bool with_member = false, std::string_view end = {}) {
    const int line = now().line;
    ExprPtr e = tuple({.simplified = true, .with_member = with_member, .end = end});
    if (!assignable(*e)) fail_syntax(line, "can't assign to this: expected names");
    return e;
  }
  ExprPtr name_target() {
    const int line = now().line;
    ExprPtr e = make(Expr::Kind::name, line);
    e->name = any_name();
    for (const char* constant : {"true", "false", "none", "True", "False", "None"})
      if (e->name == constant) fail_syntax(line, "can't assign to 'name'");
    return e;
  }

  // ---- statements ----

  using StmtPtr = std::unique_ptr<Stmt>;
  StmtPtr stmt(Stmt::Kind kind, int line) { return std::make_unique<Stmt>(Stmt{kind, line}); }

  // Statements up to one of the tags `ends`, which is not taken. None: up to the end.
  Body statements(Names ends) {
    const Deeper deeper(block_depth_, kMaxBlockDepth, now().line, "blocks");
    Body body;
    StmtPtr output;
    const auto add_output = [&](ExprPtr e) {
      if (!output) output = stmt(Stmt::Kind::output, e->line);
      output->exprs.push_back(std::move(e));
    };
    const auto flush = [&] {
      if (output) body.push_back(std::move(output));
    };
    while (!is(Type::end)) {
      if (is(Type::data)) {
        ExprPtr e = make(Expr::Kind::data, now().line);
        e->value = text_value(take().text);
        add_output(std::move(e));
      } else if (is(Type::variable_begin)) {
        take();
        add_output(tuple({}));
        expect_type(Type::variable_end);
      } else {
        flush();
        expect_type(Type::block_begin);
        if (is_one_of(ends)) return body;
        body.push_back(statement(ends));
        expect_type(Type::block_end);
      }
    }
    flush();
    if (ends.size() > 0) fail_tag("Unexpected end of template.", ends);
    return body;
  }
  bool is_one_of(Names names) const {
    return std::any_of(names.begin(), names.end(), [&](auto name) { return is_name(name); });
  }
  [[noreturn]] void fail_tag(std::string message, Names ends) const {
    std::string wanted;
    for (const auto end : ends) wanted += (wanted.empty() ? "'" : " or '") + std::string(end) + "'";
    if (!wanted.empty()) message += " Jinja was looking for the following tags: " + wanted + ".";
    if (!tags_.empty())
      message += " The innermost block that needs to be closed is '" + tags_.back() + "'.";
    fail_syntax(now().line, message);
  }

  // The body of a tag: its closing %}, then statements up to `ends`.
  Body block_body(Names ends, bool take_end) {
    take_op(":");
    expect_type(Type::block_end);
    Body body = statements(ends);
    if (take_end) take();
    return body;
  }

  StmtPtr statement(Names ends) {
    if (!is(Type::name)) fail_syntax(now().line, "tag name expected");
    const std::string tag = now().text;
    const int line = now().line;
    using Parse = StmtPtr (Parser::*)(int);
    static constexpr std::pair<std::string_view, Parse> tags[] = {
        {"for", &Parser::parse_for},
        {"if", &Parser::parse_if},
        {"set", &Parser::parse_set},
        {"with", &Parser::parse_with},
        {"macro", &Parser::parse_macro},
        {"call", &Parser::parse_call_block},
        {"filter", &Parser::parse_filter_block},
        {"generation", &Parser::parse_generation},
        {"print", &Parser::parse_print},
        {"block", &Parser::parse_block},
        {"autoescape", &Parser::parse_autoescape},
        {"break", &Parser::parse_break},
        {"continue", &Parser::parse_continue},
        {"include", &Parser::parse_include},
        {"import", &Parser::parse_import},
        {"from", &Parser::parse_from},
        {"extends", &Parser::parse_extends},
    };
    const auto* found = std::find_if(std::begin(tags), std::end(tags),
                                     [&](const auto& t) { return t.first == tag; });
    if (found == std::end(tags)) fail_tag("Encountered unknown tag '" + tag + "'.", ends);
    take();
    tags_.push_back(tag);
    StmtPtr out = (this->*found->second)(line);
    tags_.pop_back();
    return out;
  }

  StmtPtr parse_for(int line) {
    auto s = stmt(Stmt::Kind::loop, line);
    s->target = target(false, "in");
    expect_name("in");
    s->exprs.push_back(tuple({.with_conditional = false, .end = "recursive"}));
    s->exprs.push_back(take_name("if") ? expression() : nullptr);
    s->recursive = take_name("recursive");
    ++loops_;
    s->bodies.push_back(block_body({"endfor", "else"}, false));
    --loops_;
    const bool otherwise = take().text == "else";
    s->bodies.push_back(otherwise ? block_body({"endfor"}, true) : Body());
    return s;
  }

  StmtPtr parse_if(int line) {
    auto s = stmt(Stmt::Kind::branch, line);
    for (;;) {
      s->exprs.push_back(tuple({.with_conditional = false}));
      s->bodies.push_back(block_body({"elif", "else", "endif"}, false));
      const std::string end = take().text;
      if (end == "elif") continue;
      if (end == "else") s->bodies.push_back(block_body({"endif"}, true));
      return s;
    }
  }

  StmtPtr parse_set(int line) {
    auto s = stmt(Stmt::Kind::set, line);
    s->target = target(true);
    if (take_op("=")) {
      s->exprs.push_back(tuple({}));
      return s;
    }
    s->kind = Stmt::Kind::set_block;
    s->exprs.push_back(is_op("|") ? filter(nullptr) : nullptr);
    s->bodies.push_back(block_body({"endset"}, true));
    return s;
  }

  StmtPtr parse_with(int line) {
    auto s = stmt(Stmt::Kind::with, line);
    while (!is(Type::block_end)) {
      if (!s->exprs.empty()) expect_op(",");
      s->exprs.push_back(target());
      expect_op("=");
      s->exprs.push_back(expression());
    }
    s->bodies.push_back(block_body({"endwith"}, true));
    return s;
  }

  void signature(MacroParts& macro) {
    expect_op("(");
    while (!is_op(")")) {
      if (!macro.names.empty()) expect_op(",");
      const ExprPtr name = name_target();
      if (std::find(macro.names.begin(), macro.names.end(), name->name) != macro.names.end())
        fail_syntax(name->line, "duplicate argument '" + name->name + "' in function definition");
      macro.names.push_back(name->name);
      if (take_op("="))
        macro.defaults.push_back(expression());
      else if (!macro.defaults.empty())
        fail_syntax(now().line, "non-default argument follows default argument");
    }
    expect_op(")");
  }
  // What is a function of its own: an outer loop cannot be left from inside.
  Body function_body(std::string_view end) {
    const int outer = std::exchange(loops_, 0);
    Body body = block_body({end}, true);
    loops_ = outer;
    return body;
  }
  StmtPtr parse_macro(int line) {
    auto s = stmt(Stmt::Kind::macro, line);
    s->target = name_target();
    s->name = s->target->name;
    s->macro = std::make_unique<MacroParts>();
    signature(*s->macro);
    s->macro->body = function_body("endmacro");
    return s;
  }
  StmtPtr parse_call_block(int line) {
    auto s = stmt(Stmt::Kind::call_block, line);
    s->macro = std::make_unique<MacroParts>();
    if (is_op("(")) signature(*s->macro);
    s->exprs.push_back(expression());
    if (s->exprs[0]->kind != Expr::Kind::call) fail_syntax(line, "expected call");
    s->macro->body = function_body("endcall");
    return s;
  }
  StmtPtr parse_generation(int line) {
    auto s = stmt(Stmt::Kind::generation, line);
    s->macro = std::make_unique<MacroParts>();
    s->macro->body = function_body("endgeneration");
    return s;
  }
  StmtPtr parse_filter_block(int line) {
    auto s = stmt(Stmt::Kind::filter_block, line);
    s->exprs.push_back(filter(one_filter(nullptr)));
    s->bodies.push_back(block_body({"endfilter"}, true));
    return s;
  }

  StmtPtr parse_print(int line) {
    auto s = stmt(Stmt::Kind::output, line);
    while (!is(Type::block_end)) {
      if (!s->exprs.empty()) expect_op(",");
      s->exprs.push_back(expression());
    }
    return s;
  }

  StmtPtr parse_block(int line) {
    auto s = stmt(Stmt::Kind::block, line);
    s->name = any_name();
    if (!blocks_.insert(s->name).second) fail_syntax(line, "block '" + s->name + "' defined twice");
    s->scoped = take_name("scoped");
    const bool required = take_name("required");
    if (is_op("-"))
      fail_syntax(now().line,
                  "Block names in Jinja have to be valid Python identifiers and may "
                  "not contain hyphens, use an underscore instead.");
    s->bodies.push_back(function_body("endblock"));
    take_name(s->name);
    if (required) {  // only another template could fill it
      s->kind = Stmt::Kind::loader;
      s->name = "the required block '" + s->name + "'";
      s->bodies.clear();
    }
    return s;
  }

  StmtPtr parse_autoescape(int line) {
    auto s = stmt(Stmt::Kind::scope, line);
    const ExprPtr on = expression();
    if (on->kind != Expr::Kind::constant || !on->value.is_bool() || on->value.boolean())
      throw Error(Kind::unsupported, "[chat template] line " + std::to_string(line) +
                                         ": autoescape is not supported but as `autoescape false`");
    s->bodies.push_back(block_body({"endautoescape"}, true));
    return s;
  }

  StmtPtr loop_control(Stmt::Kind kind, int line, const char* word) {
    if (loops_ == 0) fail_syntax(line, std::string("'") + word + "' outside loop");
    return stmt(kind, line);
  }
  StmtPtr parse_break(int line) { return loop_control(Stmt::Kind::loop_break, line, "break"); }
  StmtPtr parse_continue(int line) {
    return loop_control(Stmt::Kind::loop_continue, line, "continue");
  }

  // ---- what needs another template: parsed, and refused when it is reached ----

  StmtPtr loader(int line, const char* what) {
    auto s = stmt(Stmt::Kind::loader, line);
    s->name = what;
    s->exprs.push_back(expression());
    return s;
  }
  void context_words() {
    if ((is_name("with") || is_name("without")) && is_name(ahead(), "context")) take(), take();
  }
  StmtPtr parse_extends(int line) { return loader(line, "extends"); }
  StmtPtr parse_include(int line) {
    auto s = loader(line, "include");
    if (is_name("ignore") && is_name(ahead(), "missing")) take(), take();
    context_words();
    return s;
  }
  StmtPtr parse_import(int line) {
    auto s = loader(line, "import");
    expect_name("as");
    s->target = name_target();
    context_words();
    return s;
  }
  StmtPtr parse_from(int line) {
    auto s = loader(line, "from");
    expect_name("import");
    std::vector<ExprPtr> names;
    for (;;) {
      if (!names.empty()) expect_op(",");
      const size_t before = at_;
      context_words();
      if (at_ != before) break;
      ExprPtr name = name_target();
      if (take_name("as")) name = name_target();
      names.push_back(std::move(name));
      context_words();
      if (!is_op(",")) break;
    }
    s->target = make(Expr::Kind::tuple, line, std::move(names));
    return s;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int expr_depth_ = 0, block_depth_ = 0, loops_ = 0;
  std::vector<std::string> tags_;
  std::set<std::string> blocks_;
};

}  // namespace

Program parse(std::string_view source) {
  Program program = Parser(source).run();
  resolve(program);
  return program;
}

}  // namespace lmxlab::data::jinja
