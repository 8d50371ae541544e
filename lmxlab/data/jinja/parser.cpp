#include "lmxlab/data/jinja/parser.h"

#include "lmxlab/data/jinja/expression_parser.h"

#include <initializer_list>
#include <set>
#include <utility>

namespace lmxlab::data::jinja {
namespace {

using Names = std::initializer_list<std::string_view>;

class Parser : private ExpressionParser {
 public:
  explicit Parser(std::string_view source) : ExpressionParser(source) {}

  Program run() {
    Program program;
    program.body = statements({});
    program.generation = generation_;
    return program;
  }

 private:
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
    generation_ = true;
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

  int block_depth_ = 0, loops_ = 0;
  bool generation_ = false;
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
