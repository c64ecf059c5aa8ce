// Checks of tensor arguments.
#include "ops/checks.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <stdexcept>

namespace initstats::ops {

void fail(const std::string& op, const std::string& rule, const std::string& got) {
  throw std::runtime_error("initstats." + op + ": expected " + rule + ", got " + got);
}

std::optional<DType> fill_dtype(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Double:
      return DType::float64;
    default:
      return std::nullopt;
  }
}

ItemType item_type(const std::string& op, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return ItemType::float32;
    case ScalarType::Half:
      return ItemType::float16;
    case ScalarType::BFloat16:
      return ItemType::bfloat16;
    case ScalarType::Double:
      return ItemType::float64;
    case ScalarType::Float8_e4m3fn:
      return ItemType::float8_e4m3fn;
    case ScalarType::Float8_e5m2:
      return ItemType::float8_e5m2;
    case ScalarType::Bool:
    case ScalarType::Byte:
      return ItemType::uint8;
    case ScalarType::Char:
      return ItemType::int8;
    case ScalarType::Short:
      return ItemType::int16;
    case ScalarType::Int:
      return ItemType::int32;
    case ScalarType::Long:
      return ItemType::int64;
    default:
      break;
  }
  fail(op,
       "a tensor of dtype float16, bfloat16, float32, float64, float8_e4m3fn, float8_e5m2, bool, "
       "uint8, int8, int16, "
       "int32 or int64",
       "another dtype");
}

Boxes::Boxes(const std::string& op, const std::vector<Tensor>& tensors,
             const std::vector<int64_t>& box)
    : op_(op), tensors_(tensors), box_(box) {
  if (box.empty()) return;
  size_t numbers = 0;
  for (const Tensor& tensor : tensors) {
    start_.push_back(numbers);
    numbers += 2 * static_cast<size_t>(tensor.dim());
  }
  if (numbers != box.size()) {
    fail(op,
         "box to hold the offsets and full sizes of every tensor, " + std::to_string(numbers) +
             " numbers",
         std::to_string(box.size()));
  }
}

Layout Boxes::layout(size_t i) const {
  const Tensor& tensor = tensors_[i];
  check_storage(op_, tensor);
  const int64_t dims = tensor.dim();
  const int64_t* offset = start_.empty() ? nullptr : box_.data() + start_[i];
  return layout_of(op_, dims, tensor.sizes().data(), tensor.strides().data(), offset,
                   offset == nullptr ? nullptr : offset + dims);
}

namespace {

// Collects dimensions from the innermost outwards, and merges those that are contiguous in memory
// and in the logical tensor alike.
class LayoutBuilder {
 public:
  LayoutBuilder(const std::string& op, int64_t dims) : op_(op), dims_(dims) {
    layout_.count = 1;
    layout_.dims = 1;
    layout_.size[0] = layout_.stride[0] = layout_.logical[0] = 1;
  }

  void add(int64_t size, int64_t stride, int64_t logical) {
    layout_.count *= size;
    if (size == 1) return;
    const bool merges = used_ > 0 &&
                        stride == layout_.size[used_ - 1] * layout_.stride[used_ - 1] &&
                        logical == layout_.size[used_ - 1] * layout_.logical[used_ - 1];
    if (merges) {
      layout_.size[used_ - 1] *= size;
      return;
    }
    if (used_ == Layout::kMaxDims) {
      fail(op_,
           "at most " + std::to_string(Layout::kMaxDims) + " dimensions that are not contiguous",
           std::to_string(dims_) + " (call contiguous() first)");
    }
    layout_.size[used_] = size;
    layout_.stride[used_] = stride;
    layout_.logical[used_] = logical;
    ++used_;
  }

  Layout finish(int64_t first_index) {
    layout_.first_index = first_index;
    if (used_ > 0) {
      layout_.dims = used_;
      std::reverse(layout_.size, layout_.size + used_);
      std::reverse(layout_.stride, layout_.stride + used_);
      std::reverse(layout_.logical, layout_.logical + used_);
    }
    return layout_;
  }

 private:
  const std::string& op_;
  int64_t dims_;
  Layout layout_{};
  int used_ = 0;
};

}  // namespace

Layout layout_of(const std::string& op, int64_t dims, const int64_t* sizes, const int64_t* strides,
                 const int64_t* offset, const int64_t* full) {
  if (full == nullptr) full = sizes;
  LayoutBuilder builder(op, dims);
  int64_t logical = 1, first_index = 0;  // logical stride of dimension d
  for (int64_t d = dims - 1; d >= 0; --d) {
    const int64_t first = offset == nullptr ? 0 : offset[d];
    if (first < 0 || sizes[d] > full[d] - first) {
      fail(op, "a box inside its full sizes",
           "offset " + std::to_string(first) + " and size " + std::to_string(sizes[d]) +
               " in a full size of " + std::to_string(full[d]) + " (dimension " +
               std::to_string(d) + ")");
    }
    first_index += first * logical;
    builder.add(sizes[d], strides[d], logical);
    if (full[d] != 0 && logical > INT64_MAX / full[d]) {
      fail(op, "full sizes with less than 2^63 elements", "more");
    }
    logical *= full[d];
  }
  return builder.finish(first_index);
}

void check_no_overlap(const std::string& op, const Layout& layout) {
  if (layout.count <= 1 || (layout.dims == 1 && layout.stride[0] != 0)) return;
  // Dimensions by growing stride: each must step over everything that the ones before it reach.
  std::vector<int> order(static_cast<size_t>(layout.dims));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return std::abs(layout.stride[a]) < std::abs(layout.stride[b]); });
  int64_t reach = 0;
  for (const int d : order) {
    const int64_t stride = std::abs(layout.stride[d]);
    if (stride <= reach) {
      fail(op, "a tensor whose elements do not share memory",
           "overlapping strides (use clone() on expanded tensors)");
    }
    reach += (layout.size[d] - 1) * stride;
  }
}

void check_storage(const std::string& op, int64_t storage_bytes, int64_t item_bytes, int64_t offset,
                   int64_t dims, const int64_t* sizes, const int64_t* strides) {
  int64_t last = offset;  // of the elements
  for (int64_t d = 0; d < dims; ++d) {
    if (sizes[d] == 0) return;
    last += (sizes[d] - 1) * strides[d];
  }
  const int64_t needed = (last + 1) * item_bytes;
  if (storage_bytes < needed) {
    fail(op, "a tensor whose storage holds its elements, " + std::to_string(needed) + " bytes",
         std::to_string(storage_bytes) +
             " (it was freed or resized, as FSDP2 frees unsharded parameters; call reshard())");
  }
}

void check_storage(const std::string& op, const Tensor& tensor) {
  int64_t storage_bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &storage_bytes));
  check_storage(op, storage_bytes, tensor.element_size(), tensor.storage_offset(), tensor.dim(),
                tensor.sizes().data(), tensor.strides().data());
}

void check_one_device(const std::string& op, const std::vector<Tensor>& tensors) {
  if (tensors.empty()) return;
  const bool on_cpu = tensors[0].is_cpu();
  const auto index = tensors[0].get_device_index();
  for (const Tensor& tensor : tensors) {
    if (tensor.is_cpu() != on_cpu || tensor.get_device_index() != index) {
      fail(op, "all tensors on one device", "tensors on several devices");
    }
  }
}

}  // namespace initstats::ops
