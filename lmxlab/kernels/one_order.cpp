#include "lmxlab/kernels/one_order.h"

#include <atomic>

namespace lmxlab::kernels {
namespace {

std::atomic<int> living{0};

}  // namespace

OneOrder::OneOrder(bool on) : on_(on) {
  if (on_) living++;
}
OneOrder::~OneOrder() {
  if (on_) living--;
}
bool one_order() {
  return living != 0;
}

}  // namespace lmxlab::kernels
