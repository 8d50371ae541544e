// Tokens to a tree, and its names to places. Private.
#pragma once

#include "lmxlab/data/jinja/ast.h"

#include <string_view>

namespace lmxlab::data::jinja {

/// Expressions or blocks inside each other, at most.
constexpr int kMaxExprDepth = 200, kMaxBlockDepth = 60;

/// The tree of a template, resolved.
/// @throws Error(bad_data) with the line, Error(resource) if it nests too deeply.
Program parse(std::string_view source);

/// Gives every name its place, by the rules of Jinja's compiler: which scope a name belongs to is
/// decided before anything runs. @throws Error(bad_data)
void resolve(Program& program);

}  // namespace lmxlab::data::jinja
