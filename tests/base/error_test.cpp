#include "lmxlab/base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <new>
#include <system_error>

using namespace lmxlab;
using testing::HasSubstr;

namespace {

Error caught(auto&& body, Kind fallback = Kind::internal) {
  try {
    body();
  } catch (...) {
    return current_error(fallback);
  }
  ADD_FAILURE() << "no exception";
  return Error(Kind::internal, "");
}

TEST(Error, KindsNamesAndExitCodes) {
  const std::pair<Kind, std::pair<const char*, int>> table[] = {
      {Kind::usage, {"usage", 2}},
      {Kind::not_found, {"not_found", 3}},
      {Kind::bad_data, {"bad_data", 4}},
      {Kind::mismatch, {"mismatch", 5}},
      {Kind::unsupported, {"unsupported", 6}},
      {Kind::resource, {"resource", 7}},
      {Kind::internal, {"internal", 70}},
      {Kind::canceled, {"canceled", 130}}};
  for (const auto& [kind, row] : table) {
    EXPECT_EQ(kind_name(kind), row.first);
    EXPECT_EQ(exit_code(kind), row.second);
  }
}

TEST(Error, ForeignExceptionsGetAKind) {
  EXPECT_EQ(caught([] { throw Error(Kind::mismatch, "x"); }, Kind::usage).kind(), Kind::mismatch);
  EXPECT_EQ(caught([] { throw std::bad_alloc(); }).kind(), Kind::resource);
  EXPECT_EQ(caught([] {
              throw std::system_error(std::make_error_code(std::errc::no_space_on_device));
            }).kind(),
            Kind::resource);
  EXPECT_EQ(caught([] {
              throw std::system_error(std::make_error_code(std::errc::no_such_file_or_directory));
            }).kind(),
            Kind::not_found);
  EXPECT_EQ(caught([] { throw std::invalid_argument("x"); }, Kind::bad_data).kind(),
            Kind::bad_data);
  EXPECT_EQ(caught([] { throw std::invalid_argument("x"); }).kind(), Kind::internal);
  EXPECT_EQ(caught([] { throw 3; }).kind(), Kind::internal);
  // What MLX makes of an Error of our allocator on a stream's thread.
  EXPECT_EQ(
      caught([] { throw std::runtime_error("[memory] cannot allocate"); }, Kind::bad_data).kind(),
      Kind::resource);
}

TEST(Error, WhateverIsThrownLeavesAsOne) {
  const auto kind_of = [](const std::function<void()>& body) {
    try {
      as_error(body);
    } catch (const Error& e) {
      return e.kind();
    }
    return Kind::usage;
  };
  EXPECT_EQ(kind_of([] { throw Error(Kind::mismatch, "x"); }), Kind::mismatch);
  EXPECT_EQ(kind_of([] { throw std::runtime_error("[memory] none"); }), Kind::resource);
  EXPECT_EQ(kind_of([] { throw 3; }), Kind::internal);
  EXPECT_EQ(as_error([] { return 7; }), 7);
}

TEST(Error, ContextGoesInFrontAndTheKindStays) {
  const Error e = caught([] {
    with_context("outer",
                 [] { with_context("inner", [] { throw Error(Kind::bad_data, "broken"); }); });
  });
  EXPECT_EQ(e.kind(), Kind::bad_data);
  EXPECT_STREQ(e.what(), "outer: inner: broken");
  EXPECT_EQ(with_context("x", [] { return 7; }), 7);
}

TEST(Problems, OneOrManyOrNone) {
  Problems p;
  EXPECT_NO_THROW(p.raise(Kind::usage, "head"));
  p.add("a: wrong");
  EXPECT_STREQ(caught([&] { p.raise(Kind::usage, "head"); }).what(), "head: a: wrong");
  p.add("b: wrong");
  const Error e = caught([&] { p.raise(Kind::mismatch, "head"); });
  EXPECT_EQ(e.kind(), Kind::mismatch);
  EXPECT_STREQ(e.what(), "head (2 problems):\n  a: wrong\n  b: wrong");
  for (int i = 2; i < 1000; ++i) p.add("c: wrong");
  const std::string many = caught([&] { p.raise(Kind::mismatch, "head"); }).what();
  EXPECT_TRUE(many.starts_with("head (1000 problems):\n  a: wrong")) << many;
  EXPECT_TRUE(many.ends_with("  c: wrong\n  and so on")) << many;
  EXPECT_EQ(std::count(many.begin(), many.end(), '\n'), 51);
}

}  // namespace
