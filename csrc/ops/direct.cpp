// Calls from Python that go past torch's dispatcher: checks, keys and op in one. They take what is
// plain, and say so where something is not: then nothing has happened, and the caller goes the long
// way, which knows the rest and has the words for what is wrong.
//
// Note [Direct calls]. Plain are dense tensors of the classes torch.Tensor and nn.Parameter, on one
// device that this build has kernels for, of the dtypes of the op, that are leaves of autograd and
// not negated views, while no mode sees ops, no profiler records them and nothing is traced. On
// these the dispatcher would do nothing but call the op for the device. A handle of torch's C ABI,
// which tells where elements lie, is the address of an at::Tensor. Every Python tensor holds one,
// in a place that torch does not promise: it is looked for, by the address that the tensor's
// `_cdata` tells, and where it is not found nothing is plain.
#include "ops/direct.h"

#include <Python.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <optional>
#include <utility>

#include "math/random/keys.h"
#include "math/stats/buckets.h"
#include "ops/checks.h"
#include "ops/python_methods.h"
#include "ops/register.h"

namespace initstats::ops {

namespace {

// Which dtypes have statistics, by torch's number.
struct ItemTypes {
  static constexpr int kNumbers = 128;
  bool known[kNumbers] = {};
  ItemType types[kNumbers] = {};

  ItemTypes() {
    add(aoti_torch_dtype_float32(), ItemType::float32);
    add(aoti_torch_dtype_float16(), ItemType::float16);
    add(aoti_torch_dtype_bfloat16(), ItemType::bfloat16);
    add(aoti_torch_dtype_float64(), ItemType::float64);
    add(aoti_torch_dtype_float8_e4m3fn(), ItemType::float8_e4m3fn);
    add(aoti_torch_dtype_float8_e5m2(), ItemType::float8_e5m2);
    add(aoti_torch_dtype_bool(), ItemType::uint8);
    add(aoti_torch_dtype_uint8(), ItemType::uint8);
    add(aoti_torch_dtype_int8(), ItemType::int8);
    add(aoti_torch_dtype_int16(), ItemType::int16);
    add(aoti_torch_dtype_int32(), ItemType::int32);
    add(aoti_torch_dtype_int64(), ItemType::int64);
  }

 private:
  void add(int32_t number, ItemType type) {
    if (number < 0 || number >= kNumbers) return;
    known[number] = true;
    types[number] = type;
  }
};

std::optional<ItemType> item_type(int32_t dtype) {
  static const ItemTypes items;
  if (dtype < 0 || dtype >= ItemTypes::kNumbers || !items.known[dtype]) return std::nullopt;
  return items.types[dtype];
}

std::optional<DType> fill_dtype(ItemType type) {
  switch (type) {
    case ItemType::float32:
      return DType::float32;
    case ItemType::float16:
      return DType::float16;
    case ItemType::bfloat16:
      return DType::bfloat16;
    case ItemType::float64:
      return DType::float64;
    default:
      return std::nullopt;
  }
}

// ---- Python

// An object that is owned.
class Object {
 public:
  explicit Object(PyObject* owned = nullptr) : object_(owned) {}
  Object(Object&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Object& operator=(Object&&) = delete;
  ~Object() { Py_XDECREF(object_); }
  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_;
};

// An exception of Python is set, and to be raised.
struct Raised {};

// Something is not plain.
struct NotPlain {};

// What is needed of torch: bound once, at import.
struct Torch {
  PyObject *tensor, *parameter;
  PyObject* seen;               // tuple of functions of which one is true where others see ops
  PyObject* draw;               // (count, generator) -> int64 tensor
  PyObject* increment_version;  // (tensor or list)
  PyObject* take_handles;       // (list of capsules of owned handles) -> list of tensors, or None
} torch_of_python;

// Methods without arguments and attributes, as their classes hold them: found by name they take
// half as long again. What is written in C is called without Python in between, which would only
// look once more whether the object is of the class.
struct Method {
  PyObject* descriptor;
  PyCFunction function;  // null where it is not of that kind
};
struct Attribute {
  PyObject* descriptor;
  const PyGetSetDef* definition;  // likewise
};

struct Members {
  Method is_neg;
  Attribute is_leaf;
} members;

Object call(PyObject* function, std::initializer_list<PyObject*> arguments) {
  Object result(PyObject_Vectorcall(function, arguments.begin(), arguments.size(), nullptr));
  if (!result) throw Raised{};
  return result;
}

bool nobody_sees_ops() {
  const Torch& torch = torch_of_python;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(torch.seen); ++i) {
    const Object seen = call(PyTuple_GET_ITEM(torch.seen, i), {});
    const int truth = PyObject_IsTrue(seen.get());
    if (truth < 0) throw Raised{};
    if (truth != 0) return false;
  }
  return true;
}

Method method_of(PyObject* type, const char* name) {
  PyObject* const descriptor = PyObject_GetAttrString(type, name);
  if (descriptor == nullptr || !Py_IS_TYPE(descriptor, &PyMethodDescr_Type))
    return {descriptor, nullptr};
  const PyMethodDef* const found = reinterpret_cast<PyMethodDescrObject*>(descriptor)->d_method;
  return {descriptor, found->ml_flags == METH_NOARGS ? found->ml_meth : nullptr};
}

Attribute attribute_of(PyObject* type, const char* name) {
  PyObject* const descriptor = PyObject_GetAttrString(type, name);
  if (descriptor == nullptr || !Py_IS_TYPE(descriptor, &PyGetSetDescr_Type))
    return {descriptor, nullptr};
  return {descriptor, reinterpret_cast<PyGetSetDescrObject*>(descriptor)->d_getset};
}

// Both for objects that surely are of the class of the member.
Object call(const Method& method, PyObject* object) {
  if (method.function == nullptr) return call(method.descriptor, {object});
  Object result(method.function(object, nullptr));
  if (!result) throw Raised{};
  return result;
}

Object attribute(PyObject* object, const Attribute& member) {
  PyObject* const descriptor = member.descriptor;
  const descrgetfunc get = Py_TYPE(descriptor)->tp_descr_get;
  if (get == nullptr) throw NotPlain{};
  Object result(member.definition != nullptr
                    ? member.definition->get(object, member.definition->closure)
                    : get(descriptor, object, reinterpret_cast<PyObject*>(Py_TYPE(object))));
  if (!result) throw Raised{};
  return result;
}

// ---- tensors

// How many bytes after the begin of a Python tensor its at::Tensor begins, which is a pointer to
// what `_cdata` tells the address of. That of a Parameter begins there too.
std::optional<size_t> find_tensor_inside(PyObject* tensor) {
  const Object told(PyObject_GetAttrString(tensor, "_cdata"));
  void* const address = told ? PyLong_AsVoidPtr(told.get()) : nullptr;
  PyErr_Clear();
  const size_t size =
      static_cast<size_t>(reinterpret_cast<PyTypeObject*>(torch_of_python.tensor)->tp_basicsize);
  for (size_t at = sizeof(PyObject); at + sizeof(address) <= size; at += sizeof(address)) {
    void* word;
    memcpy(&word, reinterpret_cast<char*>(tensor) + at, sizeof(word));
    if (address != nullptr && word == address) return at;
  }
  return std::nullopt;
}

// For objects of plain classes.
AtenTensorHandle handle_of(PyObject* tensor) {
  static const std::optional<size_t> inside = find_tensor_inside(tensor);
  if (!inside) throw NotPlain{};
  char* const place = reinterpret_cast<char*>(tensor) + *inside;
  void* address;
  memcpy(&address, place, sizeof(address));
  if (address == nullptr) throw NotPlain{};
  return reinterpret_cast<AtenTensorHandle>(place);
}

// What a function of torch's C ABI tells of a tensor; one that it cannot tell of is not plain.
template <class Told>
Told told(AOTITorchError (*function)(AtenTensorHandle, Told*), AtenTensorHandle tensor) {
  Told result;
  if (function(tensor, &result) != AOTI_TORCH_SUCCESS) throw NotPlain{};
  return result;
}

// The number of elements if they are one run in C order, else -1.
int64_t run_length(int64_t dims, const int64_t* sizes, const int64_t* strides) {
  int64_t count = 1;
  for (int64_t d = dims - 1; d >= 0; --d) {
    if (sizes[d] == 1) continue;
    if (strides[d] != count) return -1;
    if (__builtin_mul_overflow(count, sizes[d], &count) || count == 0) return -1;
  }
  return count;
}

void add_layout(AtenTensorHandle tensor, Layouts& layouts) {
  const int64_t dims = told(aoti_torch_get_dim, tensor);
  const int64_t* const sizes = told(aoti_torch_get_sizes, tensor);
  const int64_t* const strides = told(aoti_torch_get_strides, tensor);
  if (const int64_t count = run_length(dims, sizes, strides); count >= 0) {
    return layouts.add_run(count);
  }
  try {
    layouts.add(layout_of("", dims, sizes, strides, nullptr, nullptr));
  } catch (const std::exception&) {
    throw NotPlain{};
  }
}

// The elements from the first one to the last one in memory, of a layout that is not empty.
int64_t reach(const Layout& layout) {
  int64_t steps = 0;
  for (int d = 0; d < layout.dims; ++d) steps += (layout.size[d] - 1) * layout.stride[d];
  return steps + 1;
}

int64_t reach(const Layouts& layouts, size_t i) {
  if (layouts.is_run(i)) return layouts.count(i);
  return layouts.with(i, [](const Layout& layout) { return reach(layout); });
}

// Whether the storage, which may have been freed or shortened, holds all `items` elements from the
// first one on.
bool storage_holds(AtenTensorHandle tensor, ItemType type, int64_t items) {
  const int64_t end = told(aoti_torch_get_storage_offset, tensor) + items;
  return end * item_size(type) <= told(aoti_torch_get_storage_size, tensor);
}

// Where all tensors of a call lie.
struct Place {
  int32_t device_type, device_index;
  Kernels kernels;
};

bool of_plain_class(PyObject* tensor) {
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
  return type == torch_of_python.tensor || type == torch_of_python.parameter;
}

template <class Data>
struct Plain {
  Data* data;  // null without elements
  ItemType type;
};

// Adds the tensor's layout to `layouts`. `data_of` is the function of the C ABI that tells where
// elements are to be read or written.
template <class Data>
Plain<Data> plain(PyObject* tensor, AOTITorchError (*data_of)(AtenTensorHandle, Data**),
                  const Place& place, Layouts& layouts) {
  if (!of_plain_class(tensor)) throw NotPlain{};
  if (call(members.is_neg, tensor).get() != Py_False) throw NotPlain{};
  static const int32_t strided = aoti_torch_layout_strided();
  const AtenTensorHandle handle = handle_of(tensor);
  if (told(aoti_torch_get_device_type, handle) != place.device_type) throw NotPlain{};
  if (place.kernels == Kernels::cuda &&
      told(aoti_torch_get_device_index, handle) != place.device_index)
    throw NotPlain{};
  if (told(aoti_torch_get_layout, handle) != strided) throw NotPlain{};
  const std::optional<ItemType> type = item_type(told(aoti_torch_get_dtype, handle));
  if (!type) throw NotPlain{};
  add_layout(handle, layouts);
  const size_t last = layouts.size() - 1;
  if (layouts.count(last) == 0) return {nullptr, *type};
  if (!storage_holds(handle, *type, reach(layouts, last))) throw NotPlain{};
  Data* const data = told(data_of, handle);
  if (data == nullptr) throw NotPlain{};
  return {data, *type};
}

void add_target(PyObject* tensor, const Place& place, FillTargets& targets) {
  const Plain<void> found = plain(tensor, torch_get_mutable_data_ptr, place, targets.layouts);
  const std::optional<DType> dtype = fill_dtype(found.type);
  if (!dtype || attribute(tensor, members.is_leaf).get() != Py_True) throw NotPlain{};
  const size_t i = targets.items.size();
  if (!targets.layouts.is_run(i)) {
    try {
      check_no_overlap("", targets.layouts[i]);
    } catch (const std::exception&) {
      throw NotPlain{};
    }
  }
  targets.items.push_back({found.data, 0, *dtype});
}

// The tensors of a list, or one tensor.
struct Tensors {
  explicit Tensors(PyObject* given) {
    if (PyList_CheckExact(given)) {
      items = PySequence_Fast_ITEMS(given);
      count = static_cast<size_t>(PyList_GET_SIZE(given));
    } else {
      one = given;
      items = &one;
      count = 1;
    }
  }
  PyObject* one = nullptr;
  PyObject** items;
  size_t count;
};

// Where the first tensor lies, and so all of them have to, or nothing if it is not plain. Every
// call for DTensors ends here, without an exception, which takes longer than all else.
std::optional<Place> place_of(const Tensors& tensors) {
  if (tensors.count == 0 || !of_plain_class(tensors.items[0])) return std::nullopt;
  const AtenTensorHandle first = handle_of(tensors.items[0]);
  const int32_t type = told(aoti_torch_get_device_type, first);
  const Kernels kernels = kernels_for(type);
  if (kernels == Kernels::none) return std::nullopt;
  return Place{type, told(aoti_torch_get_device_index, first), kernels};
}

// The first and the last byte of a tensor that is not empty.
struct Span {
  uintptr_t first, last;
};

// Whether all targets are surely in memory of their own.
bool separate(const FillTargets& targets) {
  const size_t n = targets.items.size();
  if (n == 1) return true;
  std::vector<Span> spans;
  spans.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    const FillTarget& target = targets.items[i];
    // One that occurs twice is an error all the same.
    if (targets.layouts.count(i) == 0) return false;
    const int64_t bytes = target.dtype == DType::float64   ? 8
                          : target.dtype == DType::float32 ? 4
                                                           : 2;
    const uintptr_t first = reinterpret_cast<uintptr_t>(target.data);
    spans.push_back({first, first + static_cast<uintptr_t>(reach(targets.layouts, i) * bytes - 1)});
  }
  const auto is_before = [](const Span& a, const Span& b) { return a.first < b.first; };
  // Tensors made one after the other often lie so.
  if (!std::is_sorted(spans.begin(), spans.end(), is_before))
    std::sort(spans.begin(), spans.end(), is_before);
  for (size_t i = 1; i < spans.size(); ++i)
    if (spans[i].first <= spans[i - 1].last) return false;
  return true;
}

double real(PyObject* number) {
  if (PyFloat_CheckExact(number)) return PyFloat_AS_DOUBLE(number);
  if (!PyLong_CheckExact(number)) throw NotPlain{};
  const double value = PyLong_AsDouble(number);
  if (value == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    throw NotPlain{};
  }
  return value;
}

// One number for all tensors or one each, of a tuple with an entry per parameter.
std::vector<std::vector<double>> reals(PyObject* values, size_t tensors) {
  std::vector<std::vector<double>> numbers(static_cast<size_t>(PyTuple_GET_SIZE(values)));
  for (size_t j = 0; j < numbers.size(); ++j) {
    PyObject* const value = PyTuple_GET_ITEM(values, static_cast<Py_ssize_t>(j));
    if (!PyList_CheckExact(value)) {
      numbers[j].assign(1, real(value));
      continue;
    }
    if (static_cast<size_t>(PyList_GET_SIZE(value)) != tensors || tensors < 2) throw NotPlain{};
    numbers[j].reserve(tensors);
    for (size_t i = 0; i < tensors; ++i)
      numbers[j].push_back(real(PyList_GET_ITEM(value, static_cast<Py_ssize_t>(i))));
  }
  return numbers;
}

// The latest parameters that a family's check took.
class Accepted {
 public:
  static constexpr size_t kMostParameters = 4;
  struct Parameters {
    const PyObject* check;
    DType dtype;
    double numbers[kMostParameters];
  };

  Parameters& place(const Parameters& given) {
    uint64_t hash = static_cast<uint64_t>(given.dtype) ^ reinterpret_cast<uintptr_t>(given.check);
    for (const double number : given.numbers)
      hash = (hash ^ bit_cast<uint64_t>(number)) * 0x9E3779B97F4A7C15;
    return places_[hash >> (64 - kBits)];
  }

 private:
  static constexpr int kBits = 6;
  Parameters places_[1 << kBits] = {};
};

bool same(const Accepted::Parameters& a, const Accepted::Parameters& b) {
  return a.check == b.check && a.dtype == b.dtype &&
         memcmp(a.numbers, b.numbers, sizeof(a.numbers)) == 0;  // by bits
}

// Calls the check of the family in Python, which raises for parameters that make no distribution.
void check_parameters(PyObject* check, PyObject* function, const Tensors& tensors,
                      const FillTargets& targets, const std::vector<std::vector<double>>& numbers) {
  static Accepted accepted;  // under the GIL
  Accepted::Parameters last{};
  const bool shared = std::all_of(numbers.begin(), numbers.end(),
                                  [](const auto& list) { return list.size() == 1; });
  for (size_t i = 0; i < tensors.count; ++i) {
    if (shared && i > 0 && targets.items[i].dtype == last.dtype) continue;
    Accepted::Parameters given{check, targets.items[i].dtype, {}};
    for (size_t j = 0; j < numbers.size(); ++j)
      given.numbers[j] = numbers[j][numbers[j].size() == 1 ? 0 : i];
    if (same(given, last)) continue;
    last = given;
    Accepted::Parameters& place = accepted.place(given);
    if (same(given, place)) continue;
    const Object dtype(PyObject_GetAttrString(tensors.items[i], "dtype"));
    if (!dtype) throw Raised{};
    PyObject* arguments[2 + Accepted::kMostParameters] = {function, dtype.get()};
    for (size_t j = 0; j < numbers.size(); ++j)
      arguments[2 + j] = PyFloat_FromDouble(given.numbers[j]);
    const Object done(PyObject_Vectorcall(check, arguments, 2 + numbers.size(), nullptr));
    for (size_t j = 0; j < numbers.size(); ++j) Py_XDECREF(arguments[2 + j]);
    if (!done) {
      if (!PyErr_ExceptionMatches(PyExc_ValueError)) throw Raised{};
      PyErr_Clear();
      throw NotPlain{};
    }
    place = given;
  }
}

// ---- keys

uint64_t seed_of(PyObject* seed) {
  if (!PyLong_CheckExact(seed)) throw NotPlain{};
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(seed, &overflow);
  if (overflow == 0) return static_cast<uint64_t>(value);
  const uint64_t unsigned_value = overflow > 0 ? PyLong_AsUnsignedLongLong(seed) : 0;
  if (overflow < 0 || PyErr_Occurred()) {
    PyErr_Clear();
    throw NotPlain{};
  }
  return unsigned_value;
}

uint64_t key_of_name(uint64_t seed, PyObject* name) {
  if (name == Py_None) return initstats::key_of(seed, nullptr, 0);
  if (!PyUnicode_Check(name)) throw NotPlain{};
  Py_ssize_t bytes;
  const char* const text = PyUnicode_AsUTF8AndSize(name, &bytes);
  if (text == nullptr) throw Raised{};
  return initstats::key_of(seed, text, static_cast<size_t>(bytes));
}

void keys_of_seed(PyObject* given_seed, PyObject* given_names, std::vector<FillTarget>& targets) {
  const uint64_t seed = seed_of(given_seed);
  if (given_names == Py_None) {
    for (size_t i = 0; i < targets.size(); ++i) {
      const std::string name = "#" + std::to_string(i);
      targets[i].key = initstats::key_of(seed, i == 0 ? nullptr : name.data(), name.size());
    }
    return;
  }
  const bool list = PyList_CheckExact(given_names);
  const size_t count = list ? static_cast<size_t>(PyList_GET_SIZE(given_names)) : 1;
  if (count != targets.size()) throw NotPlain{};
  for (size_t i = 0; i < count; ++i) {
    targets[i].key = key_of_name(
        seed, list ? PyList_GET_ITEM(given_names, static_cast<Py_ssize_t>(i)) : given_names);
  }
}

// Moves the generator, so that nothing may fail after it.
void draw_keys(PyObject* generator, std::vector<FillTarget>& targets) {
  const Object count(PyLong_FromSize_t(targets.size()));
  if (!count) throw Raised{};
  const Object draws = call(torch_of_python.draw, {count.get(), generator});
  const auto* const keys =
      static_cast<const uint64_t*>(told(torch_get_const_data_ptr, handle_of(draws.get())));
  for (size_t i = 0; i < targets.size(); ++i) targets[i].key = keys[i];
}

// ---- the functions of the module

const DirectFill& fill_named(PyObject* name) {
  for (const DirectFill& fill : direct_fills())
    if (PyUnicode_CompareWithASCIIString(name, fill.op.c_str()) == 0) return fill;
  throw NotPlain{};
}

// Elements on the CPU from which on other threads of Python may run meanwhile.
constexpr int64_t kWorthRelease = 4096;

// On CUDA they may always: a launch waits where the queue of the device is full, perhaps for
// something that a thread of Python has to do.
template <class Run>
void without_gil(Kernels kernels, int64_t elements, const Run& run) {
  if (kernels == Kernels::cpu && elements < kWorthRelease) return run();
  PyThreadState* const state = PyEval_SaveThread();
  std::exception_ptr thrown;
  try {
    run();
  } catch (...) {
    thrown = std::current_exception();
  }
  PyEval_RestoreThread(state);
  if (thrown) std::rethrow_exception(thrown);
}

// Turns what was thrown into what Python expects.
template <class Body>
PyObject* guarded(PyObject* if_not_plain, const Body& body) {
  try {
    return body();
  } catch (const NotPlain&) {
    return Py_NewRef(if_not_plain);
  } catch (const Raised&) {
    return nullptr;
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

PyObject* bind_torch(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 6 || !PyTuple_CheckExact(arguments[2])) {
    PyErr_SetString(PyExc_TypeError, "bind_torch: expected six arguments, the third a tuple");
    return nullptr;
  }
  for (Py_ssize_t i = 0; i < count; ++i) Py_INCREF(arguments[i]);  // for good
  PyObject* const tensor = arguments[0];
  members = {method_of(tensor, "is_neg"), attribute_of(tensor, "is_leaf")};
  if (PyErr_Occurred()) return nullptr;
  torch_of_python = {tensor, arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]};
  Py_RETURN_NONE;
}

PyObject* fill_directly(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 8 || !PyTuple_CheckExact(arguments[4])) {
    PyErr_SetString(PyExc_TypeError, "fill_directly: expected eight arguments, the fifth a tuple");
    return nullptr;
  }
  return guarded(Py_False, [&]() -> PyObject* {
    const Tensors tensors(arguments[3]);
    const std::optional<Place> place = place_of(tensors);
    if (!place) return Py_NewRef(Py_False);
    const DirectFill& fill = fill_named(arguments[0]);
    if (!nobody_sees_ops()) throw NotPlain{};
    FillTargets targets;
    targets.reserve(tensors.count);
    targets.device_index = place->device_index;
    int64_t elements = 0;
    for (size_t i = 0; i < tensors.count; ++i) {
      add_target(tensors.items[i], *place, targets);
      elements += targets.layouts.count(i);
    }
    const auto numbers = reals(arguments[4], tensors.count);
    if (numbers.size() != fill.parameters || !separate(targets)) throw NotPlain{};
    check_parameters(arguments[1], arguments[2], tensors, targets, numbers);
    if (arguments[6] != Py_None) {
      if (arguments[5] != Py_None) throw NotPlain{};
      keys_of_seed(arguments[6], arguments[7], targets.items);
    } else {
      if (arguments[7] != Py_None) throw NotPlain{};
      draw_keys(arguments[5], targets.items);
    }
    const auto run = place->kernels == Kernels::cuda ? fill.run_on_cuda : fill.run;
    without_gil(place->kernels, elements, [&] { run(targets, numbers); });
    call(torch_of_python.increment_version, {arguments[3]});
    return Py_NewRef(Py_True);
  });
}

Object bytes_of(size_t bytes) {
  PyObject* const made = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(bytes));
  if (made == nullptr) throw Raised{};
  return Object(made);
}

template <class Number>
Number* inside(const Object& bytes) {
  return reinterpret_cast<Number*>(PyBytes_AS_STRING(bytes.get()));
}

#if defined(INITSTATS_WITH_CUDA)
// Gives a reference of its own to Python.
Object capsule_of(const Tensor& tensor) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(tensor.get(), &handle));
  PyObject* const capsule = PyCapsule_New(handle, nullptr, nullptr);
  if (capsule == nullptr) {
    aoti_torch_delete_tensor_object(handle);
    throw Raised{};
  }
  return Object(capsule);
}

// The records as a list of tensors on the device of `first`, a tensor of the call.
PyObject* stats_on_cuda(PyObject* first, const std::vector<StatsSource>& sources, Layouts layouts,
                        const StatsGroups& groups) {
  if (torch_of_python.take_handles == Py_None) throw NotPlain{};
  AtenTensorHandle own;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(handle_of(first), &own));
  const Tensor like(own);
  std::optional<std::array<Tensor, 3>> records;
  without_gil(Kernels::cuda, 0,
              [&] { records = direct_stats_on_cuda(sources, std::move(layouts), groups, like); });
  const Object capsules(PyList_New(3));
  if (!capsules) throw Raised{};
  for (Py_ssize_t i = 0; i < 3; ++i)
    PyList_SET_ITEM(capsules.get(), i, capsule_of((*records)[static_cast<size_t>(i)]).release());
  const Object tensors = call(torch_of_python.take_handles, {capsules.get()});
  return PyList_AsTuple(tensors.get());
}
#else
PyObject* stats_on_cuda(PyObject*, const std::vector<StatsSource>&, const Layouts&,
                        const StatsGroups&) {
  throw NotPlain{};
}
#endif

PyObject* stats_directly(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 3) {
    PyErr_SetString(PyExc_TypeError, "stats_directly: expected three arguments");
    return nullptr;
  }
  return guarded(Py_None, [&]() -> PyObject* {
    constexpr long kMoments = 1, kHistogram = 2, kFingerprintGroup = 4, kAll = 7;
    const Tensors tensors(arguments[0]);
    const std::optional<Place> place = place_of(tensors);
    if (!place) return Py_NewRef(Py_None);
    if (!nobody_sees_ops()) throw NotPlain{};
    const long groups = PyLong_AsLong(arguments[1]), scale = PyLong_AsLong(arguments[2]);
    if (groups <= 0 || groups > kAll || scale < 0 || scale > kMaxScale) {
      PyErr_Clear();
      throw NotPlain{};
    }
    std::vector<StatsSource> sources;
    Layouts layouts;
    sources.reserve(tensors.count);
    layouts.reserve(tensors.count);
    int64_t elements = 0;
    for (size_t i = 0; i < tensors.count; ++i) {
      const auto found = plain(tensors.items[i], torch_get_const_data_ptr, *place, layouts);
      sources.push_back({found.data, found.type});
      elements += layouts.count(i);
    }
    const StatsGroups wanted{(groups & (kMoments | kHistogram)) != 0, (groups & kHistogram) != 0,
                             (groups & kFingerprintGroup) != 0, static_cast<int>(scale)};
    if (place->kernels == Kernels::cuda)
      return stats_on_cuda(tensors.items[0], sources, std::move(layouts), wanted);
    const size_t n = tensors.count;
    size_t histogram_bytes = 0;
    for (size_t i = 0; i < n; ++i)
      histogram_bytes += direct_histogram_bytes(wanted, layouts.count(i));
    const Object moments = bytes_of(n * kMomentColumns * sizeof(double));
    const Object counts = bytes_of(n * kCountColumns * sizeof(int64_t));
    const Object histogram = bytes_of(histogram_bytes);
    without_gil(place->kernels, elements, [&] {
      direct_stats(sources, std::move(layouts), wanted, inside<double>(moments),
                   inside<int64_t>(counts), inside<char>(histogram));
    });
    return PyTuple_Pack(3, moments.get(), counts.get(), histogram.get());
  });
}

PyObject* key_of(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 2) {
    PyErr_SetString(PyExc_TypeError, "key_of: expected two arguments");
    return nullptr;
  }
  return guarded(Py_None, [&] {
    return PyLong_FromUnsignedLongLong(key_of_name(seed_of(arguments[0]), arguments[1]));
  });
}

template <class Function>
PyCFunction fast(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

PyMethodDef* python_methods() {
  static PyMethodDef methods[] = {
      {"bind_torch", fast(&bind_torch), METH_FASTCALL,
       "Tells what direct calls need of torch; returns whether there will be any."},
      {"fill_directly", fast(&fill_directly), METH_FASTCALL,
       "Fills plain tensors and returns True; False, and nothing has happened, if any is not."},
      {"stats_directly", fast(&stats_directly), METH_FASTCALL,
       "Records of plain tensors (moments, counts, histogram) as bytes, on CUDA as tensors, or "
       "None."},
      {"key_of", fast(&key_of), METH_FASTCALL, "The key of a seed and a name."},
      {nullptr, nullptr, 0, nullptr}};
  return methods;
}

}  // namespace initstats::ops
