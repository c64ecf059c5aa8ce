// All ops of the library `initstats`: the table of contents. Implementations are registered beside
// their code.
#include <torch/csrc/stable/library.h>

#include <initializer_list>
#include <string>

#include "math/random/distributions.h"

namespace {

// The schema of a distribution's op.
std::string fill_schema(const char* name, std::initializer_list<const char*> parameters) {
  std::string schema = std::string(name) + "_(Tensor(a!)[] tensors, int[] keys";
  for (const char* parameter : parameters) schema += std::string(", float[] ") + parameter;
  return schema + ", int[] box=[]) -> ()";
}

}  // namespace

// Lists of parameters hold one number for all tensors or one per tensor; keys hold one per tensor
// (64 bits, as two's complement). box: Note [Box], empty or for each tensor its offsets and then
// the full sizes.
STABLE_TORCH_LIBRARY(initstats, m) {
#define INITSTATS_DEFINE(name, Dist, ...) m.def(fill_schema(#name, {__VA_ARGS__}).c_str());
  INITSTATS_DISTRIBUTIONS(INITSTATS_DEFINE)
#undef INITSTATS_DEFINE
  m.def("dirac_(Tensor(a!)[] tensors, int[] groups, float[] value) -> ()");
  m.def("sparse_(Tensor(a!)[] tensors, int[] keys, float[] std, int[] zeros, int[] box) -> ()");
  // minus: empty, or one tensor per tensor: the statistics are those of the differences.
  m.def(
      "stats(Tensor[] tensors, int groups, int scale, int[] box, Tensor[] minus) -> (Tensor, "
      "Tensor, Tensor)");
  // The statistics of tensors^2 / max(over, 1e-16) * factors, one tensor and one factor per tensor;
  // with_over: then those of over.
  m.def(
      "square_ratio_stats(Tensor[] tensors, Tensor[] over, float[] factors, int groups, int scale, "
      "bool with_over=False) -> (Tensor, Tensor, Tensor)");
  // The statistics of tensors, which are copied to `copies`, one per tensor of the same layout.
  m.def(
      "copy_stats_(Tensor[] tensors, Tensor(a!)[] copies, int groups, int scale) -> (Tensor, "
      "Tensor, Tensor)");
  m.def("slice_stats(Tensor tensor, int kept) -> (Tensor, Tensor)");
  // Orthogonal matrices, csrc/math/orthogonal/reflectors.h. vectors [matrices, rows, at least size
  // - first], squares and diagonal [matrices, rows], of which reflectors 0, ..., count - 1 are
  // real, the rest zeros; gram [panels, k, k], squares [panels, k]; matrices [rows, columns] or
  // [batch, rows, columns] each; first: none, or the number of each tensor's first matrix in a
  // larger batch.
  m.def(
      "reflectors_(Tensor(a!) vectors, Tensor(b!) squares, Tensor(c!) diagonal, int[] keys, "
      "int[] stream_rows, int first, int size, int count) -> ()");
  m.def("panel_factors(Tensor gram, Tensor squares) -> Tensor");
  m.def("small_orthogonal_(Tensor(a!)[] matrices, int[] keys, int[] first, float[] gain) -> ()");
}
