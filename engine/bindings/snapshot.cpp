#include "snapshot.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>
#include <tuple>

namespace nb = nanobind;
using namespace nb::literals;

namespace zerocopy::python {
namespace {

// Comparing more than this costs more than loading a model anew.
constexpr std::size_t max_contents = std::size_t{1} << 20U;
constexpr std::size_t max_values = std::size_t{1} << 21U;

// NOLINTBEGIN(cppcoreguidelines-pro-type-reinterpret-cast): that is how the structures and slots of CPython are used.
template <typename Function>
Function slot(PyTypeObject* type, int number) {
  return reinterpret_cast<Function>(PyType_GetSlot(type, number));
}

PyTypeObject* as_type(nb::handle cls) { return reinterpret_cast<PyTypeObject*>(cls.ptr()); }
// NOLINTEND(cppcoreguidelines-pro-type-reinterpret-cast)

// Kept until the process ends.
PyObject* imported(const char* module, const char* name) {
  return nb::object(nb::module_::import_(module).attr(name)).release().ptr();
}

// Throws what Python raised where a call gave nothing.
nb::object checked(PyObject* result) {
  if (result == nullptr) {
    throw nb::python_error();
  }
  return nb::steal(result);
}

// Those whose one and only state is their value, which two of them may have in common.
bool is_same_value(PyObject* one, PyObject* other) {
  if (one == other) {
    return true;
  }
  PyTypeObject* const type = Py_TYPE(one);
  if (type != Py_TYPE(other)) {
    return false;
  }
  if (type == &PyFloat_Type) {
    return std::bit_cast<std::uint64_t>(PyFloat_AsDouble(one)) == std::bit_cast<std::uint64_t>(PyFloat_AsDouble(other));
  }
  if (type == &PyLong_Type || type == &PyUnicode_Type || type == &PyBytes_Type) {
    return PyObject_RichCompareBool(one, other, Py_EQ) == 1;
  }
  return false;
}

nb::object called(PyObject* function, PyObject* argument) {
  return checked(PyObject_Vectorcall(function, &argument, 1, nullptr));
}

// Of an object that has its list of them, which is null where there are none, at `list` bytes from its beginning.
Py_ssize_t weak_references(PyObject* object, Py_ssize_t list) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast, cppcoreguidelines-pro-bounds-pointer-arithmetic)
  if (*reinterpret_cast<PyObject**>(reinterpret_cast<std::byte*>(object) + list) == nullptr) {
    return 0;
  }
  static PyObject* const count = imported("weakref", "getweakrefcount");
  return nb::cast<Py_ssize_t>(called(count, object));
}

PyTypeObject* ordered_dict() {
  static PyObject* const type = imported("collections", "OrderedDict");
  return as_type(type);
}

// An object's own dictionary, made where it was not yet; none for classes without.
nb::object attributes_of(PyObject* object) {
  PyObject* const attributes = PyObject_GenericGetDict(object, nullptr);
  if (attributes == nullptr) {
    PyErr_Clear();
  }
  return nb::steal(attributes);
}

// The descriptors of a class's slots, those of its bases included.
std::vector<nb::object> slots_of(nb::handle cls) {
  static PyObject* const member = imported("types", "MemberDescriptorType");
  std::vector<nb::object> slots;
  for (const nb::handle base : nb::borrow<nb::tuple>(nb::handle(as_type(cls)).attr("__mro__"))) {
    for (const nb::handle value : nb::getattr(base, "__dict__").attr("values")()) {
      if (value.type().ptr() == member) {
        slots.push_back(nb::borrow(value));
      }
    }
  }
  return slots;
}

// Of a dictionary: a number that no dictionary had before, from each change on (PEP 509); 0 where Python does not tell.
std::uint64_t version_of([[maybe_unused]] PyObject* dict) {
#if !defined(Py_LIMITED_API) && PY_VERSION_HEX < 0x030C0000
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): that is how the structures of CPython are used.
  return reinterpret_cast<const PyDictObject*>(dict)->ma_version_tag;
#else
  return 0;
#endif
}

template <typename Visit>
int visit_one(PyObject* object, void* visit) {
  return (*static_cast<Visit*>(visit))(object) ? 0 : 1;
}

}  // namespace

// What is known of a class; the class is kept.
struct Snapshot::TypeRecord {
  nb::object cls;
  Kind kind = Kind::opaque;
  nb::object form;                // Of the kind `formed`: the function.
  std::vector<nb::object> slots;  // Of a holder: their descriptors.
  traverseproc traverse = nullptr;
  bool is_holder = false;
  bool is_exact_dict = false;
  bool is_dict = false;
  bool is_ordered_dict = false;
  bool is_weak_reference = false;
  bool has_attributes = false;  // A dictionary of attributes that an object may or may not have made yet.
  Py_ssize_t weak_list = 0;     // Where in an object its list of weak references is; 0 where they are not counted.

  [[nodiscard]] bool has_details() const {
    return kind == Kind::tensor || kind == Kind::formed || kind == Kind::storage;
  }

  // Calls `visit` with each object that `object` refers to, until it returns false; returns whether it never did. No
  // code of Python's runs meanwhile, so nothing changes.
  template <typename Visit>
  bool references(PyObject* object, Visit visit) const {
    if (is_dict && PyDict_Size(object) != 0) {
      PyObject* key = nullptr;
      PyObject* value = nullptr;
      Py_ssize_t position = 0;
      while (PyDict_Next(object, &position, &key, &value) != 0) {
        if (!visit(key) || !visit(value)) {
          return false;
        }
      }
    }
    if (is_exact_dict) {
      return true;
    }
    if (is_ordered_dict && PyDict_Size(object) > 1 && !ordered_keys(object, visit)) {
      return false;
    }
    if (is_weak_reference && !visit(checked(PyObject_CallNoArgs(object)).ptr())) {
      return false;
    }
    for (const nb::object& descriptor : slots) {  // Below, one that is empty does not show.
      const nb::object value = slot_value(descriptor.ptr(), object);
      if (!visit(value.is_valid() ? value.ptr() : descriptor.ptr())) {
        return false;
      }
    }
    return traverse == nullptr || traverse(object, &visit_one<Visit>, &visit) == 0;
  }

 private:
  // Nothing where the slot is empty.
  static nb::object slot_value(PyObject* descriptor, PyObject* object) {
    const auto get = slot<descrgetfunc>(Py_TYPE(descriptor), Py_tp_descr_get);
    PyObject* const value = get(descriptor, object, nb::handle(Py_TYPE(object)).ptr());
    if (value == nullptr) {
      PyErr_Clear();
    }
    return nb::steal(value);
  }

  // The order of an OrderedDict is not that of the dictionary that it is, too.
  template <typename Visit>
  static bool ordered_keys(PyObject* object, Visit& visit) {
    const nb::object keys = checked(slot<getiterfunc>(ordered_dict(), Py_tp_iter)(object));
    while (PyObject* const key = PyIter_Next(keys.ptr())) {
      const nb::object held = nb::steal(key);
      if (!visit(key)) {
        return false;
      }
    }
    if (PyErr_Occurred() != nullptr) {
      throw nb::python_error();
    }
    return true;
  }
};

// A field of tensors: the getter of an attribute, or (getter null) a method without arguments.
struct Snapshot::Field {
  nb::object descriptor;
  descrgetfunc getter = nullptr;

  [[nodiscard]] nb::object of(PyObject* tensor) const {
    if (getter != nullptr) {
      return checked(getter(descriptor.ptr(), tensor, nb::handle(Py_TYPE(tensor)).ptr()));
    }
    return called(descriptor.ptr(), tensor);
  }
};

// Of a tensor or a formed object.
struct Snapshot::Memory {
  std::uintptr_t address = 0;
  std::size_t nbytes = 0;
  nb::object owner;  // None if nothing of the graph's.
};

// An object. Its values_, from `first` to `last`: of a holder what it refers to, and last its attributes, if it has
// any; of others their attributes first, and then their fields or their form.
struct Snapshot::Entry {
  PyObject* object = nullptr;  // Kept by who refers to it, among values_.
  const TypeRecord* type = nullptr;
  std::uint64_t version = 0;  // Of a dictionary: version_of it; 0 where that is not known.
  Py_ssize_t references = 0;
  std::uint32_t first = 0;
  std::uint32_t last = 0;
  std::int32_t weak_references = 0;
  std::uint32_t details = 0;  // Of the kinds tensor, formed and storage: which of details_ are its.
};

struct Snapshot::Details {
  const std::vector<Field>* fields = nullptr;  // Of a tensor.
  std::uintptr_t address = 0;
  std::size_t nbytes = 0;    // How many of its memory's bytes are in contents_, since nobody watches them,
  std::size_t contents = 0;  // and where there they begin.
  Py_ssize_t users = 0;
  PyObject* counted = nullptr;  // What the function that counts users is given; null where they are not counted.
};

Snapshot::Snapshot(nb::object root, Rules rules, AddressRanges watched)
    : root_(std::move(root)), rules_(std::move(rules)), watched_(std::move(watched)) {
  std::ranges::sort(watched_);
  add(root_);
}

Snapshot::~Snapshot() {
  for (PyObject* const value : values_) {
    Py_DECREF(value);
  }
}

nb::list Snapshot::scripts() const {
  nb::list scripts;
  for (PyObject* const script : scripts_) {
    scripts.append(nb::borrow(script));
  }
  return scripts;
}

nb::list Snapshot::tensors() const {
  nb::list tensors;
  for (const Entry& entry : entries_) {
    if (entry.type->kind == Kind::tensor) {
      tensors.append(nb::borrow(entry.object));
    }
  }
  return tensors;
}

void Snapshot::add(nb::handle object) {
  if (obstacle_) {
    return;
  }
  try {
    keep(object.ptr());
    follow(object.ptr());
    while (!waiting_.empty()) {
      PyObject* const next = waiting_.back();
      waiting_.pop_back();
      record(next);
      if (values_.size() > max_values || contents_.size() > max_contents) {
        obstacle_ = "it has too much state of its own";
      }
      if (obstacle_) {
        return;
      }
    }
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const nb::python_error& error) {
    if (!error.matches(PyExc_Exception)) {  // A KeyboardInterrupt, by which Ray cancels a task.
      throw;
    }
    // Its what() is a whole traceback.
    obstacle_ = nb::str(error.value()).c_str();
  } catch (const std::exception& error) {  // Of a rule that returned something else than it should.
    obstacle_ = error.what();
  }
}

void Snapshot::ignore_users(nb::handle tensor) {
  keep(tensor.ptr());
  ignored_users_.insert(tensor.ptr());
}

void Snapshot::keep(PyObject* object) { values_.push_back(Py_NewRef(object)); }

void Snapshot::follow(PyObject* object) {
  if (type_of(object).kind != Kind::atom && seen_.insert(object).second) {
    waiting_.push_back(object);
  }
}

const Snapshot::TypeRecord& Snapshot::type_of(PyObject* object) {
  PyTypeObject* const cls = Py_TYPE(object);
  std::unique_ptr<TypeRecord>& known = types_[cls];
  if (known == nullptr) {
    auto type = std::make_unique<TypeRecord>();
    type->cls = nb::borrow(nb::handle(cls));
    const nb::object kind = rules_.kind_of(type->cls);
    if (!nb::try_cast(kind, type->kind)) {
      type->kind = Kind::formed;
      type->form = kind;
    }
    type->is_exact_dict = cls == &PyDict_Type;
    type->is_dict = PyType_IsSubtype(cls, &PyDict_Type) != 0;
    type->is_ordered_dict = PyType_IsSubtype(cls, ordered_dict()) != 0;
    type->is_weak_reference = PyType_IsSubtype(cls, &_PyWeakref_RefType) != 0;
    const bool is_of_python = is_python_class(type->cls);
    type->has_attributes = is_of_python || type->kind == Kind::tensor || type->kind == Kind::formed;
    if (is_of_python || type->kind == Kind::tensor) {
      type->weak_list = nb::cast<Py_ssize_t>(nb::getattr(type->cls, "__weakrefoffset__"));
    }
    type->is_holder = type->kind == Kind::holder || type->kind == Kind::script || type->kind == Kind::storage;
    if (type->is_holder || type->kind == Kind::function) {
      type->traverse = slot<traverseproc>(cls, Py_tp_traverse);
    }
    if (type->is_holder && is_of_python) {
      type->slots = slots_of(type->cls);
    }
    known = std::move(type);
  }
  return *known;
}

const std::vector<Snapshot::Field>& Snapshot::fields_of(PyObject* tensor) {
  static PyObject* const attribute = imported("types", "GetSetDescriptorType");
  const auto descriptors = nb::cast<nb::tuple>(rules_.tensor_fields(nb::handle(tensor)));
  const auto [known, is_new] = fields_.try_emplace(descriptors.ptr());
  if (is_new) {
    keep(descriptors.ptr());
    for (const nb::handle field : descriptors) {
      const bool is_attribute = field.type().ptr() == attribute;
      known->second.push_back(
          {nb::borrow(field), is_attribute ? slot<descrgetfunc>(Py_TYPE(field.ptr()), Py_tp_descr_get) : nullptr});
    }
  }
  return known->second;
}

void Snapshot::record(nb::handle object) {
  const TypeRecord& type = type_of(object.ptr());
  const bool is_atom_by_name = type.kind == Kind::function || type.kind == Kind::named;
  if (is_atom_by_name && nb::cast<bool>(rules_.is_importable(object))) {
    return;
  }
  if (type.kind == Kind::opaque || type.kind == Kind::named) {
    obstacle_ = "it holds " + std::string(nb::repr(type.cls).c_str()) + ", whose state cannot be seen";
    return;
  }
  if (type.kind == Kind::script) {
    scripts_.push_back(object.ptr());
  }
  record_entry(object.ptr(), type);
}

void Snapshot::record_entry(PyObject* object, const TypeRecord& type) {
  Entry entry;
  entry.object = object;
  entry.type = &type;
  if (type.has_details()) {
    entry.details = static_cast<std::uint32_t>(details_.size());
    details_.emplace_back().fields = type.kind == Kind::tensor ? &fields_of(object) : nullptr;
  }
  entry.version = type.is_exact_dict ? version_of(object) : 0;
  entry.first = static_cast<std::uint32_t>(values_.size());
  const nb::object attributes = type.has_attributes ? attributes_of(object) : nb::object();
  if (attributes.is_valid() && !type.is_holder) {
    keep(attributes.ptr());
    follow(attributes.ptr());
  }
  if (type.kind == Kind::function) {
    record_function(entry);
  } else if (type.kind == Kind::tensor || type.kind == Kind::formed) {
    record_fields(entry);
    record_memory(entry);
  } else {
    // Followed once they are all there: Python decides about classes that are new, and may change what is visited.
    const std::size_t begin = values_.size();
    type.references(object, [this](PyObject* value) {
      keep(value);
      return true;
    });
    if (attributes.is_valid()) {
      follow(attributes.ptr());  // Some versions of Python visit it, some the attributes themselves.
      keep(attributes.ptr());
    }
    for (std::size_t index = begin; index < values_.size(); ++index) {
      follow(values_[index]);
    }
  }
  entry.last = static_cast<std::uint32_t>(values_.size());
  entries_.push_back(entry);
}

// Of what a function refers to, its own variables and attributes are the graph's.
void Snapshot::record_function(Entry& entry) {
  std::vector<nb::object> own;
  for (const char* const name :
       {"__closure__", "__defaults__", "__kwdefaults__", "__annotations__", "__dict__", "__self__"}) {
    if (nb::hasattr(entry.object, name)) {
      own.push_back(nb::getattr(entry.object, name));
    }
  }
  entry.type->references(entry.object, [this](PyObject* value) {
    keep(value);
    return true;
  });
  for (const nb::object& value : own) {
    follow(value.ptr());
  }
}

void Snapshot::record_fields(Entry& entry) {
  if (entry.type->kind == Kind::formed) {
    keep(nb::object(entry.type->form(nb::handle(entry.object))).ptr());
    return;
  }
  for (const Field& field : *details_[entry.details].fields) {
    const nb::object value = field.of(entry.object);
    keep(value.ptr());
    if (PyDict_Check(value.ptr())) {
      follow(value.ptr());  // Hooks.
    }
  }
}

void Snapshot::record_memory(Entry& entry) {
  const Memory memory = memory_of(entry.object);
  keep(memory.owner.ptr());
  follow(memory.owner.ptr());
  if (memory.nbytes == 0 || is_watched(memory.address, memory.nbytes)) {
    return;
  }
  if (memory.nbytes > max_contents) {
    obstacle_ = std::to_string(memory.nbytes) + " bytes of its weights are not the image's";
    return;
  }
  Details& details = details_[entry.details];
  details.address = memory.address;
  details.nbytes = memory.nbytes;
  details.contents = contents_.size();
  const std::span bytes(std::bit_cast<const std::byte*>(memory.address), memory.nbytes);
  contents_.insert(contents_.end(), bytes.begin(), bytes.end());
}

Py_ssize_t Snapshot::weak_references_of(const Entry& entry) {
  return entry.type->weak_list == 0 ? 0 : weak_references(entry.object, entry.type->weak_list);
}

Snapshot::Memory Snapshot::memory_of(PyObject* object) const {
  const auto memory = nb::cast<nb::tuple>(rules_.memory_of(nb::handle(object)));
  return {nb::cast<std::uintptr_t>(memory[0]), nb::cast<std::size_t>(memory[1]), memory[2]};
}

Py_ssize_t Snapshot::users_of(const Entry& entry) const {
  PyObject* const counted = details_[entry.details].counted;
  if (counted == nullptr) {
    return 0;
  }
  const nb::object& count = entry.type->kind == Kind::storage ? rules_.storage_users : rules_.tensor_users;
  return nb::cast<Py_ssize_t>(called(count.ptr(), counted));
}

bool Snapshot::is_watched(std::uintptr_t begin, std::size_t nbytes) const {
  const auto after = std::ranges::upper_bound(watched_, begin, {}, &AddressRanges::value_type::first);
  return after != watched_.begin() && begin + nbytes <= std::prev(after)->second;
}

void Snapshot::seal() {
  for (Entry& entry : entries_) {
    // An empty tuple is the process's only one.
    const bool is_shared = entry.first == entry.last && PyTuple_CheckExact(entry.object);
    entry.references = is_shared ? PY_SSIZE_T_MAX : Py_REFCNT(entry.object);
    entry.weak_references = static_cast<std::int32_t>(weak_references_of(entry));
    if (entry.type->kind == Kind::storage) {
      const nb::object handle = nb::getattr(entry.object, "_cdata");
      keep(handle.ptr());
      details_[entry.details].counted = handle.ptr();
    } else if (entry.type->kind == Kind::tensor && !ignored_users_.contains(entry.object)) {
      details_[entry.details].counted = entry.object;
    }
    if (entry.type->has_details()) {
      details_[entry.details].users = users_of(entry);
    }
  }
}

std::optional<std::string> Snapshot::change() const {
  for (const Entry& entry : entries_) {
    const TypeRecord& type = *entry.type;
    const char* changed = nullptr;
    if (Py_TYPE(entry.object) != as_type(type.cls)) {
      changed = "the class";
    } else if (Py_REFCNT(entry.object) > entry.references ||
               (type.has_details() && users_of(entry) > details_[entry.details].users)) {
      changed = "the number of holders";
    } else if (type.is_holder || type.kind == Kind::function ? !same_references(entry) : !same_fields(entry)) {
      changed = "the content";
    } else if (type.has_details() && !same_memory(entry)) {
      changed = "the memory";
    } else if (weak_references_of(entry) > entry.weak_references) {
      changed = "the number of weak references";
    }
    if (changed != nullptr) {
      return std::string(changed) + " of " + nb::repr(type.cls).c_str();
    }
  }
  return std::nullopt;
}

bool Snapshot::same_references(const Entry& entry) const {
  if (entry.version != 0 && entry.version == version_of(entry.object)) {
    return true;
  }
  std::size_t next = entry.first;
  std::size_t last = entry.last;
  if (entry.type->is_holder && entry.type->has_attributes) {
    const nb::object attributes = attributes_of(entry.object);
    if (attributes.is_valid() && attributes.ptr() != values_[--last]) {
      return false;
    }
  }
  return entry.type->references(entry.object, [this, &next, last](PyObject* value) {
    return next < last && is_same_value(values_[next++], value);
  }) && next == last;
}

bool Snapshot::same_fields(const Entry& entry) const {
  std::size_t next = entry.first;
  const nb::object attributes = attributes_of(entry.object);
  if (attributes.is_valid() && attributes.ptr() != values_[next++]) {
    return false;
  }
  if (entry.type->kind == Kind::formed) {
    return nb::object(entry.type->form(nb::handle(entry.object))).equal(nb::handle(values_[next]));
  }
  return std::ranges::all_of(*details_[entry.details].fields, [this, &entry, &next](const Field& field) {
    const nb::object value = field.of(entry.object);
    PyObject* const recorded = values_[next++];
    return is_same_value(value.ptr(), recorded) ||
           (PyTuple_Check(recorded) && Py_TYPE(value.ptr()) == Py_TYPE(recorded) && value.equal(nb::handle(recorded)));
  });
}

bool Snapshot::same_memory(const Entry& entry) const {
  const Details& details = details_[entry.details];
  if (details.nbytes == 0) {
    return true;
  }
  const Memory memory = memory_of(entry.object);
  return memory.address == details.address && memory.nbytes == details.nbytes &&
         std::memcmp(std::bit_cast<const void*>(memory.address), &contents_[details.contents], memory.nbytes) == 0;
}

nb::list not_as_before(const nb::list& attributes) {
  nb::list others;
  for (const nb::handle attribute : attributes) {
    PyObject* const get = PyTuple_GetItem(attribute.ptr(), 0);
    PyObject* const name = PyTuple_GetItem(attribute.ptr(), 1);
    PyObject* const before = PyTuple_GetItem(attribute.ptr(), 2);
    if (before == nullptr) {
      throw nb::python_error();
    }
    if (!called(get, name).is(before)) {
      others.append(attribute);
    }
  }
  return others;
}

bool is_python_class(nb::handle cls) {
  static const destructor of_python = [] {
    const nb::object sample = nb::borrow(nb::handle(&PyType_Type))("Sample", nb::tuple(), nb::dict());
    return slot<destructor>(as_type(sample), Py_tp_dealloc);
  }();
  return slot<destructor>(as_type(cls), Py_tp_dealloc) == of_python;
}

void bind_snapshot(nb::module_& module) {
  nb::enum_<Kind>(module, "Kind", "How the state of a class's objects is seen by a Snapshot.")
      .value("ATOM", Kind::atom, "It does not change, or is not the graph's own.")
      .value("HOLDER", Kind::holder, "It is what the object refers to.")
      .value("FUNCTION", Kind::function, "The same, without a function's globals; an atom where it can be imported.")
      .value("TENSOR", Kind::tensor, "A torch.Tensor's.")
      .value("SCRIPT", Kind::script, "It is listed, for the caller to look at.")
      .value("STORAGE", Kind::storage, "A torch.UntypedStorage's.")
      .value("NAMED", Kind::named, "An atom where it can be imported; it cannot be seen otherwise.")
      .value("OPAQUE", Kind::opaque, "It cannot be seen.");

  nb::class_<Snapshot>(module, "Snapshot", nb::is_final(),
                       "A record of a graph of Python objects, exact to the last reference.\n\n"
                       "Holds everything in the graph. For one thread at a time.")
      .def(
          "__init__",
          [](Snapshot* self, nb::object root, nb::callable kind_of, nb::callable is_importable, nb::callable memory_of,
             nb::callable tensor_users, nb::callable storage_users, nb::callable tensor_fields, AddressRanges watched) {
            new (self) Snapshot(std::move(root),
                                {std::move(kind_of), std::move(is_importable), std::move(memory_of),
                                 std::move(tensor_users), std::move(storage_users), std::move(tensor_fields)},
                                std::move(watched));
          },
          "root"_a, "kind_of"_a, "is_importable"_a, "memory_of"_a, "tensor_users"_a, "storage_users"_a,
          "tensor_fields"_a, "watched"_a,
          nb::sig("def __init__(self, root: object, kind_of: collections.abc.Callable[[type], Kind | "
                  "collections.abc.Callable[[typing.Any], object]], is_importable: "
                  "collections.abc.Callable[[typing.Any], bool], memory_of: collections.abc.Callable[[typing.Any], "
                  "tuple[int, int, object]], tensor_users: collections.abc.Callable[[typing.Any], int], "
                  "storage_users: collections.abc.Callable[[int], int], tensor_fields: "
                  "collections.abc.Callable[[typing.Any], tuple[object, ...]], watched: "
                  "collections.abc.Sequence[tuple[int, int]]) -> None"),
          "Records the graph from an object on. An error that a rule raises becomes the obstacle.\n\n"
          "Args:\n"
          "    root: where the graph begins.\n"
          "    kind_of: says how the objects of a class are seen; or returns the function that forms each of them,\n"
          "        which is called again to compare: what it returns must be equal then.\n"
          "    is_importable: says of a function or a NAMED object whether others find it by its name.\n"
          "    memory_of: the address and the size, in bytes, of the memory of a tensor or of a formed object, and\n"
          "        the object that owns the memory, if that is to be recorded too; None otherwise.\n"
          "    tensor_users: how many C++ objects use a tensor; called from `seal` on.\n"
          "    storage_users: the same of a storage, given its `_cdata`.\n"
          "    tensor_fields: the descriptors of torch.Tensor that show a tensor's state, those of its dtype "
          "included:\n"
          "        attributes, and methods that are called.\n"
          "    watched: first and last (exclusive) addresses of memory whose bytes the caller watches.")
      .def_prop_ro("obstacle", &Snapshot::obstacle, "Why the graph cannot be compared: one sentence; None if it can.")
      .def_prop_ro("root", &Snapshot::root, nb::sig("def root(self) -> typing.Any"), "Where the graph begins.")
      .def("scripts", &Snapshot::scripts, nb::sig("def scripts(self) -> list[typing.Any]"),
           "The objects of the kind SCRIPT.")
      .def("tensors", &Snapshot::tensors, nb::sig("def tensors(self) -> list[typing.Any]"),
           "The objects of the kind TENSOR.")
      .def("add", &Snapshot::add, "object"_a,
           "Records another object of the graph, one that is not reached from the root.")
      .def("ignore_users", &Snapshot::ignore_users, "tensor"_a,
           "Does not count the C++ users of a tensor of the graph: compiled code takes and drops them.")
      .def("seal", &Snapshot::seal, "Counts the references to the graph's objects. Nobody else may hold the root.")
      .def("change", &Snapshot::change,
           "What of the graph is not as it was when it was sealed: the first thing found. None if all is.\n\n"
           "Not to be asked where there is an obstacle.\n\n"
           "Raises:\n"
           "    Exception: whatever looking at an object raises.");

  module.def("not_as_before", &not_as_before, "attributes"_a,
             nb::sig("def not_as_before(attributes: list[tuple[collections.abc.Callable[[str], typing.Any], str, "
                     "typing.Any, collections.abc.Callable[[str, typing.Any], None]]]) -> list[tuple["
                     "collections.abc.Callable[[str], typing.Any], str, typing.Any, collections.abc.Callable[[str, "
                     "typing.Any], None]]]"),
             "Those of some attributes (a getter, a name, a value, a setter) whose getter gives another object.\n\n"
             "Raises:\n"
             "    Exception: whatever a getter raises.");

  module.def("is_python_class", &is_python_class, "cls"_a, nb::sig("def is_python_class(cls: type) -> bool"),
             "Whether the objects of a class are destroyed as those of a class that was made by a `class` statement.");
}

}  // namespace zerocopy::python
