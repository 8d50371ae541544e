#include "lmxlab/data/jinja/interpreter.h"

#include "lmxlab/data/jinja/filters.h"

#include <algorithm>

namespace lmxlab::data::jinja {

class Macro : public Object {
 public:
  Macro(Interpreter& in, const MacroParts& parts, std::string name, Activation* closure)
      : in_(in), parts_(parts), name_(std::move(name)), closure_(closure) {}
  std::string_view type_name() const override { return "Macro"; }
  std::string repr(Runtime&) const override {
    return name_.empty() ? "<Macro anonymous>" : "<Macro " + repr_text(name_) + ">";
  }
  bool callable() const override { return true; }
  Value call(Runtime& rt, const Arguments& arguments) override {
    return rt.text(in_.call_macro(parts_, name_, closure_, arguments));
  }
  std::optional<Value> attribute(Runtime& rt, std::string_view name, const Value&) override {
    if (name == "name") return name_.empty() ? Value(None{}) : rt.text(name_);
    if (name == "catch_kwargs") return Value(parts_.kwargs >= 0);
    if (name == "catch_varargs") return Value(parts_.varargs >= 0);
    if (name == "caller") return Value(parts_.caller >= 0);
    if (name != "arguments") return std::nullopt;
    std::vector<Value> names;
    for (const auto& n : parts_.names) names.push_back(rt.text(n));
    return rt.tuple(std::move(names));
  }

 private:
  Interpreter& in_;
  const MacroParts& parts_;
  std::string name_;
  Activation* closure_;
};

namespace {

class VectorCursor : public Cursor {
 public:
  explicit VectorCursor(std::vector<Value> items) : items_(std::move(items)) {}
  bool next(Runtime& rt, Value& out) override {
    rt.step();
    if (at_ == items_.size()) return false;
    out = items_[at_++];
    return true;
  }

 private:
  std::vector<Value> items_;
  size_t at_ = 0;
};

}  // namespace

/// The variable `loop`, which also drives the loop.
class Loop : public Object, public Runtime::Kept {
 public:
  Loop(Interpreter& in, const Stmt& s, Activation* outer, Value iterable, CursorPtr cursor,
       int depth0)
      : in_(in),
        stmt_(s),
        outer_(outer),
        iterable_(std::move(iterable)),
        cursor_(std::move(cursor)),
        depth0_(depth0) {
    depth = iterable_.depth() + 1;
  }

  bool advance(Value& out) {
    if (!peek()) return false;
    ++index0_;
    before_ = std::exchange(current_, std::exchange(after_, Value()));
    peeked_ = false;
    out = current_;
    return true;
  }

  void drop() override { last_ = Value(); }
  std::string_view type_name() const override { return "LoopContext"; }
  std::string repr(Runtime&) const override {
    return "<LoopContext " + std::to_string(index0_ + 1) + "/" +
           std::to_string(const_cast<Loop*>(this)->total()) + ">";
  }
  std::optional<size_t> length(Runtime&) override { return static_cast<size_t>(total()); }
  bool callable() const override { return true; }
  Value call(Runtime& rt, const Arguments& arguments) override {
    const Bound b(rt, "loop", arguments, {"iterable"}, 1);
    if (!stmt_.recursive)
      rt.fail("The loop must have the 'recursive' marker to be called recursively.");
    return rt.text(in_.recursive_loop(stmt_, *outer_, b[0], depth0_ + 1));
  }

  std::optional<Value> attribute(Runtime& rt, std::string_view name, const Value& self) override {
    const auto number = [](int64_t v) { return Value::integer(v); };
    if (name == "index") return number(index0_ + 1);
    if (name == "index0") return number(index0_);
    if (name == "first") return Value(index0_ == 0);
    if (name == "last") return Value(!peek());
    if (name == "length") return number(total());
    if (name == "revindex") return number(total() - index0_);
    if (name == "revindex0") return number(total() - index0_ - 1);
    if (name == "depth") return number(depth0_ + 1);
    if (name == "depth0") return number(depth0_);
    if (name == "previtem")
      return index0_ == 0 ? rt.undefined("there is no previous item") : before_;
    if (name == "nextitem") return peek() ? after_ : rt.undefined("there is no next item");
    if (name == "cycle" || name == "changed") return rt.object<LoopMethod>(self, name == "cycle");
    return std::nullopt;
  }

 private:
  class LoopMethod : public Object {
   public:
    LoopMethod(Value loop, bool cycle) : loop_(std::move(loop)), cycle_(cycle) {
      depth = loop_.depth() + 1;
    }
    std::string_view type_name() const override { return "method"; }
    bool callable() const override { return true; }
    Value call(Runtime& rt, const Arguments& arguments) override {
      auto& loop = *loop_.as<Loop>();
      const auto& given = arguments.positional;
      if (cycle_) {
        if (given.empty()) rt.fail("no items for cycling given");
        return given[static_cast<size_t>(loop.index0_) % given.size()];
      }
      const Value now = rt.tuple(given);
      if (!loop.last_.is_missing() && jinja::equal(rt, loop.last_, now)) return Value(false);
      // What it remembers may hold the loop itself.
      if (loop.last_.is_missing()) rt.keep(std::dynamic_pointer_cast<Kept>(loop_.pointer()));
      loop.last_ = now;
      return Value(true);
    }

   private:
    Value loop_;
    bool cycle_;
  };

  bool peek() {
    if (!peeked_) {
      peeked_ = true;
      more_ = cursor_->next(in_, after_);
      if (!more_) after_ = Value();
    }
    return more_;
  }
  int64_t total() {
    if (total_ >= 0) return total_;
    if (!stmt_.exprs[1])
      if (const auto n = jinja::length(in_, iterable_)) return total_ = static_cast<int64_t>(*n);
    std::vector<Value> rest;  // a generator is walked to its end first
    const bool ahead = peeked_ && more_;
    if (!peeked_ || more_)
      for (Value v; cursor_->next(in_, v);) {
        in_.make(sizeof(Value));
        rest.push_back(std::move(v));
      }
    total_ = static_cast<int64_t>(rest.size()) + index0_ + 1 + (ahead ? 1 : 0);
    cursor_ = std::make_unique<VectorCursor>(std::move(rest));
    return total_;
  }

  Interpreter& in_;
  const Stmt& stmt_;
  Activation* outer_;
  Value iterable_;
  CursorPtr cursor_;
  Value before_, current_, after_, last_;
  bool peeked_ = false, more_ = false;
  int64_t index0_ = -1, total_ = -1;
  int depth0_;
};

/// The items of a loop that its condition lets through.
class ConditionCursor : public Cursor {
 public:
  ConditionCursor(Interpreter& in, const Stmt& s, Activation& act, CursorPtr items)
      : in_(in), stmt_(s), act_(act), items_(std::move(items)) {}
  bool next(Runtime& rt, Value& out) override {
    if (!std::exchange(entered_, true)) in_.enter(stmt_.test_scope, act_);
    while (items_->next(rt, out)) {
      in_.assign(*stmt_.test_target, out, act_);
      if (!truth(rt, in_.eval(*stmt_.exprs[1], act_))) continue;
      out = assigned(*stmt_.test_target);
      return true;
    }
    return false;
  }

 private:
  // Jinja hands on what the targets hold: of several, a tuple.
  Value assigned(const Expr& target) {
    if (target.kind == Expr::Kind::name) return act_.at(target.slot);
    std::vector<Value> items;
    for (const auto& item : target.items) items.push_back(assigned(*item));
    return in_.tuple(std::move(items));
  }

  Interpreter& in_;
  const Stmt& stmt_;
  Activation& act_;
  CursorPtr items_;
  bool entered_ = false;
};

Interpreter::Interpreter(const Json& variables, const std::optional<LocalTime>& now,
                         const Limits& limits)
    : Runtime(now, limits) {
  for (auto& [name, value] : make_globals(*this)) variables_.insert_or_assign(name, value);
  for (const auto& [name, value] : variables.as_object())
    variables_.insert_or_assign(name, from_json(*this, value));
}

Interpreter::~Interpreter() {
  release();
}

std::string Interpreter::render(const Program& program) {
  const auto act = activation(program.slots, nullptr);
  std::string out;
  text_ = &out;
  enter(program.scope, *act);
  run(program.body, *act, out);
  return out;
}

std::shared_ptr<Activation> Interpreter::activation(int slots, Activation* outer) {
  make(static_cast<size_t>(slots) * sizeof(Value) + sizeof(Activation));
  return std::make_shared<Activation>(slots, outer);
}

Value Interpreter::lookup(const std::string& name) {
  if (around_)
    if (const auto it = around_->find(name); it != around_->end()) return it->second;
  if (const auto it = exported_.find(name); it != exported_.end()) return it->second;
  const auto it = variables_.find(name);
  return it == variables_.end() ? Value() : it->second;
}

void Interpreter::enter(const Scope& scope, Activation& act) {
  using From = Scope::Load::From;
  step(1 + scope.loads.size() / 4);
  for (const auto& load : scope.loads) {
    if (load.from == From::parameter) continue;
    act.at(load.index) = load.from == From::context ? lookup(load.name)
                         : load.from == From::outer ? act.at(load.outer)
                                                    : Value();
  }
}

void Interpreter::leave(const Scope& scope, Activation& act) {
  for (const auto& load : scope.loads) act.at(load.index) = Value();
}

void Interpreter::append(const Value& v, std::string& out) {
  append_text(*this, v, out);
  if (out.size() > output_limit())
    fail("the text is longer than " + std::to_string(output_limit() >> 20) + " MiB",
         Kind::resource);
}

// What a block gives is joined as it is: only texts can be.
void Interpreter::append_only_text(const Value& v, std::string& out) {
  if (!v.is_text())
    fail("sequence item 0: expected str instance, " + std::string(v.type_name()) + " found");
  append(v, out);
}

Interpreter::Flow Interpreter::run(const Body& body, Activation& act, std::string& out) {
  const Level level(*this);
  for (const auto& s : body) {
    const Flow flow = run(*s, act, out);
    if (flow != Flow::next) return flow;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::run(const Stmt& s, Activation& act, std::string& out) {
  using K = Stmt::Kind;
  step();
  line = s.line;
  switch (s.kind) {
    case K::output: output(s, act, out); break;
    case K::branch: return branch(s, act, out);
    case K::loop: {
      const Value iterable = eval(*s.exprs[0], act);
      if (!s.recursive) return loop(s, act, iterable, out);
      append(text(recursive_loop(s, act, iterable, 0)), out);
      break;
    }
    case K::set:
      assign(*s.target, eval(*s.exprs[0], act), act);
      export_names(s, act);
      break;
    case K::set_block: set_block(s, act); break;
    case K::with: return with(s, act, out);
    case K::macro: make_macro(s, act); break;
    case K::call_block: call_block(s, act, out); break;
    case K::generation: {
      const size_t begin = out.size();
      append(text(call_macro(*s.macro, "", &act, {})), out);
      if (&out != text_)
        generated_.reset();
      else if (generated_)
        generated_->emplace_back(begin, out.size());
      break;
    }
    case K::filter_block: filter_block(s, act, out); break;
    case K::block: block(s, act, out); break;
    case K::scope: {
      enter(s.scope, act);
      const Flow flow = run(s.bodies[0], act, out);
      leave(s.scope, act);
      return flow;
    }
    case K::loop_break: return Flow::leave_loop;
    case K::loop_continue: return Flow::next_round;
    case K::loader:
      fail("`" + s.name +
               "` needs another template, which is not supported: a chat template "
               "stands alone",
           Kind::unsupported);
  }
  return Flow::next;
}

void Interpreter::output(const Stmt& s, Activation& act, std::string& out) {
  for (const auto& e : s.exprs) {
    if (e->kind == Expr::Kind::data) {
      step();
      append(e->value, out);
      continue;
    }
    line = e->line;
    append(eval(*e, act), out);
  }
}

Interpreter::Flow Interpreter::branch(const Stmt& s, Activation& act, std::string& out) {
  for (size_t i = 0; i < s.exprs.size(); ++i) {
    line = s.exprs[i]->line;
    if (truth(*this, eval(*s.exprs[i], act))) return run(s.bodies[i], act, out);
  }
  return s.bodies.size() > s.exprs.size() ? run(s.bodies.back(), act, out) : Flow::next;
}

Interpreter::Flow Interpreter::loop(const Stmt& s, Activation& act, const Value& iterable,
                                    std::string& out, Activation* outer, int depth) {
  CursorPtr cursor = iterate(*this, iterable);
  if (s.exprs[1]) {
    if (s.loop >= 0) act.keep(*this);  // `loop` may be stored away, and ask for more items
    cursor = std::make_unique<ConditionCursor>(*this, s, act, std::move(cursor));
  }
  Value loop_value;
  Loop* loop = nullptr;
  if (s.loop >= 0) {
    loop_value = object<Loop>(*this, s, outer, iterable, std::move(cursor), depth);
    loop = loop_value.as<Loop>();
  }
  bool completed = false;  // one round at least came to its end
  for (Value item; loop ? loop->advance(item) : cursor->next(*this, item);) {
    line = s.line;
    assign(*s.target, item, act);
    if (loop) act.at(s.loop) = loop_value;
    enter(s.scope, act);
    const Flow flow = run(s.bodies[0], act, out);
    if (flow == Flow::leave_loop) break;
    completed |= flow == Flow::next;
  }
  leave(s.scope, act);
  if (completed || s.bodies[1].empty()) return Flow::next;
  enter(s.else_scope, act);
  const Flow flow = run(s.bodies[1], act, out);
  leave(s.else_scope, act);
  return flow;
}

std::string Interpreter::recursive_loop(const Stmt& s, Activation& outer, const Value& iterable,
                                        int depth) {
  outer.keep(*this);  // `loop` points to it, and may be stored away
  const auto act = activation(s.slots, &outer);
  std::string out;
  loop(s, *act, iterable, out, &outer, depth);
  return out;
}

void Interpreter::set_block(const Stmt& s, Activation& act) {
  enter(s.scope, act);
  std::string body;
  run(s.bodies[0], act, body);
  Value v = text(std::move(body));
  if (s.exprs[0]) {
    const Value* const before = std::exchange(filtered_, &v);
    Value changed = eval(*s.exprs[0], act);
    filtered_ = before;
    v = std::move(changed);
  }
  assign(*s.target, v, act);
  export_names(s, act);
  leave(s.scope, act);
}

Interpreter::Flow Interpreter::with(const Stmt& s, Activation& act, std::string& out) {
  enter(s.scope, act);
  for (size_t i = 0; i < s.exprs.size(); i += 2)
    assign(*s.exprs[i], eval(*s.exprs[i + 1], act), act);
  const Flow flow = run(s.bodies[0], act, out);
  leave(s.scope, act);
  return flow;
}

void Interpreter::block(const Stmt& s, Activation& act, std::string& out) {
  std::map<std::string, Value> around;
  if (s.scoped) {
    if (around_) around = *around_;
    for (const auto& [name, slot] : s.exports)
      if (!act.at(slot).is_missing()) around[name] = act.at(slot);
  }
  const auto own = activation(s.slots, nullptr);
  const auto* const before = around_;
  if (s.scoped) around_ = &around;
  enter(s.else_scope, *own);
  run(s.bodies[0], *own, out);
  around_ = before;
}

void Interpreter::make_macro(const Stmt& s, Activation& act) {
  act.keep(*this);
  assign(*s.target, object<Macro>(*this, *s.macro, s.name, &act), act);
  export_names(s, act);
}

void Interpreter::call_block(const Stmt& s, Activation& act, std::string& out) {
  act.keep(*this);
  const Value caller = object<Macro>(*this, *s.macro, "", &act);
  append_only_text(eval_call(*s.exprs[0], act, &caller), out);
}

void Interpreter::filter_block(const Stmt& s, Activation& act, std::string& out) {
  enter(s.scope, act);
  std::string body;
  run(s.bodies[0], act, body);
  const Value v = text(std::move(body));
  const Value* const before = std::exchange(filtered_, &v);
  append_only_text(eval(*s.exprs[0], act), out);
  filtered_ = before;
  leave(s.scope, act);
}

void Interpreter::assign(const Expr& target, const Value& v, Activation& act) {
  if (target.kind == Expr::Kind::name) {
    act.at(target.slot) = v;
  } else if (target.kind == Expr::Kind::member) {
    auto* ns = act.at(target.slot).as<Namespace>();
    if (!ns) fail("cannot assign attribute on non-namespace object");
    ns->set(*this, target.attribute, v);
  } else {
    const size_t wanted = target.items.size();
    const CursorPtr cursor = try_iterate(*this, v);
    if (!cursor) fail("cannot unpack non-iterable " + std::string(v.type_name()) + " object");
    std::vector<Value> items;
    for (Value item; cursor->next(*this, item);) {
      if (items.size() == wanted)
        fail("too many values to unpack (expected " + std::to_string(wanted) + ")");
      items.push_back(std::move(item));
    }
    if (items.size() < wanted)
      fail("not enough values to unpack (expected " + std::to_string(wanted) + ", got " +
           std::to_string(items.size()) + ")");
    for (size_t i = 0; i < wanted; ++i) assign(*target.items[i], items[i], act);
  }
}

void Interpreter::export_names(const Stmt& s, Activation& act) {
  if (s.kind == Stmt::Kind::block) return;
  for (const auto& [name, slot] : s.exports) exported_.insert_or_assign(name, act.at(slot));
}

std::string Interpreter::call_macro(const MacroParts& parts, std::string_view name,
                                    Activation* closure, const Arguments& arguments) {
  const auto act = activation(parts.slots, closure);
  const auto& given = arguments.positional;
  auto named = arguments.named;
  const auto take = [&](std::string_view wanted) {
    const auto it =
        std::find_if(named.begin(), named.end(), [&](const auto& n) { return n.first == wanted; });
    if (it == named.end()) return Value();
    Value v = std::move(it->second);
    named.erase(it);
    return v;
  };
  const std::string quoted = name.empty() ? "None" : repr_text(name);
  const size_t count = parts.names.size();
  bool found_caller = given.size() >= count && std::find(parts.names.begin(), parts.names.end(),
                                                         "caller") != parts.names.end();
  for (size_t i = 0; i < count; ++i) {
    Value& place = act->at(parts.indices[i]);
    if (i < given.size()) {
      place = given[i];
      continue;
    }
    place = take(parts.names[i]);
    found_caller |= parts.names[i] == "caller";
  }
  if (parts.caller >= 0 && !found_caller) {
    const Value caller = take("caller");
    act->at(parts.caller) =
        caller.is_missing() || caller.is_none() ? undefined("No caller defined") : caller;
  }
  if (parts.kwargs >= 0) {
    DictBuilder rest(*this);
    for (const auto& [key, value] : named) rest.set(text(key), value);
    act->at(parts.kwargs) = rest.finish();
  } else if (!named.empty()) {
    const bool caller =
        std::any_of(named.begin(), named.end(), [](const auto& n) { return n.first == "caller"; });
    fail(caller
             ? "macro " + quoted +
                   " was invoked with two values for the special caller "
                   "argument. This is most likely a bug."
             : "macro " + quoted + " takes no keyword argument " + repr_text(named.front().first));
  }
  if (parts.varargs >= 0) {
    std::vector<Value> rest;
    if (given.size() > count)
      rest.assign(given.begin() + static_cast<ptrdiff_t>(count), given.end());
    act->at(parts.varargs) = tuple(std::move(rest));
  } else if (given.size() > count) {
    fail("macro " + quoted + " takes not more than " + std::to_string(count) + " argument(s)");
  }
  const int called_at = line;
  enter(parts.scope, *act);
  for (size_t i = 0; i < count; ++i) {
    Value& place = act->at(parts.indices[i]);
    if (!place.is_missing()) continue;
    const size_t from = count - parts.defaults.size();
    Value v = i < from ? undefined("parameter " + repr_text(parts.names[i]) + " was not provided")
                       : eval(*parts.defaults[i - from], *act);
    act->at(parts.indices[i]) = std::move(v);
  }
  std::string out;
  run(parts.body, *act, out);
  line = called_at;
  return out;
}

}  // namespace lmxlab::data::jinja
