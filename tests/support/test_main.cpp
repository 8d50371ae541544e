#include <gtest/gtest.h>
#ifndef LMXLAB_TEST_WITHOUT_MLX
#include <mlx/mlx.h>
#endif

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
#ifndef LMXLAB_TEST_WITHOUT_MLX
  mlx::core::set_compile_mode(mlx::core::CompileMode::no_fuse);
#endif
  const int result = RUN_ALL_TESTS();
#ifndef LMXLAB_TEST_WITHOUT_MLX
  mlx::core::synchronize();
#endif
  return result;
}
