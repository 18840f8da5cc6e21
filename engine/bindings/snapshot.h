// A record of a graph of Python objects, and whether the graph is still as it was recorded.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace zerocopy::python {

// How the state of a class's objects is seen.
enum class Kind : std::uint8_t {
  atom,      // It does not change, or is not the graph's own: nothing is looked at.
  holder,    // It is what the object refers to, keys of dictionaries included.
  function,  // The same, but neither its globals nor its code are entered; an atom where it can be imported by its
             // name.
  tensor,    // A torch.Tensor: its fields (Rules), its attributes and its bytes.
  script,    // As a holder's; and it is listed, for the caller to look at what is behind it.
  storage,   // As a holder's; and the users that it has besides Python's objects are counted.
  named,     // An atom where it can be imported by its name; opaque otherwise.
  formed,    // What a function of the class's own makes of it, its attributes, and its bytes.
  opaque,    // It cannot be seen: a graph with such an object cannot be recorded.
};

// Memory that the caller watches: bytes in it are not recorded. Half open, [first, second).
using AddressRanges = std::vector<std::pair<std::uintptr_t, std::uintptr_t>>;

// What a Snapshot has to be told of classes, by Python. Every function is called with the GIL held, while recording
// and, where it says so, while comparing.
struct Rules {
  nanobind::callable kind_of;        // type -> Kind, or the function that forms its objects (also while comparing).
  nanobind::callable is_importable;  // A function or a named object -> whether its process has it under its name.
  nanobind::callable memory_of;      // A tensor or a formed object -> address and bytes of its memory, and what of the
                                     // graph owns that, or None (also comparing).
  nanobind::callable tensor_users;   // A tensor -> how many C++ users it has (only from `seal` on).
  nanobind::callable storage_users;  // The `_cdata` of a storage -> the same of that.
  nanobind::callable tensor_fields;  // A tensor -> a tuple of descriptors of torch.Tensor, which are asked also while
                                     // comparing: attributes are got, methods called.
};

// Holds a graph of objects, from a root on, and what each refers to: every reference, in order, keys of dictionaries
// and attributes included; of objects that can change also how many references and weak references lead to them, so
// that a holder outside of the graph (a cache that has an object of it as its key) shows. What an object of the kind
// `atom` refers to, and what is reached through a class or a module, is not the graph's.
//
// Ownership: keeps everything in the graph alive, and every value that was recorded, so that no other object can take
// the place of one that went. All members must be called with the GIL held, and by one thread at a time.
class Snapshot {
 public:
  // Records. What the graph holds that cannot be seen, or an error that a rule raised, becomes the obstacle.
  Snapshot(nanobind::object root, Rules rules, AddressRanges watched);
  Snapshot(Snapshot&&) = delete;
  Snapshot& operator=(Snapshot&&) = delete;
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;
  ~Snapshot();

  // Why the graph cannot be compared; none if it can.
  [[nodiscard]] const std::optional<std::string>& obstacle() const noexcept { return obstacle_; }

  // The objects of the kind `script`.
  [[nodiscard]] nanobind::list scripts() const;

  // The objects of the kind `tensor`.
  [[nodiscard]] nanobind::list tensors() const;

  // Records another object of the graph, that is not reached from the root.
  void add(nanobind::handle object);

  // Does not count the C++ users of a tensor that was recorded, or will be: compiled code takes and drops them.
  void ignore_users(nanobind::handle tensor);

  // Counts the references to the graph's objects. REQUIRES: nobody holds the root but this object.
  void seal();

  // What of the graph is not as it was recorded: the first thing found, in a few words; none if all is. REQUIRES:
  // sealed; no obstacle. Throws what a rule raises.
  [[nodiscard]] std::optional<std::string> change() const;

  [[nodiscard]] const nanobind::object& root() const noexcept { return root_; }

 private:
  struct TypeRecord;
  struct Entry;
  struct Details;
  struct Field;
  struct Memory;

  void record(nanobind::handle object);
  void record_entry(PyObject* object, const TypeRecord& type);
  void record_function(Entry& entry);
  void record_fields(Entry& entry);
  void record_memory(Entry& entry);
  const TypeRecord& type_of(PyObject* object);
  const std::vector<Field>& fields_of(PyObject* tensor);
  void keep(PyObject* object);  // As the next recorded value.
  void follow(PyObject* object);

  [[nodiscard]] bool same_references(const Entry& entry) const;
  [[nodiscard]] bool same_fields(const Entry& entry) const;
  [[nodiscard]] bool same_memory(const Entry& entry) const;
  [[nodiscard]] bool is_watched(std::uintptr_t begin, std::size_t nbytes) const;
  [[nodiscard]] Memory memory_of(PyObject* object) const;
  [[nodiscard]] Py_ssize_t users_of(const Entry& entry) const;
  [[nodiscard]] static Py_ssize_t weak_references_of(const Entry& entry);

  nanobind::object root_;
  Rules rules_;
  AddressRanges watched_;                                     // Ascending, disjoint.
  std::unordered_map<PyObject*, std::vector<Field>> fields_;  // By what Rules::tensor_fields returned.
  std::unordered_map<PyTypeObject*, std::unique_ptr<TypeRecord>> types_;
  std::unordered_set<PyObject*> seen_;
  std::unordered_set<PyObject*> ignored_users_;
  std::vector<PyObject*> waiting_;   // Seen, and yet to be recorded.
  std::vector<PyObject*> values_;    // What was recorded, entry by entry: this object's references.
  std::vector<std::byte> contents_;  // Of memory that nobody watches.
  std::vector<Entry> entries_;  // By the thousand, and all are read at each comparison: what few have is elsewhere.
  std::vector<Details> details_;
  std::vector<PyObject*> scripts_;
  std::optional<std::string> obstacle_;
};

// Those of some attributes whose value is another object now. Each is a tuple: a getter, a name, the object that the
// getter returned for it, and more.
nanobind::list not_as_before(const nanobind::list& attributes);

// Whether the objects of a class are destroyed as those of a class that was made by a `class` statement: true of these,
// and of some that were made by C.
bool is_python_class(nanobind::handle cls);

void bind_snapshot(nanobind::module_& module);

}  // namespace zerocopy::python
