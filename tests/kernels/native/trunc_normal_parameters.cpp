// Prints the parameters of a truncated normal as hexadecimal bytes, for tests that launch kernels
// from PTX.
#include <cstdio>
#include <cstdlib>

#include "math/random/truncation.h"

int main(int argc, char** argv) {
  if (argc != 5) return 1;
  const auto parameters = initstats::make_trunc_normal<float>(
      initstats::DType::float32, std::atof(argv[1]), std::atof(argv[2]), std::atof(argv[3]),
      std::atof(argv[4]));
  unsigned char bytes[sizeof(parameters)];
  memcpy(bytes, &parameters, sizeof(parameters));
  for (const unsigned char byte : bytes) std::printf("%02x", byte);
  return 0;
}
