/* Tensors of torch as addresses, for the compiled parts that work on them. Asked first whether they are plain, so that
   nothing is read or written that was not handed over. Included once by each extension module. */

#ifndef STREAM_TRAINER_TENSORS_H
#define STREAM_TRAINER_TENSORS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Names, made once. */
static PyObject *data_ptr, *dtype, *is_cpu, *is_contiguous;

static int intern_tensor_names(void) {
    struct {
        PyObject **name;
        const char *word;
    } names[] = {{&data_ptr, "data_ptr"}, {&dtype, "dtype"}, {&is_cpu, "is_cpu"}, {&is_contiguous, "is_contiguous"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].name = PyUnicode_InternFromString(names[i].word))) return -1;
    return 0;
}

/* Address of a tensor's first value; of None, or of no tensor at all, 0. */
static void *address_of(PyObject *tensor, int *failed) {
    if (*failed || !tensor || tensor == Py_None) return NULL;
    PyObject *value = PyObject_CallMethodNoArgs(tensor, data_ptr);
    void *address = value ? PyLong_AsVoidPtr(value) : NULL;
    Py_XDECREF(value);
    *failed |= PyErr_Occurred() != NULL;
    return address;
}

/* 1 where the tensor's attribute is `expected`, 0 where it is another, -1 on an error. */
static int attribute_is(PyObject *tensor, PyObject *attribute, PyObject *expected) {
    PyObject *value = PyObject_GetAttr(tensor, attribute);
    Py_XDECREF(value);
    return value ? value == expected : -1;
}

/* 1 for a contiguous tensor of this type on the CPU, and for none; 0 for another, -1 on an error. */
static int is_plain(PyObject *tensor, PyObject *type) {
    if (!tensor || tensor == Py_None) return 1;
    int plain = attribute_is(tensor, dtype, type);
    if (plain == 1) plain = attribute_is(tensor, is_cpu, Py_True);
    if (plain != 1) return plain;
    PyObject *contiguous = PyObject_CallMethodNoArgs(tensor, is_contiguous);
    Py_XDECREF(contiguous);
    return contiguous ? contiguous == Py_True : -1;
}

#endif
