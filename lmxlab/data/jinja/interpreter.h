// Runs a resolved template. Private.
#pragma once

#include "lmxlab/data/jinja/ast.h"
#include "lmxlab/data/jinja/runtime.h"

#include <map>
#include <memory>
#include <string>
#include <unordered_map>

namespace lmxlab::data::jinja {

/// The variables of one run of a function. Macros made in it may outlive it.
class Activation : public Runtime::Kept, public std::enable_shared_from_this<Activation> {
 public:
  Activation(int slots, Activation* outer) : values(static_cast<size_t>(slots)), outer_(outer) {}
  Value& at(Slot slot) {
    Activation* a = this;
    for (int i = 0; i < slot.hops; ++i) a = a->outer_;
    return a->values[static_cast<size_t>(slot.index)];
  }
  Value& at(int index) { return values[static_cast<size_t>(index)]; }
  void drop() override { values.clear(); }
  /// It lives as long as the rendering.
  void keep(Runtime& rt) {
    if (!std::exchange(kept_, true)) rt.keep(shared_from_this());
  }

  std::vector<Value> values;

 private:
  Activation* outer_;
  bool kept_ = false;
};

class Interpreter : public Runtime {
 public:
  /// `variables`: the template's, an object.
  Interpreter(const Json& variables, const std::optional<LocalTime>& now,
              const Limits& limits = {});
  ~Interpreter() override;

  std::string render(const Program& program);
  /// What {% generation %} blocks wrote: [begin, end) in bytes of the text, in order. None if one
  /// of them stood where its place is not known: in a macro or a block that is set or filtered.
  const std::optional<std::vector<std::pair<size_t, size_t>>>& generated() const {
    return generated_;
  }

 private:
  friend class Macro;
  friend class Loop;
  friend class ConditionCursor;
  enum class Flow { next, leave_loop, next_round };

  // Statements.
  Flow run(const Body& body, Activation& act, std::string& out);
  Flow run(const Stmt& s, Activation& act, std::string& out);
  void output(const Stmt& s, Activation& act, std::string& out);
  Flow branch(const Stmt& s, Activation& act, std::string& out);
  // `outer`: of a recursive loop, from where it was entered; `act` is its own then.
  Flow loop(const Stmt& s, Activation& act, const Value& iterable, std::string& out,
            Activation* outer = nullptr, int depth = 0);
  std::string recursive_loop(const Stmt& s, Activation& outer, const Value& iterable, int depth);
  void set_block(const Stmt& s, Activation& act);
  Flow with(const Stmt& s, Activation& act, std::string& out);
  void block(const Stmt& s, Activation& act, std::string& out);
  void make_macro(const Stmt& s, Activation& act);
  void call_block(const Stmt& s, Activation& act, std::string& out);
  void filter_block(const Stmt& s, Activation& act, std::string& out);
  void assign(const Expr& target, const Value& v, Activation& act);
  void export_names(const Stmt& s, Activation& act);
  void enter(const Scope& scope, Activation& act);
  void leave(const Scope& scope, Activation& act);
  Value lookup(const std::string& name);
  std::string call_macro(const MacroParts& parts, std::string_view name, Activation* closure,
                         const Arguments& arguments);
  std::shared_ptr<Activation> activation(int slots, Activation* outer);
  void append(const Value& v, std::string& out);
  void append_only_text(const Value& v, std::string& out);

  // Expressions.
  Value eval(const Expr& e, Activation& act);
  Value eval_or_none(const ExprPtr& e, Activation& act);
  Value eval_dict(const Expr& e, Activation& act);
  Value eval_compare(const Expr& e, Activation& act);
  Value eval_concat(const Expr& e, Activation& act);
  Value eval_conditional(const Expr& e, Activation& act);
  Value eval_logical(const Expr& e, Activation& act);
  Value eval_items(const Expr& e, Activation& act);
  Value eval_binary(const Expr& e, Activation& act);
  Value eval_slice(const Expr& e, Activation& act);
  Value eval_subscript(const Expr& e, Activation& act);
  Value eval_call(const Expr& e, Activation& act, const Value* caller = nullptr);
  Value eval_filter(const Expr& e, Activation& act);
  Value eval_test(const Expr& e, Activation& act);
  Arguments eval_arguments(const CallArguments& arguments, Activation& act);

  std::unordered_map<std::string, Value> variables_;      // globals among them
  std::unordered_map<std::string, Value> exported_;       // set at the top level, for blocks
  const std::map<std::string, Value>* around_ = nullptr;  // a scoped block's
  const std::string* text_ = nullptr;                     // what is rendered
  std::optional<std::vector<std::pair<size_t, size_t>>> generated_ = {{}};
  const Value* filtered_ = nullptr;  // the text of the filter block whose filter is evaluated
};

}  // namespace lmxlab::data::jinja
