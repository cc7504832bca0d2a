/* Predictions of classes, checked and told right or wrong in one pass; numpy takes twenty small operations for it.

   What is told has the bits of outcomes.py. Shape suffixes: N = records, K = classes. */

#include "../_buffers.h"

#include <math.h>
#include <stdint.h>

#define CALLS 2 /* counts up whenever the signature below changes; evaluation/kernel.py asks for the one it knows */

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

/* class_verdict(p_NK, y_N, error_N, said_N, doubt_N, tolerance) -> whether every row is a distribution; the three arrays
   then hold the fields of a Verdict. */
static PyObject *call_class_verdict(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Held held = {.n = 0};
    Py_buffer *p, *y, *error, *said, *doubt;
    PyObject *result = NULL;
    if (arguments(count, 6) && (p = hold(&held, args[0], 'd', 2, PyBUF_C_CONTIGUOUS)) &&
        (y = hold(&held, args[1], 'l', 1, PyBUF_C_CONTIGUOUS)) &&
        (error = hold(&held, args[2], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        (said = hold(&held, args[3], 'l', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        (doubt = hold(&held, args[4], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        fits(p->shape[0] == y->shape[0] && p->shape[0] == error->shape[0] && p->shape[0] == said->shape[0] &&
             p->shape[0] == doubt->shape[0] && p->shape[1] > 0)) {
        const double *row = p->buf, tolerance = PyFloat_AsDouble(args[5]);
        const int64_t *truth = y->buf;
        double *errors = error->buf, *doubts = doubt->buf;
        int64_t *guesses = said->buf;
        int good = 1;
        for (Py_ssize_t n = 0; n < p->shape[0] && good; n++, row += p->shape[1]) {
            Py_ssize_t guess;
            good = is_distribution(row, p->shape[1], tolerance, &guess);
            guesses[n] = guess;
            errors[n] = guess != truth[n];
            doubts[n] = 1.0 - row[guess];
        }
        if (!PyErr_Occurred()) result = PyBool_FromLong(good);
    }
    release(&held);
    return result;
}

static PyMethodDef methods[] = {
    {"class_verdict", (PyCFunction)(void (*)(void))call_class_verdict, METH_FASTCALL, NULL},
    {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, methods};

PyMODINIT_FUNC PyInit__kernel(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "CALLS", CALLS) < 0) Py_CLEAR(module);
    return module;
}
