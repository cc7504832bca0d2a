/* Predictions of classes, checked, judged and counted in one pass each; numpy takes a hundred small operations for it.

   What is told has the bits of outcomes.py, baselines.py and memory.py: the same operations in the same order, and no
   logarithm, whose last bit is a matter of libraries. Shape suffixes: N = records, K = classes. */

#include "../_buffers.h"

#include <math.h>
#include <stdint.h>

#define CALLS 3 /* counts up whenever a signature below changes; evaluation/kernel.py asks for the one it knows */

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

#define ODDS_MIN 1e-300 /* of outcomes.py, as all numbers here */
#define ODDS_KNEE 4.0
#define BINS 1024

static double at_least(double low, double value) { return value > low ? value : low; }

/* Whether all labels, or indices, are below `classes`; if not, with an exception. */
static int in_range(const Py_buffer *y, Py_ssize_t classes) {
    const int64_t *label = y->buf;
    for (Py_ssize_t n = 0; n < y->shape[0]; n++) {
        if (label[n] >= 0 && label[n] < classes) continue;
        PyErr_Format(PyExc_ValueError, "%lld is none of %zd classes or cells", (long long)label[n], classes);
        return 0;
    }
    return 1;
}

/* outcomes(p_NK, y_N, error_N, p_true_N, confused_N, odds): the fields of ClassOutcomes, probabilities and odds instead of
   their logarithms. odds: (N,) of the second class of two, or (N * K,). */
static PyObject *call_outcomes(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Held held = {.n = 0};
    Py_buffer *p, *y, *error, *p_true, *confused, *odds;
    PyObject *result = NULL;
    if (arguments(count, 6) && (p = hold(&held, args[0], 'd', 2, PyBUF_C_CONTIGUOUS)) &&
        (y = hold(&held, args[1], 'l', 1, PyBUF_C_CONTIGUOUS)) &&
        (error = hold(&held, args[2], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        (p_true = hold(&held, args[3], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        (confused = hold(&held, args[4], 'l', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        (odds = hold(&held, args[5], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        fits(p->shape[1] > 1 && p->shape[0] == y->shape[0] && p->shape[0] == error->shape[0] &&
             p->shape[0] == p_true->shape[0] && p->shape[0] == confused->shape[0] &&
             odds->shape[0] == p->shape[0] * (p->shape[1] == 2 ? 1 : p->shape[1])) &&
        in_range(y, p->shape[1])) {
        const Py_ssize_t classes = p->shape[1];
        const double *row = p->buf;
        const int64_t *truth = y->buf;
        double *wrong = error->buf, *given = p_true->buf, *odd = odds->buf;
        int64_t *cell = confused->buf;
        for (Py_ssize_t n = 0; n < p->shape[0]; n++, row += classes) {
            Py_ssize_t guess = 0;
            for (Py_ssize_t k = 1; k < classes; k++)
                if (row[k] > row[guess]) guess = k;
            wrong[n] = guess != truth[n];
            given[n] = row[truth[n]];
            cell[n] = truth[n] * classes + guess;
            if (classes == 2) /* the other column, not 1 - p: near 1 that difference has lost all digits */
                *odd++ = at_least(ODDS_MIN, row[1]) / at_least(ODDS_MIN, row[0]);
            else
                for (Py_ssize_t k = 0; k < classes; k++)
                    *odd++ = at_least(ODDS_MIN, row[k]) / at_least(ODDS_MIN, 1.0 - row[k]);
        }
        result = Py_NewRef(Py_None);
    }
    release(&held);
    return result;
}

/* bin_odds(log_odds, y_N, binned): `binned` of ClassOutcomes. */
static PyObject *call_bin_odds(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Held held = {.n = 0};
    Py_buffer *log_odds, *y, *binned;
    PyObject *result = NULL;
    if (arguments(count, 3) && (log_odds = hold(&held, args[0], 'd', 1, PyBUF_C_CONTIGUOUS)) &&
        (y = hold(&held, args[1], 'l', 1, PyBUF_C_CONTIGUOUS)) &&
        (binned = hold(&held, args[2], 'l', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        fits(binned->shape[0] == log_odds->shape[0] && y->shape[0] > 0 && log_odds->shape[0] % y->shape[0] == 0)) {
        const double *value = log_odds->buf;
        const int64_t *truth = y->buf;
        int64_t *cell = binned->buf;
        const Py_ssize_t curves = log_odds->shape[0] / y->shape[0];
        for (Py_ssize_t n = 0; n < y->shape[0]; n++)
            for (Py_ssize_t k = 0; k < curves; k++, value++) {
                const double position = *value / (fabs(*value) + ODDS_KNEE); /* within (-1, 1) */
                const int64_t row = curves == 1 ? truth[n] : 2 * k + (truth[n] == k);
                *cell++ = row * BINS + (int64_t)((position + 1.0) * (BINS / 2));
            }
        result = Py_NewRef(Py_None);
    }
    release(&held);
    return result;
}

/* add_weights(cells, index, weights_N, unit): the weight of each record in `unit`, into the cells of its indices, of
   which each has as many, side by side. */
static PyObject *call_add_weights(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Held held = {.n = 0};
    Py_buffer *cells, *index, *weights;
    PyObject *result = NULL;
    if (arguments(count, 4) && (cells = hold(&held, args[0], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        (index = hold(&held, args[1], 'l', 1, PyBUF_C_CONTIGUOUS)) &&
        (weights = hold(&held, args[2], 'd', 1, PyBUF_C_CONTIGUOUS)) &&
        fits(weights->shape[0] > 0 && index->shape[0] % weights->shape[0] == 0) && in_range(index, cells->shape[0])) {
        double *cell = cells->buf;
        const double *weight = weights->buf, unit = PyFloat_AsDouble(args[3]);
        const int64_t *where = index->buf;
        const Py_ssize_t each = index->shape[0] / weights->shape[0];
        for (Py_ssize_t n = 0; n < weights->shape[0]; n++) {
            const double added = weight[n] * unit;
            for (Py_ssize_t i = 0; i < each; i++) cell[*where++] += added;
        }
        if (!PyErr_Occurred()) result = Py_NewRef(Py_None);
    }
    release(&held);
    return result;
}

/* guess_majority(y_N, count_K, majority, error_N, p_true_N) -> majority afterwards; counts the labels. */
static PyObject *call_guess_majority(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Held held = {.n = 0};
    Py_buffer *y, *counts, *error, *p_true;
    PyObject *result = NULL;
    if (arguments(count, 5) && (y = hold(&held, args[0], 'l', 1, PyBUF_C_CONTIGUOUS)) &&
        (counts = hold(&held, args[1], 'l', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        (error = hold(&held, args[3], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        (p_true = hold(&held, args[4], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        fits(y->shape[0] == error->shape[0] && y->shape[0] == p_true->shape[0]) && in_range(y, counts->shape[0])) {
        const Py_ssize_t classes = counts->shape[0];
        const int64_t *truth = y->buf;
        int64_t *seen = counts->buf, leader = PyLong_AsLongLong(args[2]), records = 0, highest = 0;
        double *wrong = error->buf, *given = p_true->buf;
        for (Py_ssize_t k = 0; k < classes; k++) {
            records += seen[k];
            highest = seen[k] > highest ? seen[k] : highest;
        }
        for (Py_ssize_t n = 0; n < y->shape[0]; n++, records++) {
            wrong[n] = leader != truth[n];
            given[n] = (double)(seen[truth[n]] + 1) / (double)(records + classes);
            if (++seen[truth[n]] > highest) {
                highest = seen[truth[n]];
                leader = truth[n];
            }
        }
        if (!PyErr_Occurred()) result = PyLong_FromLongLong(leader);
    }
    release(&held);
    return result;
}

/* guess_last(y_N, last, repeats, records, classes, error_N, p_true_N) -> repeats afterwards. */
static PyObject *call_guess_last(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Held held = {.n = 0};
    Py_buffer *y, *error, *p_true;
    PyObject *result = NULL;
    if (arguments(count, 7) && (y = hold(&held, args[0], 'l', 1, PyBUF_C_CONTIGUOUS)) &&
        (error = hold(&held, args[5], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        (p_true = hold(&held, args[6], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        fits(y->shape[0] == error->shape[0] && y->shape[0] == p_true->shape[0])) {
        int64_t last = PyLong_AsLongLong(args[1]), repeats = PyLong_AsLongLong(args[2]);
        const int64_t records = PyLong_AsLongLong(args[3]), classes = PyLong_AsLongLong(args[4]), *truth = y->buf;
        double *wrong = error->buf, *given = p_true->buf;
        for (Py_ssize_t n = 0; n < y->shape[0]; n++) {
            const double p = (double)(repeats + 1) / (double)(records + n + classes);
            const int again = truth[n] == last;
            wrong[n] = !again;
            given[n] = again ? p : (1.0 - p) / (double)(classes - 1);
            repeats += again;
            last = truth[n];
        }
        if (!PyErr_Occurred()) result = PyLong_FromLongLong(repeats);
    }
    release(&held);
    return result;
}

#define CALL(name) {#name, (PyCFunction)(void (*)(void))call_##name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    CALL(class_verdict), CALL(outcomes), CALL(bin_odds), CALL(add_weights), CALL(guess_majority), CALL(guess_last),
    {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, methods};

PyMODINIT_FUNC PyInit__kernel(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "CALLS", CALLS) < 0) Py_CLEAR(module);
    return module;
}
