// Checks of tensor arguments, written once for every op and device: what a message says, a test
// asserts.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "math/core/items.h"
#include "math/core/layout.h"
#include "math/core/scalar.h"

namespace initstats::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Throws std::runtime_error("initstats.<op>: expected <rule>, got <what>").
[[noreturn]] void fail(const std::string& op, const std::string& rule, const std::string& got);

// The storage type of a fill, or nothing for a dtype that fills do not support.
std::optional<DType> fill_dtype(ScalarType dtype);

// The storage type of a tensor whose statistics are taken.
ItemType item_type(const std::string& op, const Tensor& tensor);

// The layout of a tensor with the given sizes and strides that lies at `offset` in a logical tensor
// of `full` sizes; both may be null for a tensor that is its own logical tensor. Fails where more
// than Layout::kMaxDims dimensions remain after merging, and where it does not lie inside.
Layout layout_of(const std::string& op, int64_t dims, const int64_t* sizes, const int64_t* strides,
                 const int64_t* offset, const int64_t* full);

// The boxes of a list of tensors, Note [Box]: an op's `box` argument is empty, or for each tensor
// its offset in every dimension and then the full sizes.
class Boxes {
 public:
  Boxes(const std::string& op, const std::vector<Tensor>& tensors, const std::vector<int64_t>& box);

  // The layout of tensors[i]; fails where its storage does not hold it.
  Layout layout(size_t i) const;

 private:
  std::string op_;
  const std::vector<Tensor>& tensors_;
  const std::vector<int64_t>& box_;
  std::vector<size_t> start_;  // of each tensor's numbers in box_, empty if box_ is
};

// Fails if elements of the layout may share memory (expanded tensors, overlapping windows).
void check_no_overlap(const std::string& op, const Layout& layout);

// Fails unless the tensor's storage holds every element: one that was freed or resized under a
// view, as FSDP2 does, would be read or written past its end.
void check_storage(const std::string& op, const Tensor& tensor);

// The same from numbers: bytes of the storage and of an element, offset, sizes and strides.
void check_storage(const std::string& op, int64_t storage_bytes, int64_t item_bytes, int64_t offset,
                   int64_t dims, const int64_t* sizes, const int64_t* strides);

// Fails unless all tensors are on one device.
void check_one_device(const std::string& op, const std::vector<Tensor>& tensors);

}  // namespace initstats::ops
