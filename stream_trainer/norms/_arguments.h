/* What a call from Python hands over: numbers, shapes, and tensors, which are asked for their addresses. */

#ifndef STREAM_TRAINER_ARGUMENTS_H
#define STREAM_TRAINER_ARGUMENTS_H

#include "../_tensors.h"
#include "_team.h"

/* Names of buffers, made once. */
static PyObject *mean, *var, *weight, *n_records;

/* The arguments of a call, taken one after another. The first that does not fit sets the error; go on, and ask at the end. */
typedef struct {
    PyObject *const *next;
    int failed;
} Arguments;

static double number(Arguments *a) {
    double value = a->failed ? 0 : PyFloat_AsDouble(*a->next++);
    a->failed |= value == -1 && PyErr_Occurred();
    return value;
}

static int truth(Arguments *a) {
    int value = a->failed ? 0 : PyObject_IsTrue(*a->next++);
    a->failed |= value < 0;
    return value;
}

static void *address(Arguments *a) { return a->failed ? NULL : address_of(*a->next++, &a->failed); }

/* A torch.Size: records, channels, and any number of axes of positions. */
static Shape shape(Arguments *a) {
    Shape s = {1, 1, 1};
    if (a->failed) return s;
    PyObject *size = *a->next++;
    if (!PyTuple_Check(size) || PyTuple_GET_SIZE(size) < 2) {
        PyErr_SetString(PyExc_TypeError, "expected the shape of a batch");
        a->failed = 1;
        return s;
    }
    s.n = PyLong_AsSsize_t(PyTuple_GET_ITEM(size, 0));
    s.c = PyLong_AsSsize_t(PyTuple_GET_ITEM(size, 1));
    for (Py_ssize_t i = 2; i < PyTuple_GET_SIZE(size); i++) s.p *= PyLong_AsSsize_t(PyTuple_GET_ITEM(size, i));
    a->failed |= PyErr_Occurred() != NULL;
    return s;
}

/* A tuple of numbers, one for each horizon. */
static void per_horizon(Arguments *a, double *values) {
    if (a->failed) return;
    PyObject *tuple = *a->next++;
    for (Py_ssize_t h = 0; h < HORIZONS_MAX && h < PyTuple_GET_SIZE(tuple); h++)
        values[h] = PyFloat_AsDouble(PyTuple_GET_ITEM(tuple, h));
    a->failed |= PyErr_Occurred() != NULL;
}

static int intern_names(void) {
    struct {
        PyObject **name;
        const char *word;
    } names[] = {{&mean, "mean"}, {&var, "var"}, {&weight, "weight"}, {&n_records, "n_records"}};
    if (intern_tensor_names() < 0) return -1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].name = PyUnicode_InternFromString(names[i].word))) return -1;
    return 0;
}

#endif
