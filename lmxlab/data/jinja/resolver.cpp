// Scopes, by the rules of Jinja's compiler. A scope's variables are found before anything runs: a
// name that the scope sets is its own, from its beginning on; other names belong to the nearest
// scope outside that knows them when the inner one is looked at, else to the template's variables.
#include "lmxlab/data/jinja/filters.h"
#include "lmxlab/data/jinja/lexer.h"
#include "lmxlab/data/jinja/parser.h"

#include <map>
#include <set>

namespace lmxlab::data::jinja {
namespace {

using From = Scope::Load::From;

/// Code that runs with variables of its own: the template, macros, recursive loops, blocks.
struct Function {
  int depth = 0;
  std::map<std::pair<int, std::string>, int> places = {};  // by level and name
  int place(int level, const std::string& name) {
    return places.emplace(std::pair(level, name), static_cast<int>(places.size())).first->second;
  }
  int size() const { return static_cast<int>(places.size()); }
};

struct Place {
  Function* function = nullptr;
  int index = -1;
};

class Symbols {
 public:
  Symbols(Function& function, const Symbols* parent)
      : Symbols(function, parent, parent ? parent->level_ + 1 : 0) {}
  Symbols(Function& function, const Symbols* parent, int level)
      : function_(&function), parent_(parent), level_(level) {}

  const Place* find(const std::string& name) const {
    const auto it = refs_.find(name);
    if (it != refs_.end()) return &it->second;
    return parent_ ? parent_->find(name) : nullptr;
  }
  void load(const std::string& name) {
    if (!find(name)) define(name, {.from = From::context});
  }
  void store(const std::string& name) {
    stores_.insert(name);
    if (refs_.count(name)) return;
    const Place* outer = parent_ ? parent_->find(name) : nullptr;
    define(name, outer ? Scope::Load{.from = From::outer, .outer = slot(*outer)}
                       : Scope::Load{.from = From::nowhere});
  }
  int parameter(const std::string& name) {
    stores_.insert(name);
    return define(name, {.from = From::parameter});
  }
  /// After branches of which any may have run: what only some of them set keeps its outer value.
  void merge(const std::vector<Symbols>& branches) {
    std::set<std::string> stores;
    for (const auto& b : branches)
      for (const auto& name : b.stores_)
        if (!stores_.count(name)) stores.insert(name);
    for (const auto& b : branches) {
      for (const auto& [name, place] : b.refs_) refs_.insert_or_assign(name, place);
      for (const auto& [index, load] : b.loads_) loads_.insert_or_assign(index, load);
      stores_.insert(b.stores_.begin(), b.stores_.end());
    }
    for (const auto& name : stores) {
      const Place* outer = parent_ ? parent_->find(name) : nullptr;
      Scope::Load& load = loads_[find(name)->index];
      load = {.index = find(name)->index, .from = From::context, .name = name};
      if (outer) load.from = From::outer, load.outer = slot(*outer);
    }
  }

  Slot slot(const Place& place) const {
    return {function_->depth - place.function->depth, place.index};
  }
  Slot slot(const std::string& name) {
    load(name);  // known from the analysis, but for a set block's filter
    return slot(*find(name));
  }
  Scope scope() const {
    Scope out;
    for (const auto& [_, load] : loads_) out.loads.push_back(load);
    return out;
  }
  Function& function() const { return *function_; }
  size_t size() const { return refs_.size() + stores_.size(); }
  /// Every name that this scope or one around it sets, with its place.
  std::vector<std::pair<std::string, Slot>> all_stores() const {
    std::map<std::string, Slot> out;
    for (const Symbols* s = this; s; s = s->parent_)
      for (const auto& name : s->stores_)
        if (!out.count(name)) out[name] = slot(*find(name));
    return {out.begin(), out.end()};
  }

 private:
  int define(const std::string& name, Scope::Load load) {
    load.index = function_->place(level_, name);
    load.name = name;
    refs_.insert_or_assign(name, Place{function_, load.index});
    loads_.insert_or_assign(load.index, load);
    return load.index;
  }

  Function* function_;
  const Symbols* parent_;
  int level_;
  std::map<std::string, Place> refs_;
  std::map<int, Scope::Load> loads_;
  std::set<std::string> stores_;
};

// ---- walks ----

template <class F>
void each_argument(const CallArguments& arguments, F&& f) {
  for (const auto& a : arguments.positional) f(*a);
  for (const auto& a : arguments.named) f(*a.second);
  if (arguments.star) f(*arguments.star);
  if (arguments.star_star) f(*arguments.star_star);
}
template <class F>
void each_child(const Expr& e, F&& f) {
  for (const auto& item : e.items)
    if (item) f(*item);
  each_argument(e.arguments, f);
}

/// Whether a body reads a name before it could have set it.
class Finder {
 public:
  explicit Finder(std::string name) : name_(std::move(name)) {}
  static bool reads(const Body& body, const char* name) {
    Finder finder(name);
    finder.visit(body);
    return finder.found_;
  }

 private:
  void visit(const Body& body) {
    for (const auto& s : body) visit(*s);
  }
  void visit(const Expr& e) {
    if (e.kind == Expr::Kind::name && e.name == name_ && !hidden_) found_ = true;
    each_child(e, [&](const Expr& child) { visit(child); });
  }
  void set(const Expr& target) {
    if (target.kind == Expr::Kind::name && target.name == name_) hidden_ = true;
    for (const auto& item : target.items) set(*item);
  }
  void visit(const MacroParts& macro) {
    for (const auto& name : macro.names) hidden_ |= name == name_;
    for (const auto& e : macro.defaults) visit(*e);
    visit(macro.body);
  }
  void visit(const Stmt& s) {
    using K = Stmt::Kind;
    if (s.kind == K::block) return;
    if (s.kind == K::with) {
      for (size_t i = 0; i < s.exprs.size(); i += 2) set(*s.exprs[i]);
      for (size_t i = 1; i < s.exprs.size(); i += 2) visit(*s.exprs[i]);
    } else if (s.kind == K::loop) {
      set(*s.target);
      visit(*s.exprs[0]);
      for (const auto& body : s.bodies) visit(body);
      if (s.exprs[1]) visit(*s.exprs[1]);
      return;
    } else if (s.kind == K::branch) {
      visit(*s.exprs[0]);
      visit(s.bodies[0]);
      for (size_t i = 1; i < s.bodies.size(); ++i) {
        if (i < s.exprs.size()) visit(*s.exprs[i]);
        visit(s.bodies[i]);
      }
      return;
    } else if (s.kind == K::filter_block) {
      visit(s.bodies[0]);
      visit(*s.exprs[0]);
      return;
    } else {
      if (s.target && s.kind != K::macro) set(*s.target);
      for (const auto& e : s.exprs)
        if (e) visit(*e);
    }
    if (s.macro) visit(*s.macro);
    for (const auto& body : s.bodies) visit(body);
  }

  std::string name_;
  bool found_ = false, hidden_ = false;
};

/// Whether `set` or a loop's target somewhere inside names `loop`.
bool sets_loop(const Expr& target) {
  if (target.kind == Expr::Kind::name && target.name == "loop") return true;
  for (const auto& item : target.items)
    if (sets_loop(*item)) return true;
  return false;
}
bool sets_loop(const Stmt& s) {
  using K = Stmt::Kind;
  if ((s.kind == K::set || s.kind == K::set_block || s.kind == K::loop) && sets_loop(*s.target))
    return true;
  const auto inside = [](const Body& body) {
    for (const auto& inner : body)
      if (sets_loop(*inner)) return true;
    return false;
  };
  for (const auto& body : s.bodies)
    if (inside(body)) return true;
  return s.macro && inside(s.macro->body);
}

ExprPtr copy_target(const Expr& e) {
  auto out = std::make_unique<Expr>(Expr{e.kind, e.line});
  out->name = e.name;
  for (const auto& item : e.items) out->items.push_back(copy_target(*item));
  return out;
}

// ---- what names a scope has ----

class Analysis {
 public:
  /// @param work  counts what is copied, over the whole template.
  Analysis(Symbols& symbols, size_t& work) : symbols_(&symbols), work_(work) {}

  void visit(const Body& body) {
    for (const auto& s : body) visit(*s);
  }
  void visit(const Expr& e) {
    if (e.kind == Expr::Kind::name || e.kind == Expr::Kind::member) symbols_->load(e.name);
    each_child(e, [&](const Expr& child) { visit(child); });
  }
  void set(const Expr& target) {
    if (target.kind == Expr::Kind::name)
      symbols_->store(target.name);
    else if (target.kind == Expr::Kind::member)
      symbols_->load(target.name);
    for (const auto& item : target.items) set(*item);
  }
  void parameters(const Expr& target) {
    if (target.kind == Expr::Kind::name) symbols_->parameter(target.name);
    for (const auto& item : target.items) parameters(*item);
  }
  void macro(const MacroParts& parts) {
    for (const auto& name : parts.names) symbols_->parameter(name);
    for (const auto& e : parts.defaults) visit(*e);
    visit(parts.body);
  }

 private:
  // Inner scopes are looked at on their own; here only what they read and set outside counts.
  void visit(const Stmt& s) {
    using K = Stmt::Kind;
    switch (s.kind) {
      case K::output:
        for (const auto& e : s.exprs) visit(*e);
        break;
      case K::branch: branch(s); break;
      case K::loop: visit(*s.exprs[0]); break;
      case K::set:
        visit(*s.exprs[0]);
        set(*s.target);
        break;
      case K::set_block: set(*s.target); break;
      case K::with:
        for (size_t i = 1; i < s.exprs.size(); i += 2) visit(*s.exprs[i]);
        break;
      case K::macro: symbols_->store(s.name); break;
      case K::call_block:
      case K::filter_block: visit(*s.exprs[0]); break;
      case K::loader:
        for (const auto& e : s.exprs) visit(*e);
        if (s.target) set(*s.target);
        break;
      default: break;
    }
  }
  Symbols branch_of(const Symbols& from, const Body& body) {
    if ((work_ += from.size()) > kMaxWork)
      throw Error(Kind::resource, "[chat template] too many variables in too many branches");
    Symbols copy = from;
    Symbols* const outer = std::exchange(symbols_, &copy);
    visit(body);
    symbols_ = outer;
    return copy;
  }
  void branch(const Stmt& s) {
    visit(*s.exprs[0]);
    const Symbols original = *symbols_;
    const Symbols first = branch_of(original, s.bodies[0]);
    Symbols others = original;  // all the elif, one after another
    for (size_t i = 1; i < s.exprs.size(); ++i) {
      Symbols* const outer = std::exchange(symbols_, &others);
      visit(*s.exprs[i]);
      symbols_ = outer;
      const Symbols before = others;
      others.merge({branch_of(before, s.bodies[i]), before, before});
    }
    const bool has_else = s.bodies.size() > s.exprs.size();
    const Symbols last = has_else ? branch_of(original, s.bodies.back()) : original;
    symbols_->merge({first, others, last});
  }

  static constexpr size_t kMaxWork = 4'000'000;
  Symbols* symbols_;
  size_t& work_;
};

// ---- places for all names ----

class Resolver {
 public:
  void run(Program& program) {
    Function function;
    Symbols symbols(function, nullptr);
    Analysis(symbols, work_).visit(program.body);
    body(program.body, {symbols, true, false});
    program.scope = symbols.scope();
    program.slots = function.size();
  }

 private:
  struct Frame {
    Symbols& symbols;
    bool toplevel = false;
    bool soft = false;  // in a branch: an unknown filter fails only when it is reached
  };

  void body(Body& statements, const Frame& frame) {
    for (auto& s : statements) statement(*s, frame);
  }

  void expression(Expr& e, const Frame& frame) {
    if (e.kind == Expr::Kind::name || e.kind == Expr::Kind::member)
      e.slot = frame.symbols.slot(e.name);
    if (e.kind == Expr::Kind::filter) {
      e.filter = find_filter(e.name);
      if (!e.filter && !frame.soft) fail_syntax(e.line, "No filter named '" + e.name + "'.");
    }
    if (e.kind == Expr::Kind::test) {
      e.test = find_test(e.name);
      if (!e.test && !frame.soft) fail_syntax(e.line, "No test named '" + e.name + "'.");
    }
    Frame inner = frame;
    inner.soft |= e.kind == Expr::Kind::conditional;
    each_child(e, [&](const Expr& child) { expression(const_cast<Expr&>(child), inner); });
  }
  void target(Expr& e, const Frame& frame) {
    if (e.kind == Expr::Kind::name || e.kind == Expr::Kind::member)
      e.slot = frame.symbols.slot(e.name);
    for (auto& item : e.items) target(*item, frame);
  }
  void add_exports(Stmt& s, const Expr& e) {
    if (e.kind == Expr::Kind::name) s.exports.emplace_back(e.name, e.slot);
    for (const auto& item : e.items) add_exports(s, *item);
  }

  void macro(MacroParts& parts, const Frame& frame) {
    Function function{frame.symbols.function().depth + 1};
    Symbols symbols(function, &frame.symbols);
    Analysis(symbols, work_).macro(parts);
    const auto special = [&](const char* name, int& index) {
      bool given = false;
      for (const auto& n : parts.names) given |= n == name;
      if (Finder::reads(parts.body, name) && !given) index = symbols.parameter(name);
    };
    special("caller", parts.caller);
    special("kwargs", parts.kwargs);
    special("varargs", parts.varargs);
    Analysis(symbols, work_).macro(parts);
    const Frame inner{symbols};
    for (const auto& name : parts.names) parts.indices.push_back(symbols.find(name)->index);
    for (auto& e : parts.defaults) expression(*e, inner);
    body(parts.body, inner);
    parts.scope = symbols.scope();
    parts.slots = function.size();
  }

  void loop(Stmt& s, const Frame& frame) {
    if (sets_loop(s))
      fail_syntax(s.line, "Can't assign to special loop variable in for-loop target");
    Function own{frame.symbols.function().depth + 1};
    Function& function = s.recursive ? own : frame.symbols.function();
    Symbols in_body(function, &frame.symbols), in_else(function, &frame.symbols);
    if (s.recursive || Finder::reads(s.bodies[0], "loop")) s.loop = in_body.parameter("loop");
    Analysis analysis(in_body, work_);
    analysis.parameters(*s.target);
    analysis.visit(s.bodies[0]);
    Analysis(in_else, work_).visit(s.bodies[1]);
    if (s.exprs[1]) {
      // The condition is evaluated between the rounds of the body: no place of it may be shared.
      Symbols in_test(function, &frame.symbols, --conditions_);
      s.test_target = copy_target(*s.target);
      Analysis test_analysis(in_test, work_);
      test_analysis.parameters(*s.test_target);
      test_analysis.visit(*s.exprs[1]);
      target(*s.test_target, {in_test});
      expression(*s.exprs[1], {in_test});
      s.test_scope = in_test.scope();
    }
    expression(*s.exprs[0], frame);
    target(*s.target, {in_body});
    body(s.bodies[0], {in_body});
    body(s.bodies[1], {in_else});
    s.scope = in_body.scope();
    s.else_scope = in_else.scope();
    if (s.recursive) s.slots = own.size();
  }

  void statement(Stmt& s, const Frame& frame) {
    using K = Stmt::Kind;
    switch (s.kind) {
      case K::output:
      case K::loader:
        for (auto& e : s.exprs) expression(*e, frame);
        return;
      case K::branch: {
        Frame soft = frame;
        soft.soft = true;
        for (auto& e : s.exprs) expression(*e, soft);
        for (auto& b : s.bodies) body(b, soft);
        return;
      }
      case K::loop: return loop(s, frame);
      case K::set:
        expression(*s.exprs[0], frame);
        target(*s.target, frame);
        if (frame.toplevel) add_exports(s, *s.target);
        return;
      case K::set_block: {
        Symbols symbols(frame.symbols.function(), &frame.symbols);
        Analysis analysis(symbols, work_);
        analysis.visit(s.bodies[0]);
        if (s.exprs[0]) analysis.visit(*s.exprs[0]);
        body(s.bodies[0], {symbols});
        if (s.exprs[0]) expression(*s.exprs[0], {symbols});
        target(*s.target, frame);
        s.scope = symbols.scope();
        if (frame.toplevel) add_exports(s, *s.target);
        return;
      }
      case K::with: {
        Symbols symbols(frame.symbols.function(), &frame.symbols);
        Analysis analysis(symbols, work_);
        for (size_t i = 0; i < s.exprs.size(); i += 2) analysis.parameters(*s.exprs[i]);
        analysis.visit(s.bodies[0]);
        for (size_t i = 0; i < s.exprs.size(); i += 2) {
          target(*s.exprs[i], {symbols});
          expression(*s.exprs[i + 1], frame);
        }
        body(s.bodies[0], {symbols});
        s.scope = symbols.scope();
        return;
      }
      case K::macro:
        macro(*s.macro, frame);
        target(*s.target, frame);
        if (frame.toplevel) add_exports(s, *s.target);
        return;
      case K::call_block:
        macro(*s.macro, frame);
        expression(*s.exprs[0], frame);
        return;
      case K::generation: return macro(*s.macro, frame);
      case K::filter_block: {
        Symbols symbols(frame.symbols.function(), &frame.symbols);
        Analysis analysis(symbols, work_);
        analysis.visit(s.bodies[0]);
        analysis.visit(*s.exprs[0]);
        body(s.bodies[0], {symbols});
        expression(*s.exprs[0], {symbols});
        s.scope = symbols.scope();
        return;
      }
      case K::scope: {
        Symbols symbols(frame.symbols.function(), &frame.symbols);
        Analysis(symbols, work_).visit(s.bodies[0]);
        body(s.bodies[0], {symbols});
        s.scope = symbols.scope();
        return;
      }
      case K::block: {
        // A function that sees the template's variables and its top-level names only; a scoped one
        // is handed the names around it as well.
        Function function;
        Symbols symbols(function, nullptr);
        Analysis(symbols, work_).visit(s.bodies[0]);
        body(s.bodies[0], {symbols});
        s.else_scope = symbols.scope();
        s.slots = function.size();
        if (s.scoped) s.exports = frame.symbols.all_stores();
        return;
      }
      case K::loop_break:
      case K::loop_continue: return;
    }
  }

  int conditions_ = 0;  // levels below zero
  size_t work_ = 0;
};

}  // namespace

void resolve(Program& program) {
  Resolver().run(program);
}

}  // namespace lmxlab::data::jinja