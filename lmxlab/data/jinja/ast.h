// The tree of a template, as the parser makes it and the resolver completes it. Private.
#pragma once

#include "lmxlab/data/jinja/operators.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace lmxlab::data::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<std::unique_ptr<Stmt>>;

/// Where a variable lives: a place in the function that many levels out.
struct Slot {
  int hops = 0, index = -1;
};

/// What happens to a scope's variables when it is entered. When it is left, all are missing again.
struct Scope {
  struct Load {
    enum class From { parameter, context, outer, nowhere };
    int index = 0;
    From from = From::nowhere;
    Slot outer = {};
    std::string name = {};
  };
  std::vector<Load> loads;
};

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star, star_star;  // *args, **kwargs; may be null
};

struct Filter;
struct Test;

struct Expr {
  enum class Kind {
    constant,     // value
    data,         // value: template text
    name,         // name, slot
    tuple,        // items
    list,         // items
    dict,         // items: key, value, key, value, ...
    conditional,  // items: test, then, else (may be null)
    logical_or,   // items: 2
    logical_and,
    logical_not,  // items: 1
    negate,
    plus,
    binary,     // op; items: 2
    compare,    // items: n + 1, comparisons: n
    concat,     // items
    attribute,  // items[0] . name
    item,       // items[0] [ items[1] ]
    slice,      // items[0] [ items[1] : items[2] : items[3] ], each may be null
    call,       // items[0] ( arguments )
    filter,     // items[0] (null: the block's text) | name ( arguments )
    test,       // items[0] is name ( arguments )
    member      // name . attribute, as a target of set; slot
  };
  enum class Compare { eq, ne, lt, le, gt, ge, in, not_in };

  Kind kind;
  int line;
  int depth = 1;
  Value value = {};
  std::string name = {}, attribute = {};
  Slot slot = {};
  Operator op = Operator::add;
  std::vector<ExprPtr> items = {};
  std::vector<Compare> comparisons = {};
  CallArguments arguments = {};
  const Filter* filter = nullptr;  // null: unknown, an error where it is reached
  const Test* test = nullptr;
};

/// A macro, or the body of a call block.
struct MacroParts {
  std::vector<std::string> names;
  std::vector<int> indices;       // of the parameters
  std::vector<ExprPtr> defaults;  // of the last ones
  Body body;
  Scope scope;
  int slots = 0;                               // of its function
  int caller = -1, kwargs = -1, varargs = -1;  // places, if the body uses them
};

struct Stmt {
  enum class Kind {
    output,        // exprs
    branch,        // exprs[i]: test of bodies[i]; one more body is the else
    loop,          // target, exprs[0]: iterated, exprs[1]: condition or null; bodies: body, else
    set,           // target, exprs[0]
    set_block,     // target, exprs[0]: filter or null; bodies[0]
    with,          // exprs: target, value, target, value, ...; bodies[0]
    macro,         // name, target: its variable; macro
    call_block,    // exprs[0]: call; macro: the body
    generation,    // macro: the body
    filter_block,  // exprs[0]: filter; bodies[0]
    block,         // name; bodies[0]
    scope,         // bodies[0]
    loop_break,
    loop_continue,
    loader  // name: what it needs another template for
  };
  Kind kind;
  int line;
  std::string name = {};
  ExprPtr target = {};
  std::vector<ExprPtr> exprs = {};
  std::vector<Body> bodies = {};
  std::unique_ptr<MacroParts> macro = {};
  bool recursive = false, scoped = false;

  // The resolver's:
  Scope scope = {}, else_scope = {}, test_scope = {};
  int slots = 0;             // of a function of its own: recursive loops and blocks
  int loop = -1;             // place of `loop`, if the body uses it
  ExprPtr test_target = {};  // the loop's target again, in the condition's scope
  std::vector<std::pair<std::string, Slot>> exports = {};  // top-level names that blocks see
};

struct Program {
  Body body;
  Scope scope;
  int slots = 0;
  bool generation = false;  // it has {% generation %} blocks
};

}  // namespace lmxlab::data::jinja
