/* Predictions of classes, checked and told right or wrong in one pass; numpy takes twenty small operations for it.

   What is told has the bits of outcomes.py. Shape suffixes: N = records, K = classes. */

#include "../_buffers.h"

#include <math.h>
#include <stdint.h>

#define CALLS 1 /* counts up whenever the signature below changes; evaluation/kernel.py asks for the one it knows */

/* Whether a row holds probabilities, `guess` its largest, the first of equal ones. A nan is none. */
static int is_distribution(const double *p, Py_ssize_t classes, double tolerance, Py_ssize_t *guess) {
    double sum = 0.0;
    int positive = 1;
    *guess = 0;
    for (Py_ssize_t k = 0; k < classes; k++) {
        sum += p[k];
        positive &= p[k] >= 0.0;
        if (p[k] > p[*guess]) *guess = k;
    }
    return positive && fabs(sum - 1.0) <= tolerance;
}

/* class_errors(p_NK, y_N, error_N, tolerance) -> whether every row is a distribution; error_N is then 1 where the class
   guessed is not y, and else 0. */
static PyObject *call_class_errors(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Held held = {.n = 0};
    Py_buffer *p, *y, *error;
    PyObject *result = NULL;
    if (arguments(count, 4) && (p = hold(&held, args[0], 'd', 2, PyBUF_C_CONTIGUOUS)) &&
        (y = hold(&held, args[1], 'l', 1, PyBUF_C_CONTIGUOUS)) &&
        (error = hold(&held, args[2], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        fits(p->shape[0] == y->shape[0] && p->shape[0] == error->shape[0] && p->shape[1] > 0)) {
        const double *row = p->buf, tolerance = PyFloat_AsDouble(args[3]);
        const int64_t *truth = y->buf;
        double *out = error->buf;
        int good = 1;
        for (Py_ssize_t n = 0; n < p->shape[0] && good; n++, row += p->shape[1]) {
            Py_ssize_t guess;
            good = is_distribution(row, p->shape[1], tolerance, &guess);
            out[n] = guess != truth[n];
        }
        if (!PyErr_Occurred()) result = PyBool_FromLong(good);
    }
    release(&held);
    return result;
}

static PyMethodDef methods[] = {
    {"class_errors", (PyCFunction)(void (*)(void))call_class_errors, METH_FASTCALL, NULL},
    {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, methods};

PyMODINIT_FUNC PyInit__kernel(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "CALLS", CALLS) < 0) Py_CLEAR(module);
    return module;
}
