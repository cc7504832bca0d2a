/* Arrays of numpy as buffers, for the compiled parts: refused if type or dimensions are others than the ones asked for,
   so that nothing is read or written that was not handed over. Included once by each extension module. */

#ifndef STREAM_TRAINER_BUFFERS_H
#define STREAM_TRAINER_BUFFERS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define BUFFERS_MAX 6 /* of one call */

typedef struct {
    Py_buffer view[BUFFERS_MAX];
    int n;
} Held;

static void release(Held *held) {
    while (held->n) PyBuffer_Release(&held->view[--held->n]);
}

/* The buffer of an array of this kind: f float32, d float64, l int64, ? bool; NULL with an exception. */
static Py_buffer *hold(Held *held, PyObject *array, char kind, int dims, int flags) {
    Py_buffer *view = &held->view[held->n];
    if (PyObject_GetBuffer(array, view, flags | PyBUF_FORMAT) < 0) return NULL;
    held->n++;
    const char found = view->format ? view->format[0] == 'q' ? 'l' : view->format[0] : 'B';
    const int bytes = kind == 'f' ? 4 : kind == '?' ? 1 : 8;
    if (found == kind && view->itemsize == bytes && view->ndim == dims) return view;
    PyErr_Format(PyExc_TypeError, "expected an array of type %c and %d dimensions, got type %s and %d dimensions", kind,
                 dims, view->format ? view->format : "B", view->ndim);
    return NULL;
}

static int fits(int right) {
    if (!right) PyErr_SetString(PyExc_ValueError, "the shapes of the arrays do not belong together");
    return right;
}

static int arguments(Py_ssize_t count, Py_ssize_t expected) {
    if (count == expected) return 1;
    PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", expected, count);
    return 0;
}

#endif
