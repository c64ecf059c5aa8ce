// Prints what `make` of a distribution gives for float32 as hexadecimal bytes, for tests that
// launch kernels from PTX: distribution_parameters NAME DTYPE NUMBERS...
#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "math/random/distributions.h"

namespace {

using namespace initstats;

template <class Dist, size_t... J>
Dist make(DType dtype, char** numbers, std::index_sequence<J...>) {
  return Dist::make(dtype, std::atof(numbers[J])...);
}

template <class Dist, size_t kCount>
void print(DType dtype, char** numbers) {
  const Dist parameters = make<Dist>(dtype, numbers, std::make_index_sequence<kCount>{});
  unsigned char bytes[sizeof(parameters)];
  memcpy(bytes, &parameters, sizeof(parameters));
  for (const unsigned char byte : bytes) std::printf("%02x", byte);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 1;
  const std::string name = argv[1];
  const DType dtype = argv[2] == std::string("bfloat16") ? DType::bfloat16 : DType::float32;
#define INITSTATS_PRINT(distribution, Dist, ...)         \
  constexpr int distribution = count_of({__VA_ARGS__});  \
  if (name == #distribution && argc == 3 + distribution) \
    return print<Dist<float>, distribution>(dtype, argv + 3), 0;
  INITSTATS_DISTRIBUTIONS(INITSTATS_PRINT);
  return 1;
}
