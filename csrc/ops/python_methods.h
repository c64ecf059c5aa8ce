// Functions of the module initstats._C that are written against Python itself: a binding around
// them would take as long as they do.
#pragma once

struct PyMethodDef;

namespace initstats::ops {

// Ends with an entry without a name.
PyMethodDef* python_methods();

}  // namespace initstats::ops
