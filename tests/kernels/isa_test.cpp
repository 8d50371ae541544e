#include "lmxlab/kernels/isa.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/kernels/isa_test.cpp"
#include <hwy/foreach_target.h>
// Highway's header comes after foreach_target.h.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {
int64_t compiled_for() {
  return HWY_TARGET;
}
int64_t vector_bytes() {
  return 4 *
         static_cast<int64_t>(hwy::HWY_NAMESPACE::Lanes(hwy::HWY_NAMESPACE::ScalableTag<float>()));
}
}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

HWY_EXPORT(compiled_for);
HWY_EXPORT(vector_bytes);

struct Forced {  // one set for the time of a test
  explicit Forced(Isa isa) { set_isa(isa); }
  ~Forced() { set_isa(isas().back()); }
};

int64_t target_of(Isa isa) {
  switch (isa) {
    case Isa::sse4: return HWY_SSE4;
    case Isa::avx2: return HWY_AVX2;
    case Isa::avx512:
    case Isa::avx512_bf16:
    case Isa::amx: return HWY_AVX3;
    case Isa::neon: return HWY_NEON;
    default: return HWY_STATIC_TARGET;
  }
}

int64_t bytes_of(Isa isa) {
  switch (isa) {
    case Isa::scalar: return 4;
    case Isa::sse4:
    case Isa::neon: return 16;
    case Isa::avx2: return 32;
    default: return 64;
  }
}

const std::vector<Isa> kAll{Isa::scalar,      Isa::sse4, Isa::avx2, Isa::avx512,
                            Isa::avx512_bf16, Isa::amx,  Isa::neon};

TEST(Isa, StartsWithTheBest) {
  ASSERT_FALSE(isas().empty());
  EXPECT_EQ(isa(), isas().back());
  EXPECT_EQ(HWY_DYNAMIC_DISPATCH(compiled_for)(), target_of(isa()));
}

TEST(Isa, ListsEachOnceTheWeakestFirst) {
  for (size_t i = 1; i < isas().size(); i++) {
    EXPECT_LT(isas()[i - 1], isas()[i]);
  }
#if defined(__x86_64__)
  EXPECT_EQ(isas().front(), Isa::scalar);
#elif defined(__aarch64__)
  EXPECT_EQ(isas(), std::vector{Isa::neon});
#endif
}

TEST(Isa, DispatchFollowsEveryChoiceInAnyOrder) {
  const Forced scope(isa());
  auto order = isas();
  order.insert(order.end(), isas().rbegin(), isas().rend());  // up, down,
  order.push_back(isas().back());                             // and across
  order.push_back(isas().front());
  for (const Isa chosen : order) {
    set_isa(chosen);
    EXPECT_EQ(isa(), chosen);
    EXPECT_EQ(HWY_DYNAMIC_DISPATCH(compiled_for)(), target_of(chosen)) << name(chosen);
    if (target_of(chosen) != HWY_EMU128) {
      EXPECT_EQ(HWY_DYNAMIC_DISPATCH(vector_bytes)(), bytes_of(chosen)) << name(chosen);
    }
  }
}

// Highway's own lazy choice would let a second thread see all sets while the first one looks.
TEST(Isa, AChoiceIsMadeBeforeTheFirstCall) {
  const Forced scope(isas().front());
#if defined(__x86_64__)
  EXPECT_TRUE(hwy::GetChosenTarget().IsInitialized());
#endif
  std::atomic<int> wrong{0};
  for (int i = 0; i < 200; i++) {
    set_isa(isas()[i % isas().size()]);
    const auto expected = target_of(isa());
    parallel_parts(4, [&](int64_t) {
      if (HWY_DYNAMIC_DISPATCH(compiled_for)() != expected) wrong++;
    });
  }
  EXPECT_EQ(wrong, 0);
}

TEST(Isa, AChoiceDoesNotShrinkTheList) {
  const auto before = isas();
  const Forced scope(isas().front());
  EXPECT_EQ(isas(), before);
}

TEST(Isa, NamesComeBack) {
  for (const Isa each : kAll) {
    EXPECT_EQ(isa_named(name(each)), each);
  }
}

TEST(Isa, AnUnknownNameIsOneErrorThatListsTheKnown) {
  for (const std::string text : {"", "AVX2", "avx", "sse4 ", "avx5120"}) {
    try {
      isa_named(text);
      ADD_FAILURE() << '"' << text << "\" was taken";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), Kind::usage);
      EXPECT_NE(std::string(e.what()).find('"' + text + '"'), std::string::npos) << e.what();
      for (const Isa each : kAll) {
        EXPECT_NE(std::string(e.what()).find(name(each)), std::string::npos) << e.what();
      }
    }
  }
}

TEST(Isa, ALackingSetIsAnErrorAndChangesNothing) {
  const Isa before = isa();
  int lacking = 0;
  for (const Isa each : kAll) {
    if (std::find(isas().begin(), isas().end(), each) != isas().end()) continue;
    lacking++;
    try {
      set_isa(each);
      ADD_FAILURE() << name(each) << " was taken";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), Kind::usage);
      EXPECT_NE(std::string(e.what()).find(name(each)), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find(name(isas().back())), std::string::npos) << e.what();
    }
    EXPECT_EQ(isa(), before);
    EXPECT_EQ(HWY_DYNAMIC_DISPATCH(compiled_for)(), target_of(before));
  }
  EXPECT_GT(lacking, 0);  // no processor is both
}

}  // namespace
}  // namespace lmxlab::kernels
#endif
