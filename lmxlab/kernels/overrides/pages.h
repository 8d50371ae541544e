// Memory straight from the system, on huge pages where it has them: weights are read a third faster
// there than on pages of 4 KiB, and a page fault costs more than writing the page.
#pragma once

#include <cstddef>

namespace lmxlab::kernels::pages {

/// On a 64-byte line; nullptr if the system gives no more. What is small lies side by side in
/// regions that begin on a huge page.
void* take(size_t bytes);
/// @param bytes  as taken
void give(void* memory, size_t bytes) noexcept;
/// For the address sanitizer: of so many bytes only the first n may be touched.
void allow(void* memory, size_t n, size_t bytes) noexcept;

}  // namespace lmxlab::kernels::pages
