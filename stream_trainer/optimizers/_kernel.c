/* The step of StreamAdamW and the length of a gradient, one call each: what stream_adamw.py and gradient_norm.py
   compute in dozens of small operations of torch, which on small networks cost more than the arithmetic. The same
   formulas, not torch's last bits; but the same bits on every processor: sums have a fixed order, and nothing is
   contracted. Every call asks first whether the tensors are plain float32 on the CPU and belong together; if not, it
   touches nothing and says False. Legend: g = gradient, u = its share of the step, D = values of a row. */

#include "../_tensors.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CALLS 4 /* counts up whenever a signature or a formula changes; kernel.py asks for the one it knows */
#define GIL_VALUES 32768 /* steps from here on let other threads of Python run meanwhile */
#define VALUES_MAX (4 << 20) /* of one step: beyond, torch's threads bring more than its calls cost */
#define LANES 8 /* a sum is made of so many, added up at the end */
#define FEW_LOOKS 64 /* are sorted by insertion */

/* torch's, by `introduce`. */
static PyObject *tensor_type, *parameter_type, *float32, *int64, *numel;

/* ------------------------------------------------------------ arithmetic, compiled for two instruction sets */

typedef struct {
    float *weights, *square, *mean, *previous; /* mean: NULL where a step is of the last gradient alone */
    const float *g, *initial;                  /* initial: NULL where nothing pulls */
    ptrdiff_t n, sampled;                      /* values of `previous`; 0 where it is NULL */
    double unbiased, mean_factor, pull;
} Dense;

typedef struct {
    double decay, gain, rate, limit, eps, smallest;
    int flush;
    double mean_decay, share; /* of the mean gradient in a step */
} Step;

/* Of an update u and the one before, p: sums of u p, u u and p p. */
typedef struct {
    double across, own, before;
} Products;

#define INLINE static inline __attribute__((always_inline))

INLINE double squares(const float *restrict values, ptrdiff_t n) {
    double lanes[LANES] = {0}, sum = 0;
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += (double)values[i + j] * values[i + j];
    for (int j = 0; i + j < n; j++) lanes[j] += (double)values[i + j] * values[i + j];
    for (int j = 0; j < LANES; j++) sum += lanes[j];
    return sum;
}

/* What is left of an update of this root mean square; nan stays nan. */
INLINE double cut(double rms, double limit) {
    if (rms <= limit) return 1;
    const double left = limit * limit / rms;
    return (left > 1 ? left : left == left ? 1 : left) / rms;
}

/* Add the products, and let p become u. */
INLINE void compare(const float *restrict u, float *restrict p, ptrdiff_t n, Products *products) {
    double lanes[LANES] = {0};
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += (double)u[i + j] * p[i + j];
    for (int j = 0; i + j < n; j++) lanes[j] += (double)u[i + j] * p[i + j];
    for (int j = 0; j < LANES; j++) products->across += lanes[j];
    products->own += squares(u, n);
    products->before += squares(p, n);
    memcpy(p, u, n * sizeof *p);
}

/* Move the mean gradient on by what the cut leaves of g, and let its share into u, which is cut already. */
INLINE void mix_mean(const Dense *t, const Step *s, float left, float eps, float *restrict u) {
    float *restrict mean = t->mean;
    const float *restrict g = t->g, *restrict square = t->square;
    const float moved = (float)(1 - s->mean_decay), share = (float)s->share, factor = (float)t->mean_factor;
    for (ptrdiff_t i = 0; i < t->n; i++) {
        mean[i] += moved * (left * g[i] - mean[i]);
        u[i] += share * (mean[i] * factor / (sqrtf(square[i]) + eps) - u[i]);
    }
}

INLINE void flush(float *restrict moment, ptrdiff_t n, float smallest) {
    for (ptrdiff_t i = 0; i < n; i++) moment[i] = fabsf(moment[i]) < smallest ? 0 : moment[i];
}

INLINE void step_dense(const Dense *t, const Step *s, float *restrict u, Products *products) {
    float *restrict weights = t->weights, *restrict square = t->square;
    const float *restrict g = t->g, *restrict initial = t->initial;
    const float decay = (float)s->decay, added = (float)((1 - s->decay) * s->gain), eps = (float)(s->eps * t->unbiased);
    const double factor = sqrt(s->gain) * t->unbiased;
    for (ptrdiff_t i = 0; i < t->n; i++) {
        square[i] = square[i] * decay + added * g[i] * g[i];
        u[i] = g[i] / (sqrtf(square[i]) + eps);
    }
    const float left = (float)cut(factor * sqrt(squares(u, t->n)) / sqrt((double)t->n), s->limit);
    for (ptrdiff_t i = 0; i < t->n; i++) u[i] *= left;
    if (t->previous) compare(u, t->previous, t->sampled, products);
    if (t->mean) mix_mean(t, s, left, eps, u);
    const float step = (float)(-s->rate * factor), pull = (float)t->pull;
    for (ptrdiff_t i = 0; i < t->n; i++) weights[i] += step * u[i];
    if (initial)
        for (ptrdiff_t i = 0; i < t->n; i++) weights[i] += pull * (initial[i] - weights[i]);
    if (!s->flush) return;
    flush(square, t->n, (float)s->smallest);
    if (t->mean) flush(t->mean, t->n, (float)s->smallest);
}

typedef struct {
    int64_t row;
    ptrdiff_t at; /* which value of the gradient */
} Look;

typedef struct {
    float *table, *square, *mass;
    const float *values;
    ptrdiff_t width; /* D */
    double horizon, decay_max, lr, records, reference, eps, smallest;
} Rows;

/* The sum of the values of one row, in arrival order. */
INLINE void add_up(const float *values, const Look *looks, ptrdiff_t k, ptrdiff_t width, float *restrict sum) {
    memcpy(sum, values + looks[0].at * width, width * sizeof *sum);
    for (ptrdiff_t l = 1; l < k; l++) {
        const float *restrict more = values + looks[l].at * width;
        for (ptrdiff_t d = 0; d < width; d++) sum[d] += more[d];
    }
}

/* One row, named by the k records of `looks`. */
INLINE void step_row(const Rows *r, const Look *looks, ptrdiff_t k, float *restrict g, float *restrict u) {
    const ptrdiff_t start = looks[0].row * r->width;
    float *restrict weights = r->table + start, *restrict square = r->square + start, *mass = r->mass + looks[0].row;
    const double root_k = sqrt((double)k);
    double keep = exp(-(double)k / r->horizon);
    if (keep > r->decay_max) keep = r->decay_max;
    add_up(r->values, looks, k, r->width, g);
    *mass = (float)(1 - keep * (1 - (double)*mass));
    const float scale = (float)(r->records / root_k), decay = (float)keep, added = (float)(1 - keep);
    const float unbiased = (float)(1 / sqrt(*mass)), eps = (float)r->eps, smallest = (float)r->smallest;
    for (ptrdiff_t d = 0; d < r->width; d++) {
        const float scaled = g[d] * scale, now = square[d] * decay + added * scaled * scaled; /* √k times the mean */
        u[d] = scaled / (sqrtf(now) * unbiased + eps);
        square[d] = now < smallest ? 0 : now;
    }
    const double limit = sqrt(r->reference / k), rms = sqrt(squares(u, r->width) / r->width);
    const float step = (float)(-r->lr * root_k * cut(rms, limit > 1 ? limit : 1));
    for (ptrdiff_t d = 0; d < r->width; d++) weights[d] += step * u[d];
}

/* Records that name the row of the first look. */
static ptrdiff_t same(const Look *looks, ptrdiff_t n) {
    ptrdiff_t k = 1;
    while (k < n && looks[k].row == looks->row) k++;
    return k;
}

INLINE void step_rows(const Rows *r, const Look *looks, ptrdiff_t n, float *scratch) {
    for (ptrdiff_t k; n; looks += k, n -= k) step_row(r, looks, k = same(looks, n), scratch, scratch + r->width);
}

INLINE double row_squares(const float *values, ptrdiff_t width, const Look *looks, ptrdiff_t n, float *scratch) {
    double sum = 0;
    for (ptrdiff_t k; n; looks += k, n -= k) {
        add_up(values, looks, k = same(looks, n), width, scratch);
        sum += squares(scratch, width);
    }
    return sum;
}

typedef struct {
    void (*step_dense)(const Dense *, const Step *, float *, Products *);
    void (*step_rows)(const Rows *, const Look *, ptrdiff_t, float *);
    double (*squares)(const float *, ptrdiff_t);
    double (*row_squares)(const float *, ptrdiff_t, const Look *, ptrdiff_t, float *);
} Path;

#define COMPILE(path, target)                                                                                         \
    target static void step_dense_##path(const Dense *t, const Step *s, float *u, Products *p) { step_dense(t, s, u, p); } \
    target static void step_rows_##path(const Rows *r, const Look *l, ptrdiff_t n, float *u) { step_rows(r, l, n, u); } \
    target static double squares_##path(const float *v, ptrdiff_t n) { return squares(v, n); }                       \
    target static double row_squares_##path(const float *v, ptrdiff_t width, const Look *l, ptrdiff_t n, float *u) {  \
        return row_squares(v, width, l, n, u);                                                                        \
    }                                                                                                                 \
    static const Path path_##path = {step_dense_##path, step_rows_##path, squares_##path, row_squares_##path};

COMPILE(portable, )
#if defined(__x86_64__)
COMPILE(avx2, __attribute__((target("avx2"))))
#endif

static const Path *path = &path_portable;

/* ------------------------------------------------------------ what is handed over */

static int expects(Py_ssize_t count, Py_ssize_t expected) {
    if (count != expected) PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", expected, count);
    return count == expected;
}

static ptrdiff_t values_of(PyObject *tensor, int *failed) {
    if (*failed) return 0;
    PyObject *value = PyObject_CallMethodNoArgs(tensor, numel);
    ptrdiff_t n = value ? PyLong_AsSsize_t(value) : -1;
    Py_XDECREF(value);
    *failed |= n < 0;
    return n;
}

/* 1 for a plain tensor of `n` values of this type, `values` then its address; 0 for another, -1 on an error. */
static int take(PyObject *tensor, PyObject *type, ptrdiff_t n, void *values) {
    const PyObject *kind = (PyObject *)Py_TYPE(tensor);
    int failed = 0;
    if (kind != tensor_type && kind != parameter_type) return 0;
    const int plain = is_plain(tensor, type);
    if (plain != 1) return plain;
    const int right = values_of(tensor, &failed) == n;
    void *address = address_of(tensor, &failed);
    memcpy(values, &address, sizeof address);
    return failed ? -1 : right;
}

/* The same of the item of a list. */
static int take_item(PyObject *list, Py_ssize_t i, ptrdiff_t n, void *values) {
    return take(PyList_GET_ITEM(list, i), float32, n, values);
}

/* Where it may be None: `values` is then NULL. */
static int take_or_none(PyObject *list, Py_ssize_t i, ptrdiff_t n, void *values) {
    if (PyList_GET_ITEM(list, i) != Py_None) return take_item(list, i, n, values);
    memset(values, 0, sizeof(void *));
    return 1;
}

static int are_lists(PyObject *const *lists, int count) {
    for (int i = 0; i < count; i++)
        if (!PyList_Check(lists[i]) || PyList_GET_SIZE(lists[i]) != PyList_GET_SIZE(lists[0])) {
            PyErr_SetString(PyExc_TypeError, "expected lists of one length");
            return 0;
        }
    return 1;
}

static double item(PyObject *list, Py_ssize_t i) { return PyFloat_AsDouble(PyList_GET_ITEM(list, i)); }

static PyObject *told(int result) {
    return result < 0 ? NULL : PyBool_FromLong(result);
}

/* ------------------------------------------------------------ the calls */

/* Tensors into `all`: 1, or 0 if one is not plain, or -1. */
static int dense_of(PyObject *const *lists, Dense *all, Py_ssize_t count, ptrdiff_t *total, ptrdiff_t *largest) {
    for (Py_ssize_t i = 0; i < count; i++) {
        Dense *t = &all[i];
        int failed = 0, right;
        t->n = values_of(PyList_GET_ITEM(lists[0], i), &failed);
        if (failed) return -1;
        if ((right = take_item(lists[0], i, t->n, &t->weights)) != 1) return right;
        if ((right = take_item(lists[1], i, t->n, &t->g)) != 1) return right;
        if ((right = take_item(lists[2], i, t->n, &t->square)) != 1) return right;
        if ((right = take_or_none(lists[3], i, t->n, &t->initial)) != 1) return right;
        if ((right = take_or_none(lists[4], i, t->n, &t->mean)) != 1) return right;
        t->sampled = PyList_GET_ITEM(lists[5], i) == Py_None ? 0 : values_of(PyList_GET_ITEM(lists[5], i), &failed);
        if (failed) return -1;
        if (t->sampled > t->n) return 0;
        if ((right = take_or_none(lists[5], i, t->sampled, &t->previous)) != 1) return right;
        t->unbiased = item(lists[6], i);
        t->mean_factor = item(lists[7], i);
        t->pull = item(lists[8], i);
        *total += t->n;
        if (t->n > *largest) *largest = t->n;
    }
    return PyErr_Occurred() ? -1 : *total <= VALUES_MAX;
}

static void step_all(const Dense *all, Py_ssize_t count, const Step *step, float *scratch, Products *products) {
    for (Py_ssize_t i = 0; i < count; i++) path->step_dense(&all[i], step, scratch, products);
}

/* step(weights, gradients, squares, initials or None, means or None, previous or None, unbiased, mean_factors, pulls,
        decay, gain, rate, limit, eps, smallest, flush, mean_decay, share): lists of one length, then what all of them
   share -> the products, if the step was taken, or None */
static PyObject *call_step(PyObject *module, PyObject *const *args, Py_ssize_t arguments) {
    if (!expects(arguments, 18) || !are_lists(args, 9)) return NULL;
    const Py_ssize_t count = PyList_GET_SIZE(args[0]);
    const Step step = {PyFloat_AsDouble(args[9]),  PyFloat_AsDouble(args[10]), PyFloat_AsDouble(args[11]),
                       PyFloat_AsDouble(args[12]), PyFloat_AsDouble(args[13]), PyFloat_AsDouble(args[14]),
                       PyObject_IsTrue(args[15]),  PyFloat_AsDouble(args[16]), PyFloat_AsDouble(args[17])};
    Products products = {0};
    if (PyErr_Occurred()) return NULL;
    ptrdiff_t total = 0, largest = 0;
    Dense *all = malloc((count ? count : 1) * sizeof *all);
    if (!all) return PyErr_NoMemory();
    int result = dense_of(args, all, count, &total, &largest);
    float *scratch = result == 1 ? malloc((largest ? largest : 1) * sizeof *scratch) : NULL;
    if (result == 1 && !scratch) {
        PyErr_NoMemory();
        result = -1;
    }
    if (result == 1 && total < GIL_VALUES) {
        step_all(all, count, &step, scratch, &products);
    } else if (result == 1) {
        Py_BEGIN_ALLOW_THREADS step_all(all, count, &step, scratch, &products);
        Py_END_ALLOW_THREADS
    }
    free(scratch);
    free(all);
    if (result < 0) return NULL;
    return result ? Py_BuildValue("ddd", products.across, products.own, products.before) : Py_NewRef(Py_None);
}

static int before(const void *one, const void *other) {
    const Look *a = one, *b = other;
    return a->row != b->row ? (a->row > b->row) - (a->row < b->row) : (a->at > b->at) - (a->at < b->at);
}

/* The entries of a sparse gradient by row, those of a row in arrival order. */
typedef struct {
    Look *looks;
    ptrdiff_t n, width;
    const float *values;
    float *scratch; /* two rows */
} Entries;

static void sort(Look *looks, ptrdiff_t n) {
    if (n > FEW_LOOKS) {
        qsort(looks, n, sizeof *looks, before);
        return;
    }
    for (ptrdiff_t i = 1; i < n; i++) {
        const Look look = looks[i];
        ptrdiff_t j = i;
        for (; j && looks[j - 1].row > look.row; j--) looks[j] = looks[j - 1];
        looks[j] = look;
    }
}

static void drop(Entries *e) {
    free(e->looks);
    free(e->scratch);
}

/* 1; or 0 if they are not plain, or -1. Rows below 0 or from `rows` on are an IndexError. */
static int entries_of(PyObject *indices, PyObject *values, ptrdiff_t rows, Entries *e) {
    const int64_t *row;
    int failed = 0, right;
    e->n = values_of(indices, &failed);
    const ptrdiff_t all = values_of(values, &failed);
    if (failed) return -1;
    if (!e->n || all % e->n) return 0;
    e->width = all / e->n;
    if ((right = take(indices, int64, e->n, &row)) != 1 || (right = take(values, float32, all, &e->values)) != 1) return right;
    e->looks = malloc(e->n * sizeof *e->looks);
    e->scratch = malloc((2 * e->width + 1) * sizeof *e->scratch);
    if (!e->looks || !e->scratch) {
        PyErr_NoMemory();
        return -1;
    }
    for (ptrdiff_t i = 0; i < e->n; i++) {
        e->looks[i] = (Look){row[i], i};
        if (row[i] >= 0 && row[i] < rows) continue;
        PyErr_Format(PyExc_IndexError, "row %lld of a table of %zd", (long long)row[i], rows);
        return -1;
    }
    sort(e->looks, e->n);
    return 1;
}

/* step_rows(table, indices, values, square, mass, horizon, decay_max, lr, records, reference, eps, smallest) -> whether
   the step was taken */
static PyObject *call_step_rows(PyObject *module, PyObject *const *args, Py_ssize_t arguments) {
    if (!expects(arguments, 12)) return NULL;
    Rows r = {.horizon = PyFloat_AsDouble(args[5]),  .decay_max = PyFloat_AsDouble(args[6]),
              .lr = PyFloat_AsDouble(args[7]),       .records = PyFloat_AsDouble(args[8]),
              .reference = PyFloat_AsDouble(args[9]), .eps = PyFloat_AsDouble(args[10]),
              .smallest = PyFloat_AsDouble(args[11])};
    int failed = PyErr_Occurred() != NULL;
    const ptrdiff_t rows = values_of(args[4], &failed), all = values_of(args[0], &failed);
    if (failed) return NULL;
    Entries e = {0};
    int result = entries_of(args[1], args[2], rows, &e);
    if (result == 1 && all != rows * e.width) result = 0;
    if (result == 1) result = take(args[0], float32, all, &r.table);
    if (result == 1) result = take(args[3], float32, all, &r.square);
    if (result == 1) result = take(args[4], float32, rows, &r.mass);
    if (result == 1) {
        r.values = e.values;
        r.width = e.width;
        path->step_rows(&r, e.looks, e.n, e.scratch);
    }
    drop(&e);
    return told(result);
}

/* squares(gradients) -> sum of the squares of all their values, or None */
static PyObject *call_squares(PyObject *module, PyObject *list) {
    double sum = 0;
    if (!are_lists(&list, 1)) return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        const float *values;
        int failed = 0;
        const ptrdiff_t n = values_of(PyList_GET_ITEM(list, i), &failed);
        const int right = failed ? -1 : take_item(list, i, n, &values);
        if (right < 0) return NULL;
        if (!right) Py_RETURN_NONE;
        sum += path->squares(values, n);
    }
    return PyFloat_FromDouble(sum);
}

/* row_squares(indices, values, rows) -> the same of a sparse gradient, its entries of one row added up; or None */
static PyObject *call_row_squares(PyObject *module, PyObject *const *args, Py_ssize_t arguments) {
    if (!expects(arguments, 3)) return NULL;
    const ptrdiff_t rows = PyLong_AsSsize_t(args[2]);
    if (rows < 0) return NULL;
    Entries e = {0};
    const int result = entries_of(args[0], args[1], rows, &e);
    const double sum = result == 1 ? path->row_squares(e.values, e.width, e.looks, e.n, e.scratch) : 0;
    drop(&e);
    if (result < 0) return NULL;
    return result ? PyFloat_FromDouble(sum) : Py_NewRef(Py_None);
}

/* introduce(torch.Tensor, torch.nn.Parameter, torch.float32, torch.int64) */
static PyObject *call_introduce(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!expects(count, 4)) return NULL;
    PyObject **names[] = {&tensor_type, &parameter_type, &float32, &int64};
    for (int i = 0; i < 4; i++) Py_XSETREF(*names[i], Py_NewRef(args[i]));
    Py_RETURN_NONE;
}

/* use(name) -> whether this machine has these instructions; if so, they are taken from now on. The best are from the start. */
static PyObject *call_use(PyObject *module, PyObject *name) {
    const char *wanted = PyUnicode_AsUTF8(name);
    if (!wanted) return NULL;
    const Path *found = strcmp(wanted, "portable") == 0 ? &path_portable : NULL;
#if defined(__x86_64__)
    if (strcmp(wanted, "avx2") == 0 && __builtin_cpu_supports("avx2")) found = &path_avx2;
#endif
    if (found) path = found;
    return PyBool_FromLong(found != NULL);
}

#define CALL(name) {#name, (PyCFunction)(void (*)(void))call_##name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    CALL(step),      CALL(step_rows), {"squares", call_squares, METH_O, NULL}, CALL(row_squares),
    CALL(introduce), {"use", call_use, METH_O, NULL}, {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, methods};

PyMODINIT_FUNC PyInit__kernel(void) {
    if (intern_tensor_names() < 0 || !(numel = PyUnicode_InternFromString("numel"))) return NULL;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) path = &path_avx2;
#endif
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "CALLS", CALLS) < 0) Py_CLEAR(module);
    return module;
}
