/* Counting and proving for the drift signals: one call where numpy takes dozens of small operations.

   What is counted here has the bits that numpy's code beside it would give: the same sums, added in the same order, and
   no a * b + c in one rounding (-ffp-contract=off). What is proven here is only that nothing will be told: it is said
   with a margin, and whatever comes nearer is decided by numpy. So no alarm and no state tells which of them was used.

   Shape suffixes: N = records, F = columns, B = bins or boundaries, E = edges. */

#include "../_buffers.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#define CALLS 3       /* counts up whenever a signature below changes; drift/kernel.py asks for the one it knows */
#define LANES 8       /* columns coded together */
#define MARGIN 1e-6   /* nearer than this share to a threshold is left to numpy */

/* ------------------------------------------------------------ counting */

/* Add the weights of the records to the bins of their values: bin = edges passed, or the last one where missing. */
static void add_numbers(const float *x, const char *missing, const float *edge, const double *weight, double *count,
                        Py_ssize_t records, Py_ssize_t columns, Py_ssize_t edges) {
    const Py_ssize_t bins = edges + 2;
    for (Py_ssize_t first = 0; first < columns; first += LANES) {
        const Py_ssize_t lanes = columns - first < LANES ? columns - first : LANES;
        for (Py_ssize_t n = 0; n < records; n++) {
            const float *row = x + n * columns + first;
            int32_t code[LANES] = {0};
            if (lanes == LANES) {
                float value[LANES];
                memcpy(value, row, sizeof value);
                for (Py_ssize_t e = 0; e < edges; e++)
                    for (int lane = 0; lane < LANES; lane++) code[lane] += value[lane] > edge[e * columns + first + lane];
            } else {
                for (Py_ssize_t e = 0; e < edges; e++)
                    for (int lane = 0; lane < lanes; lane++) code[lane] += row[lane] > edge[e * columns + first + lane];
            }
            for (int lane = 0; lane < lanes; lane++) {
                const int gone = missing && missing[n * columns + first + lane];
                count[(first + lane) * bins + (gone ? edges + 1 : code[lane])] += weight[n];
            }
        }
    }
}

/* after = before * kept + after */
static void fade_in(const double *before, double kept, double *after, Py_ssize_t cells) {
    for (Py_ssize_t i = 0; i < cells; i++) after[i] = before[i] * kept + after[i];
}

/* count_numbers(x_NF, missing_NF or None, edge_EF, weight_N, before_FB, kept, after_FB): the counts before, faded, and
   the weights of these records. */
static PyObject *call_count_numbers(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Held held = {.n = 0};
    Py_buffer *x, *missing = NULL, *edge, *weight, *before, *after;
    PyObject *result = NULL;
    if (arguments(count, 7) && (x = hold(&held, args[0], 'f', 2, PyBUF_C_CONTIGUOUS)) &&
        (args[1] == Py_None || (missing = hold(&held, args[1], '?', 2, PyBUF_C_CONTIGUOUS))) &&
        (edge = hold(&held, args[2], 'f', 2, PyBUF_C_CONTIGUOUS)) &&
        (weight = hold(&held, args[3], 'd', 1, PyBUF_C_CONTIGUOUS)) &&
        (before = hold(&held, args[4], 'd', 2, PyBUF_C_CONTIGUOUS)) &&
        (after = hold(&held, args[6], 'd', 2, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        fits(weight->shape[0] == x->shape[0] && edge->shape[1] == x->shape[1] && before->shape[0] == x->shape[1] &&
             before->shape[1] == edge->shape[0] + 2 && after->shape[0] == before->shape[0] &&
             after->shape[1] == before->shape[1] &&
             (!missing || (missing->shape[0] == x->shape[0] && missing->shape[1] == x->shape[1])))) {
        memset(after->buf, 0, (size_t)after->len);
        add_numbers(x->buf, missing ? missing->buf : NULL, edge->buf, weight->buf, after->buf, x->shape[0], x->shape[1],
                    edge->shape[0]);
        fade_in(before->buf, PyFloat_AsDouble(args[5]), after->buf, after->shape[0] * after->shape[1]);
        if (!PyErr_Occurred()) result = Py_NewRef(Py_None);
    }
    release(&held);
    return result;
}

/* count_categories(category_NF, weight_N, before_FB, kept, after_FB): alike, categories folded by the number of bins. */
static PyObject *call_count_categories(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Held held = {.n = 0};
    Py_buffer *category, *weight, *before, *after;
    PyObject *result = NULL;
    if (arguments(count, 5) && (category = hold(&held, args[0], 'l', 2, PyBUF_C_CONTIGUOUS)) &&
        (weight = hold(&held, args[1], 'd', 1, PyBUF_C_CONTIGUOUS)) &&
        (before = hold(&held, args[2], 'd', 2, PyBUF_C_CONTIGUOUS)) &&
        (after = hold(&held, args[4], 'd', 2, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        fits(weight->shape[0] == category->shape[0] && before->shape[0] == category->shape[1] &&
             before->shape[1] > 0 && after->shape[0] == before->shape[0] && after->shape[1] == before->shape[1])) {
        const int64_t *value = category->buf, bins = after->shape[1];
        const double *weights = weight->buf;
        memset(after->buf, 0, (size_t)after->len);
        for (Py_ssize_t n = 0; n < category->shape[0]; n++) {
            double *row = after->buf;
            for (Py_ssize_t f = 0; f < category->shape[1]; f++, value++, row += bins) {
                const int64_t rest = (uint64_t)*value < (uint64_t)bins ? *value : *value % bins;
                row[rest < 0 ? rest + bins : rest] += weights[n]; /* as numpy: never below 0 */
            }
        }
        fade_in(before->buf, PyFloat_AsDouble(args[3]), after->buf, after->shape[0] * after->shape[1]);
        if (!PyErr_Occurred()) result = Py_NewRef(Py_None);
    }
    release(&held);
    return result;
}

/* ------------------------------------------------------------ proving that no column is told */

typedef double (*Distance)(const double *count, const double *reference, Py_ssize_t bins, double scale, double pseudo,
                           double total);

#define SHARE(b) ((count[b] * scale + pseudo) / total)

static double psi(const double *count, const double *reference, Py_ssize_t bins, double scale, double pseudo,
                  double total) {
    double sum = 0.0;
    for (Py_ssize_t b = 0; b < bins; b++) {
        const double p = reference[b], q = SHARE(b);
        sum += (q - p) * log(q / p);
    }
    return sum;
}

static double jensen_shannon(const double *count, const double *reference, Py_ssize_t bins, double scale, double pseudo,
                             double total) {
    double sum = 0.0;
    for (Py_ssize_t b = 0; b < bins; b++) {
        const double p = reference[b], q = SHARE(b), middle = (p + q) / 2.0;
        sum += q * log(q / middle) + p * log(p / middle);
    }
    return sum / 2.0;
}

static double total_variation(const double *count, const double *reference, Py_ssize_t bins, double scale, double pseudo,
                              double total) {
    double sum = 0.0;
    for (Py_ssize_t b = 0; b < bins; b++) sum += fabs(SHARE(b) - reference[b]);
    return sum / 2.0;
}

static double wasserstein(const double *count, const double *reference, Py_ssize_t bins, double scale, double pseudo,
                          double total) {
    double sum = 0.0, gap = 0.0;
    for (Py_ssize_t b = 0; b + 1 < bins; b++) {
        gap += SHARE(b) - reference[b];
        sum += fabs(gap);
    }
    return sum / (double)(bins - 1);
}

static Distance distance_named(PyObject *name) {
    const char *wanted = PyUnicode_AsUTF8(name);
    if (!wanted) return NULL;
    if (strcmp(wanted, "psi") == 0) return psi;
    if (strcmp(wanted, "jensen_shannon") == 0) return jensen_shannon;
    if (strcmp(wanted, "total_variation") == 0) return total_variation;
    if (strcmp(wanted, "wasserstein") == 0) return wasserstein;
    PyErr_Format(PyExc_ValueError, "the kernel knows no distance %R", name);
    return NULL;
}

/* nothing_new(distance, count_FB, reference_FB, chance_F, beyond_F, told_F, scale, pseudo, total, v, effect_min) ->
   whether no column is near its threshold, nor near half of it where it was told. `chance` and `beyond` are for v = 1.
   The reference may have fewer bins than the counts: those after them do not count. */
static PyObject *call_nothing_new(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Held held = {.n = 0};
    Py_buffer *counts, *reference, *chance, *beyond, *told;
    PyObject *result = NULL;
    Distance distance;
    if (arguments(count, 11) && (distance = distance_named(args[0])) &&
        (counts = hold(&held, args[1], 'd', 2, PyBUF_C_CONTIGUOUS)) &&
        (reference = hold(&held, args[2], 'd', 2, PyBUF_C_CONTIGUOUS)) &&
        (chance = hold(&held, args[3], 'd', 1, PyBUF_C_CONTIGUOUS)) &&
        (beyond = hold(&held, args[4], 'd', 1, PyBUF_C_CONTIGUOUS)) &&
        (told = hold(&held, args[5], '?', 1, PyBUF_C_CONTIGUOUS)) &&
        fits(reference->shape[0] == counts->shape[0] && reference->shape[1] <= counts->shape[1] &&
             chance->shape[0] == counts->shape[0] && beyond->shape[0] == counts->shape[0] &&
             told->shape[0] == counts->shape[0])) {
        const double scale = PyFloat_AsDouble(args[6]), pseudo = PyFloat_AsDouble(args[7]),
                     total = PyFloat_AsDouble(args[8]), v = PyFloat_AsDouble(args[9]),
                     effect_min = PyFloat_AsDouble(args[10]);
        const double *row = counts->buf, *known = reference->buf, *usual = chance->buf, *above = beyond->buf;
        const char *was_told = told->buf;
        int near = 0;
        for (Py_ssize_t f = 0; f < counts->shape[0] && !near; f++) {
            const double value = distance(row, known, reference->shape[1], scale, pseudo, total);
            const double least = usual[f] * v, margin = above[f] * v > effect_min ? above[f] * v : effect_min;
            near = was_told[f] ? !(value > (least + margin / 2.0) * (1.0 + MARGIN))
                               : !(value < (least + margin) * (1.0 - MARGIN));
            row += counts->shape[1];
            known += reference->shape[1];
        }
        if (!PyErr_Occurred()) result = PyBool_FromLong(!near);
    }
    release(&held);
    return result;
}

/* ------------------------------------------------------------ proving that no cut of a window is significant */

typedef struct {
    double *position, *sum, *squares, *reach; /* the rows of adwin_window.py */
    Py_ssize_t boundaries;
} Window;

static void add_block(Window *w, const double *values, Py_ssize_t block, double value_max, double resolution) {
    double sum = 0.0, squares = 0.0;
    for (Py_ssize_t i = 0; i < block; i++) {
        const double value = (values[i] < value_max ? values[i] : value_max) / value_max;
        sum += value;
        squares += value * value;
    }
    const Py_ssize_t last = w->boundaries - 1, next = w->boundaries++;
    const int64_t position = (int64_t)w->position[last] + 1;
    w->position[next] = (double)position;
    w->sum[next] = w->sum[last] + sum;
    w->squares[next] = w->squares[last] + squares;
    w->reach[next] = resolution * (double)(position & -position);
}

/* Forget the boundaries that have outlived their reach; the first is the start of the window and stays. */
static void forget(Window *w) {
    const double end = w->position[w->boundaries - 1];
    Py_ssize_t kept = 1;
    for (Py_ssize_t b = 1; b < w->boundaries; b++) {
        if (end - w->position[b] > w->reach[b]) continue;
        w->position[kept] = w->position[b];
        w->sum[kept] = w->sum[b];
        w->squares[kept] = w->squares[b];
        w->reach[kept++] = w->reach[b];
    }
    w->boundaries = kept;
}

/* Whether any cut may be significant at the end of the window; 0 is certain. The bound of adwin_window.py, squared. */
static int may_cut(const Window *w, double block, double log_scale, double effect_min) {
    const Py_ssize_t last = w->boundaries - 1;
    const double start = w->position[0], sum_start = w->sum[0], n = (w->position[last] - start) * block;
    const double mean = (w->sum[last] - sum_start) / n;
    const double variance = (w->squares[last] - w->squares[0]) / n - mean * mean;
    const double log_term = log(log_scale * log(n)), least = 2.0 / 3.0 * log_term;
    const double spread = 2.0 * (variance > 0.0 ? variance : 0.0) * log_term;
    int near = 0;
    for (Py_ssize_t b = 1; b < last; b++) {
        const double n_old = (w->position[b] - start) * block, harmonic = n_old - n_old * n_old / n;
        const double excess = fabs(mean * n_old - (w->sum[b] - sum_start)) * (1.0 + MARGIN), over = excess - least;
        near |= (over > 0.0) & (over * over > spread * harmonic) & (excess > effect_min * harmonic);
    }
    return near;
}

static int all_finite(const double *values, Py_ssize_t n) {
    double sum = 0.0; /* finite only if each of them is */
    for (Py_ssize_t i = 0; i < n; i++) sum += values[i];
    return isfinite(sum);
}

/* Add all whole blocks of `values` to the window, whose rows are `width` apart; 0 if a cut may be significant at the end
   of one, or the rows are full. */
static int stays_calm(Window *w, Py_ssize_t width, const double *values, Py_ssize_t blocks, Py_ssize_t block,
                      double value_max, double resolution, double log_scale, double effect_min, double tested_from) {
    for (Py_ssize_t done = 0; done < blocks; done++) {
        if (w->boundaries == width) return 0;
        add_block(w, values + done * block, block, value_max, resolution);
        forget(w);
        if (w->position[w->boundaries - 1] >= tested_from && may_cut(w, (double)block, log_scale, effect_min)) return 0;
    }
    return 1;
}

/* pass_calm(window_4B, boundaries, pending, n_pending, values_N, value_max, armed_at, block, resolution, log_scale,
             effect_min, warmup_blocks) -> None or (boundaries, n_pending)
   Where it is proven that the values, after the pending ones, are finite and complete no significant cut, they are in
   the window afterwards, and what is left of them in `pending`. Else, None, nothing has changed. */
static PyObject *call_pass_calm(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Held held = {.n = 0};
    Py_buffer *window, *pending, *values;
    PyObject *result = NULL;
    if (!arguments(count, 12)) return NULL;
    const Py_ssize_t boundaries = PyLong_AsSsize_t(args[1]), n_pending = PyLong_AsSsize_t(args[3]),
                     block = PyLong_AsSsize_t(args[7]);
    const double value_max = PyFloat_AsDouble(args[5]), armed_at = PyFloat_AsDouble(args[6]),
                 resolution = PyFloat_AsDouble(args[8]), log_scale = PyFloat_AsDouble(args[9]),
                 effect_min = PyFloat_AsDouble(args[10]), warmup_blocks = PyFloat_AsDouble(args[11]);
    if (PyErr_Occurred()) return NULL;
    if ((window = hold(&held, args[0], 'd', 2, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        (pending = hold(&held, args[2], 'd', 1, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) &&
        (values = hold(&held, args[4], 'd', 1, PyBUF_C_CONTIGUOUS)) &&
        fits(window->shape[0] == 4 && boundaries > 0 && boundaries <= window->shape[1] && block > 0 && n_pending >= 0 &&
             n_pending < block && pending->shape[0] == block)) {
        const Py_ssize_t width = window->shape[1], n = n_pending + values->shape[0], blocks = n / block;
        double *rows = PyMem_RawMalloc((4 * width + n) * sizeof(double)), *all = rows + 4 * width;
        if (!rows) {
            release(&held);
            return PyErr_NoMemory();
        }
        memcpy(rows, window->buf, 4 * width * sizeof(double));
        memcpy(all, pending->buf, n_pending * sizeof(double));
        memcpy(all + n_pending, values->buf, values->shape[0] * sizeof(double));
        Window w = {rows, rows + width, rows + 2 * width, rows + 3 * width, boundaries};
        const double warm = rows[0] + warmup_blocks, tested_from = warm > armed_at ? warm : armed_at;
        if (all_finite(all, n) &&
            stays_calm(&w, width, all, blocks, block, value_max, resolution, log_scale, effect_min, tested_from)) {
            memcpy(window->buf, rows, 4 * width * sizeof(double));
            memcpy(pending->buf, all + blocks * block, (n - blocks * block) * sizeof(double));
            result = Py_BuildValue("nn", w.boundaries, n - blocks * block);
        } else {
            result = Py_NewRef(Py_None);
        }
        PyMem_RawFree(rows);
    }
    release(&held);
    return result;
}

static PyMethodDef methods[] = {
    {"count_numbers", (PyCFunction)(void (*)(void))call_count_numbers, METH_FASTCALL, NULL},
    {"count_categories", (PyCFunction)(void (*)(void))call_count_categories, METH_FASTCALL, NULL},
    {"nothing_new", (PyCFunction)(void (*)(void))call_nothing_new, METH_FASTCALL, NULL},
    {"pass_calm", (PyCFunction)(void (*)(void))call_pass_calm, METH_FASTCALL, NULL},
    {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, methods};

PyMODINIT_FUNC PyInit__kernel(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "CALLS", CALLS) < 0) Py_CLEAR(module);
    return module;
}
