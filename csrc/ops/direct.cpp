// Calls from Python that go past torch's dispatcher: checks, keys and op in one. They take what is
// plain, and say so where something is not: then nothing has happened, and the caller goes the long
// way, which knows the rest and has the words for what is wrong.
//
// Note [Direct calls]. Plain are dense CPU tensors of the classes torch.Tensor and nn.Parameter, of
// the dtypes of the op, that are leaves of autograd and not negated views, while no mode sees ops,
// no profiler records them and nothing is traced. On these the dispatcher would do nothing but call
// the CPU kernel. Python tells where they lie through DLPack's C exchange API (1.3, of torch since
// 2.10), the only part of torch that is called from C.
#include "ops/direct.h"

#include <Python.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <optional>
#include <utility>

#include "math/random/keys.h"
#include "math/stats/buckets.h"
#include "ops/checks.h"
#include "ops/python_methods.h"

namespace initstats::ops {

namespace {

// ---- DLPack 1.3: its names, and as much of its layout as is read here

struct DLDataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct DLTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct DLPackExchangeAPI {
  uint32_t major, minor;
  void* prev_api;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object_no_sync;
  void* managed_tensor_to_py_object_no_sync;
  int (*dltensor_from_py_object_no_sync)(void* object, DLTensor* out);
};

constexpr uint32_t kMajor = 1;
constexpr int32_t kCpu = 1;
enum Code : uint8_t { kInt, kUInt, kFloat, kBfloat = 4, kBool = 6, kE4m3fn = 10, kE5m2 = 12 };

constexpr int kind(int code, int bits) { return code << 8 | bits; }

std::optional<ItemType> item_type(const DLDataType& type) {
  switch (type.lanes == 1 ? kind(type.code, type.bits) : -1) {
    case kind(kFloat, 32):
      return ItemType::float32;
    case kind(kFloat, 16):
      return ItemType::float16;
    case kind(kBfloat, 16):
      return ItemType::bfloat16;
    case kind(kFloat, 64):
      return ItemType::float64;
    case kind(kE4m3fn, 8):
      return ItemType::float8_e4m3fn;
    case kind(kE5m2, 8):
      return ItemType::float8_e5m2;
    case kind(kBool, 8):
    case kind(kUInt, 8):
      return ItemType::uint8;
    case kind(kInt, 8):
      return ItemType::int8;
    case kind(kInt, 16):
      return ItemType::int16;
    case kind(kInt, 32):
      return ItemType::int32;
    case kind(kInt, 64):
      return ItemType::int64;
    default:
      return std::nullopt;
  }
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
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_;
};

// An exception of Python is set, and to be raised.
struct Raised {};

// Something is not plain.
struct NotPlain {};

// What is needed of torch: bound once, at import. Without `exchange` nothing is plain.
struct Torch {
  PyObject *tensor, *parameter;
  PyTypeObject* storage;
  PyObject* seen;               // tuple of functions of which one is true where others see ops
  PyObject* draw;               // (count, generator) -> int64 tensor
  PyObject* increment_version;  // (tensor or list)
  const DLPackExchangeAPI* exchange;
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
  Method is_neg, storage_offset, untyped_storage, nbytes;  // the last one of a storage
  Attribute is_leaf, is_cpu;
} members;

Object call(PyObject* function, std::initializer_list<PyObject*> arguments) {
  Object result(PyObject_Vectorcall(function, arguments.begin(), arguments.size(), nullptr));
  if (!result) throw Raised{};
  return result;
}

bool nobody_sees_ops() {
  const Torch& torch = torch_of_python;
  if (torch.exchange == nullptr) return false;
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
  Object result(
      member.definition != nullptr
          ? member.definition->get(object, member.definition->closure)
          : Py_TYPE(descriptor)
                ->tp_descr_get(descriptor, object, reinterpret_cast<PyObject*>(Py_TYPE(object))));
  if (!result) throw Raised{};
  return result;
}

int64_t integer(const Object& number) {
  const int64_t value = PyLong_AsLongLong(number.get());
  if (value == -1 && PyErr_Occurred()) throw Raised{};
  return value;
}

struct Plain {
  void* data;
  ItemType type;
};

DLTensor dl_tensor(PyObject* tensor) {
  DLTensor found;
  if (torch_of_python.exchange->dltensor_from_py_object_no_sync(tensor, &found) != 0) {
    PyErr_Clear();  // no memory, or a dtype that DLPack does not know
    throw NotPlain{};
  }
  return found;
}

// The number of elements if they are one run in C order, else -1. With a layout's other checks.
int64_t run_length(const DLTensor& tensor) {
  int64_t count = 1;
  for (int32_t d = tensor.ndim - 1; d >= 0; --d) {
    if (tensor.shape[d] == 1) continue;
    if (tensor.strides[d] != count) return -1;
    if (__builtin_mul_overflow(count, tensor.shape[d], &count) || count == 0) return -1;
  }
  return count;
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
bool storage_holds(PyObject* tensor, const Plain& found, int64_t items) {
  const Object storage = call(members.untyped_storage, tensor);
  if (Py_TYPE(storage.get()) != torch_of_python.storage) throw NotPlain{};
  const int64_t bytes = integer(call(members.nbytes, storage.get()));
  const int64_t end = integer(call(members.storage_offset, tensor)) + items;
  return found.data != nullptr && end * item_size(found.type) <= bytes;
}

bool of_plain_class(PyObject* tensor) {
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
  return type == torch_of_python.tensor || type == torch_of_python.parameter;
}

// Adds the tensor's layout to `layouts`.
Plain plain(PyObject* tensor, Layouts& layouts) {
  if (!of_plain_class(tensor)) throw NotPlain{};
  if (call(members.is_neg, tensor).get() != Py_False) throw NotPlain{};
  const DLTensor found = dl_tensor(tensor);
  const std::optional<ItemType> items = item_type(found.dtype);
  if (found.device_type != kCpu || !items || found.byte_offset != 0) throw NotPlain{};
  if (const int64_t count = run_length(found); count >= 0) {
    layouts.add_run(count);
  } else {
    try {
      layouts.add(layout_of("", found.ndim, found.shape, found.strides, nullptr, nullptr));
    } catch (const std::exception&) {
      throw NotPlain{};
    }
  }
  const Plain result{found.data, *items};
  const size_t last = layouts.size() - 1;
  if (layouts.count(last) > 0 && !storage_holds(tensor, result, reach(layouts, last)))
    throw NotPlain{};
  return result;
}

void add_target(PyObject* tensor, FillTargets& targets) {
  const Plain found = plain(tensor, targets.layouts);
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

// Whether the first tensor may be plain. Every call for a GPU or for DTensors ends here, without an
// exception, which takes longer than all else.
bool may_be_plain(const Tensors& tensors) {
  return tensors.count > 0 && of_plain_class(tensors.items[0]) &&
         attribute(tensors.items[0], members.is_cpu).get() == Py_True;
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
  const DLTensor found = dl_tensor(draws.get());
  const uint64_t* const keys = static_cast<const uint64_t*>(found.data);
  for (size_t i = 0; i < targets.size(); ++i) targets[i].key = keys[i];
}

// ---- the functions of the module

const DirectFill& fill_named(PyObject* name) {
  for (const DirectFill& fill : direct_fills())
    if (PyUnicode_CompareWithASCIIString(name, fill.op.c_str()) == 0) return fill;
  throw NotPlain{};
}

// Elements from which on other threads of Python may run meanwhile.
constexpr int64_t kWorthRelease = 4096;

template <class Run>
void without_gil(int64_t elements, const Run& run) {
  if (elements < kWorthRelease) return run();
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
  if (count != 7 || !PyTuple_CheckExact(arguments[4])) {
    PyErr_SetString(PyExc_TypeError, "bind_torch: expected seven arguments, the fifth a tuple");
    return nullptr;
  }
  for (Py_ssize_t i = 0; i < count; ++i) Py_INCREF(arguments[i]);  // for good
  PyObject* const tensor = arguments[0];
  members = {method_of(tensor, "is_neg"),          method_of(tensor, "storage_offset"),
             method_of(tensor, "untyped_storage"), method_of(arguments[2], "nbytes"),
             attribute_of(tensor, "is_leaf"),      attribute_of(tensor, "is_cpu")};
  if (PyErr_Occurred()) return nullptr;
  Torch& torch = torch_of_python;
  auto* const storage = reinterpret_cast<PyTypeObject*>(arguments[2]);
  torch = {tensor, arguments[1], storage, arguments[4], arguments[5], arguments[6], nullptr};
#if !defined(INITSTATS_CUDA_ON_CPU)  // where the dispatcher hands CPU tensors to executed kernels
  constexpr char kCapsule[] = "dlpack_exchange_api";
  if (PyCapsule_IsValid(arguments[3], kCapsule)) {
    auto* const exchange =
        static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(arguments[3], kCapsule));
    const bool known =
        exchange->major == kMajor && Py_TYPE(members.is_leaf.descriptor)->tp_descr_get;
    if (known && exchange->dltensor_from_py_object_no_sync != nullptr) torch.exchange = exchange;
  }
#endif
  return PyBool_FromLong(torch.exchange != nullptr);
}

PyObject* fill_directly(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 8 || !PyTuple_CheckExact(arguments[4])) {
    PyErr_SetString(PyExc_TypeError, "fill_directly: expected eight arguments, the fifth a tuple");
    return nullptr;
  }
  return guarded(Py_False, [&]() -> PyObject* {
    const Tensors tensors(arguments[3]);
    if (!may_be_plain(tensors)) return Py_NewRef(Py_False);
    const DirectFill& fill = fill_named(arguments[0]);
    if (!nobody_sees_ops()) throw NotPlain{};
    FillTargets targets;
    targets.reserve(tensors.count);
    int64_t elements = 0;
    for (size_t i = 0; i < tensors.count; ++i) {
      add_target(tensors.items[i], targets);
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
    without_gil(elements, [&] { fill.run(targets, numbers); });
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

PyObject* stats_directly(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 3) {
    PyErr_SetString(PyExc_TypeError, "stats_directly: expected three arguments");
    return nullptr;
  }
  return guarded(Py_None, [&]() -> PyObject* {
    constexpr long kMoments = 1, kHistogram = 2, kFingerprintGroup = 4, kAll = 7;
    const Tensors tensors(arguments[0]);
    if (!may_be_plain(tensors)) return Py_NewRef(Py_None);
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
      const Plain found = plain(tensors.items[i], layouts);
      sources.push_back({found.data, found.type});
      elements += layouts.count(i);
    }
    const StatsGroups wanted{(groups & (kMoments | kHistogram)) != 0, (groups & kHistogram) != 0,
                             (groups & kFingerprintGroup) != 0, static_cast<int>(scale)};
    const size_t n = tensors.count;
    size_t histogram_bytes = 0;
    for (size_t i = 0; i < n; ++i)
      histogram_bytes += direct_histogram_bytes(wanted, layouts.count(i));
    const Object moments = bytes_of(n * kMomentColumns * sizeof(double));
    const Object counts = bytes_of(n * kCountColumns * sizeof(int64_t));
    const Object histogram = bytes_of(histogram_bytes);
    without_gil(elements, [&] {
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
       "Records of plain tensors as bytes (moments, counts, histogram), or None."},
      {"key_of", fast(&key_of), METH_FASTCALL, "The key of a seed and a name."},
      {nullptr, nullptr, 0, nullptr}};
  return methods;
}

}  // namespace initstats::ops
