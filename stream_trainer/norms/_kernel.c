/* Batch Renorm and Adaptive Batch Renorm, one call forward and one backward: what the torch path beside it computes in
   thirty to a hundred small operations. Called by kernel.py alone, which has checked that every tensor is float32, on
   the CPU, contiguous and of the right shape: addresses come as integers and are believed. 0 stands for "none".

   The formulas are those of batch_renorm.py and adaptive_batch_renorm.py; the sweeps over a batch are in _sweeps.h. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_control.h"
#include "_sweeps.h"

#define CALLS 2          /* counts up whenever a signature below changes; kernel.py asks for the one it knows */
#define GIL_VALUES 32768 /* batches from here on let other threads of Python run meanwhile */

typedef struct {
    Shape shape;
    const float *x, *weight, *bias;
    float *mean, *var;       /* (H, C) running moments */
    double *memory;          /* (H) what all past records weigh */
    double mass[HORIZONS_MAX], kept[HORIZONS_MAX]; /* weight of the batch, and what remains of every older weight */
    long long *n_records;
    const float *share;      /* (H, N) of each record in the batch */
    double eps, r_max, d_max;
    Control *control;        /* adaptive: moved if `learning` */
    double log_q, noise, learn_floor;
    int learning;
    float *record;           /* out: (N, 2) */
    float *channel;          /* out: (4, C) for backward */
    float *r_d;              /* out: (2, C) std and mean of the batch in running standard deviations: r, d unlimited */
    float *y;
} Forward;

typedef struct {
    Shape shape;
    const float *dy, *x, *weight, *record, *channel;
    Control *control;        /* adaptive: moved if `learning` */
    double correlation, learn_floor;
    int damps, learning;
    float *dx, *dweight, *dbias;
} Backward;

/* One allocation a call, cut into rows of doubles and floats. */
typedef struct {
    double *rows_d;
    float *rows_f, *work;
} Scratch;

static int scratch_for(Shape s, Scratch *scratch) {
    size_t doubles = 2 * (HORIZONS_MAX + 1) * (size_t)s.c, floats = 4 * (size_t)s.c + work_floats(s);
    scratch->rows_d = PyMem_RawMalloc(doubles * sizeof(double) + floats * sizeof(float));
    if (!scratch->rows_d) return -1;
    memset(scratch->rows_d, 0, doubles * sizeof(double));
    scratch->rows_f = (float *)(scratch->rows_d + doubles);
    scratch->work = scratch->rows_f + 4 * s.c;
    return 0;
}

/* Move running moments by a batch: see merge_moments_ in moments.py. */
SWEEP void merge_running(Forward *f, const Moments *batch, const int horizons) {
    const ptrdiff_t c = f->shape.c;
    for (int h = 0; h < horizons; h++) {
        f->memory[h] = f->memory[h] * f->kept[h] + f->mass[h];
        const double w = f->mass[h] / f->memory[h];
        const double *restrict mean_new = batch->mean + h * c, *restrict var_new = batch->scatter + h * c;
        float *restrict mean = f->mean + h * c, *restrict var = f->var + h * c;
        for (ptrdiff_t i = 0; i < c; i++) {
            double step = mean_new[i] - mean[i], moved = w * step;
            mean[i] = (float)(mean[i] + moved);
            var[i] = (float)(var[i] + w * (var_new[i] - var[i]) + moved * (step - moved));
        }
    }
    *f->n_records += f->shape.n;
}

SWEEP double limit(double value, double low, double high) {
    return value < low ? low : value > high ? high : value; /* a nan stays a nan */
}

SWEEP void adaptive_forward(Forward *f, Scratch scratch) {
    const ptrdiff_t c = f->shape.c;
    Moments batch = {.mean = scratch.rows_d, .scatter = scratch.rows_d + 3 * c};
    measure(f->x, f->shape, f->eps, f->record, f->share, 2, scratch.work, &batch);
    const double *mean_batch = batch.mean + 2 * c, *var_batch = batch.scatter + 2 * c;
    float *scale = scratch.rows_f, *offset = scale + c;
    float *mean_x = f->channel, *centre = mean_x + c, *inverse = centre + c, *gap = inverse + c;
    double power = 0;
    for (ptrdiff_t i = 0; i < c; i++) {
        double apart = (double)f->mean[c + i] - f->mean[i], var = f->var[i];
        var += f->control->share * (f->var[c + i] - var);
        double by_std = 1 / sqrt(var + f->eps), shift = (mean_batch[i] - (f->mean[i] + f->control->share * apart)) * by_std;
        double limited = limit(shift, -SHIFT_MAX, SHIFT_MAX), weight = f->weight ? f->weight[i] : 1;
        power += shift * shift;
        centre[i] = (float)mean_batch[i];
        inverse[i] = (float)by_std;
        mean_x[i] = (float)limited;
        gap[i] = (float)apart;
        f->r_d[i] = (float)(sqrt(var_batch[i] + f->eps) * by_std);
        f->r_d[c + i] = (float)shift;
        scale[i] = (float)(by_std * weight);
        offset[i] = (float)(limited * weight + (f->bias ? f->bias[i] : 0));
    }
    normalise(f->x, f->shape, f->record, centre, scale, offset, f->y);
    if (!f->learning) return;
    merge_running(f, &batch, 2);
    double distance = 0;
    for (ptrdiff_t i = 0; i < c; i++) {
        double apart = (double)f->mean[c + i] - f->mean[i], slow = f->var[i] + f->eps, fast = f->var[c + i] + f->eps;
        double spread = log(fast / slow);
        distance += apart * apart / slow + spread * spread / 2;
    }
    observe(f->control, f->shape.n, (double)*f->n_records, f->log_q, power / c, distance / c + f->noise, f->learn_floor);
}

SWEEP void adaptive_backward(Backward *b, Scratch scratch) {
    const ptrdiff_t c = b->shape.c;
    const float *mean_x = b->channel, *centre = mean_x + c, *inverse = centre + c, *gap = inverse + c;
    Sums sums = {scratch.rows_d, scratch.rows_d + c, scratch.rows_d + 2 * c};
    float *scale = scratch.rows_f, *off = scale + c, *slope = off + c;
    sum_gradient(b->dy, b->x, b->shape, b->record, centre, inverse, scratch.work, sums);
    const double n = b->shape.n, values = n * b->shape.p, s = trust(n, b->shape.p, b->correlation);
    const double damping = b->damps ? damp(b->control, n, b->learning) : 1;
    double floor_gradient = 0;
    for (ptrdiff_t i = 0; i < c; i++) {
        double by_std = inverse[i], x = mean_x[i], sum_g = sums.dy[i], sum_gv = sums.dy_v[i];
        double to_g = by_std * (b->weight ? b->weight[i] : 1);
        if (b->dbias) {
            b->dbias[i] = (float)sum_g;
            b->dweight[i] = (float)(sum_gv + x * sum_g);
        }
        floor_gradient -= sum_g * to_g * gap[i];
        /* With v = xhat - mean(xhat): slope and intercept of g on (1, xhat), shrunk towards mean 0 and variance 1. */
        double covariance = sum_gv + (1 - s) * x * sum_g;
        double variance = sums.v_v[i] / values + (1 - s) * x * x + (1 - s + 1e-6) / s;
        double slope_x = covariance / variance / values;
        scale[i] = (float)(to_g * damping);
        off[i] = (float)(s * sum_g / values + (1 - s) * slope_x * x);
        slope[i] = (float)(slope_x * by_std);
    }
    if (b->learning && b->learn_floor > 0) learn_floor_from(b->control, floor_gradient, n, b->learn_floor);
    if (b->dx) project_gradient(b->dy, b->x, b->shape, b->record, centre, scale, off, slope, b->dx);
}

SWEEP void renorm_forward(Forward *f, Scratch scratch) {
    const ptrdiff_t c = f->shape.c;
    Moments batch = {.mean = scratch.rows_d, .scatter = scratch.rows_d + 3 * c};
    measure(f->x, f->shape, f->eps, NULL, f->share, 1, scratch.work, &batch);
    float *scale = scratch.rows_f, *offset = scale + c;
    float *centre = f->channel, *inverse = centre + c, *r = inverse + c, *d = r + c;
    for (ptrdiff_t i = 0; i < c; i++) {
        double mean = batch.mean[c + i], std = sqrt(batch.scatter[c + i] + f->eps), running = sqrt(f->var[i] + f->eps);
        double ratio = std / running, shift = (mean - f->mean[i]) / running, weight = f->weight ? f->weight[i] : 1;
        double r_limited = limit(ratio, 1 / f->r_max, f->r_max), d_limited = limit(shift, -f->d_max, f->d_max);
        centre[i] = (float)mean;
        inverse[i] = (float)(1 / std);
        r[i] = (float)r_limited;
        d[i] = (float)d_limited;
        f->r_d[i] = (float)ratio;
        f->r_d[c + i] = (float)shift;
        scale[i] = (float)(r_limited / std * weight);
        offset[i] = (float)(d_limited * weight + (f->bias ? f->bias[i] : 0));
    }
    normalise(f->x, f->shape, NULL, centre, scale, offset, f->y);
    if (f->learning) merge_running(f, &batch, 1);
}

SWEEP void renorm_backward(Backward *b, Scratch scratch) {
    const ptrdiff_t c = b->shape.c;
    const float *centre = b->channel, *inverse = centre + c, *r = inverse + c, *d = r + c;
    Sums sums = {scratch.rows_d, scratch.rows_d + c, scratch.rows_d + 2 * c};
    float *scale = scratch.rows_f, *off = scale + c, *slope = off + c;
    sum_gradient(b->dy, b->x, b->shape, NULL, centre, inverse, scratch.work, sums);
    const double values = (double)b->shape.n * b->shape.p;
    for (ptrdiff_t i = 0; i < c; i++) {
        if (b->dbias) {
            b->dbias[i] = (float)sums.dy[i];
            b->dweight[i] = (float)(r[i] * sums.dy_v[i] + d[i] * sums.dy[i]);
        }
        scale[i] = (float)((double)inverse[i] * r[i] * (b->weight ? b->weight[i] : 1));
        off[i] = (float)(sums.dy[i] / values);
        slope[i] = (float)(inverse[i] * sums.dy_v[i] / values);
    }
    if (b->dx) project_gradient(b->dy, b->x, b->shape, NULL, centre, scale, off, slope, b->dx);
}

/* ------------------------------------------------------------ instruction sets */

typedef struct {
    const char *name;
    void (*adaptive_forward)(Forward *, Scratch), (*renorm_forward)(Forward *, Scratch);
    void (*adaptive_backward)(Backward *, Scratch), (*renorm_backward)(Backward *, Scratch);
} Path;

#define COMPILE(path, target)                                                                                     \
    target static void adaptive_forward_##path(Forward *f, Scratch s) { adaptive_forward(f, s); }                 \
    target static void renorm_forward_##path(Forward *f, Scratch s) { renorm_forward(f, s); }                     \
    target static void adaptive_backward_##path(Backward *b, Scratch s) { adaptive_backward(b, s); }              \
    target static void renorm_backward_##path(Backward *b, Scratch s) { renorm_backward(b, s); }                  \
    static const Path path_##path = {#path, adaptive_forward_##path, renorm_forward_##path,                       \
                                     adaptive_backward_##path, renorm_backward_##path};

COMPILE(portable, )
#if defined(__x86_64__)
COMPILE(avx2, __attribute__((target("avx2,fma"))))
#define HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#endif

static const Path *path = &path_portable;

/* ------------------------------------------------------------ Python */

typedef union {
    void *p;
    Py_ssize_t i;
    double d;
} Argument;

/* One letter an argument: p address, i size, d number. */
static int parse(PyObject *const *args, Py_ssize_t count, const char *letters, Argument *out) {
    if (count != (Py_ssize_t)strlen(letters)) {
        PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", (Py_ssize_t)strlen(letters), count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (letters[i] == 'p')
            out[i].p = PyLong_AsVoidPtr(args[i]);
        else if (letters[i] == 'i')
            out[i].i = PyLong_AsSsize_t(args[i]);
        else
            out[i].d = PyFloat_AsDouble(args[i]);
    }
    return PyErr_Occurred() ? -1 : 0;
}

#define RUN(call, shape)                                                                                          \
    do {                                                                                                          \
        Scratch scratch;                                                                                          \
        if (scratch_for(shape, &scratch) < 0) return PyErr_NoMemory();                                            \
        if ((shape).n * (shape).c * (shape).p < GIL_VALUES) {                                                     \
            call;                                                                                                 \
        } else {                                                                                                  \
            Py_BEGIN_ALLOW_THREADS call;                                                                          \
            Py_END_ALLOW_THREADS                                                                                  \
        }                                                                                                         \
        PyMem_RawFree(scratch.rows_d);                                                                            \
    } while (0)

/* What both forward passes are given; each adds its own numbers. */
#define FORWARD "iiippppppppppppiddddd"

static Forward forward_of(const Argument *a) {
    return (Forward){.shape = {a[0].i, a[1].i, a[2].i},
                     .x = a[3].p,
                     .y = a[4].p,
                     .weight = a[5].p,
                     .bias = a[6].p,
                     .mean = a[7].p,
                     .var = a[8].p,
                     .memory = a[9].p,
                     .n_records = a[10].p,
                     .share = a[11].p,
                     .record = a[12].p,
                     .channel = a[13].p,
                     .r_d = a[14].p,
                     .learning = a[15].i != 0,
                     .eps = a[16].d,
                     .mass = {a[17].d, a[18].d},
                     .kept = {a[19].d, a[20].d}};
}

static PyObject *call_adaptive_forward(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Argument a[sizeof FORWARD "pddd"];
    if (parse(args, count, FORWARD "pddd", a) < 0) return NULL;
    Forward f = forward_of(a);
    f.control = a[21].p;
    f.log_q = a[22].d;
    f.noise = a[23].d;
    f.learn_floor = a[24].d;
    RUN(path->adaptive_forward(&f, scratch), f.shape);
    return PyFloat_FromDouble(f.control->correlation); /* as backward will need it, whatever comes between */
}

static PyObject *call_renorm_forward(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Argument a[sizeof FORWARD "dd"];
    if (parse(args, count, FORWARD "dd", a) < 0) return NULL;
    Forward f = forward_of(a);
    f.r_max = a[21].d;
    f.d_max = a[22].d;
    RUN(path->renorm_forward(&f, scratch), f.shape);
    Py_RETURN_NONE;
}

#define BACKWARD "iiipppppppp"

static Backward backward_of(const Argument *a) {
    return (Backward){.shape = {a[0].i, a[1].i, a[2].i},
                      .dy = a[3].p,
                      .x = a[4].p,
                      .weight = a[5].p,
                      .record = a[6].p,
                      .channel = a[7].p,
                      .dx = a[8].p,
                      .dweight = a[9].p,
                      .dbias = a[10].p};
}

static PyObject *call_adaptive_backward(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Argument a[sizeof BACKWARD "pddii"];
    if (parse(args, count, BACKWARD "pddii", a) < 0) return NULL;
    Backward b = backward_of(a);
    b.control = a[11].p;
    b.correlation = a[12].d;
    b.learn_floor = a[13].d;
    b.damps = a[14].i != 0;
    b.learning = a[15].i != 0;
    RUN(path->adaptive_backward(&b, scratch), b.shape);
    Py_RETURN_NONE;
}

static PyObject *call_renorm_backward(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Argument a[sizeof BACKWARD];
    if (parse(args, count, BACKWARD, a) < 0) return NULL;
    Backward b = backward_of(a);
    RUN(path->renorm_backward(&b, scratch), b.shape);
    Py_RETURN_NONE;
}

/* use(name) -> whether this machine can run the path; if so, it is the one from now on. */
static PyObject *call_use(PyObject *module, PyObject *name) {
    const char *wanted = PyUnicode_AsUTF8(name);
    if (!wanted) return NULL;
    if (strcmp(wanted, "portable") == 0) {
        path = &path_portable;
        Py_RETURN_TRUE;
    }
#if defined(__x86_64__)
    if (strcmp(wanted, "avx2") == 0 && HAS_AVX2) {
        path = &path_avx2;
        Py_RETURN_TRUE;
    }
#endif
    Py_RETURN_FALSE;
}

static PyMethodDef methods[] = {
    {"adaptive_forward", (PyCFunction)(void (*)(void))call_adaptive_forward, METH_FASTCALL, NULL},
    {"adaptive_backward", (PyCFunction)(void (*)(void))call_adaptive_backward, METH_FASTCALL, NULL},
    {"renorm_forward", (PyCFunction)(void (*)(void))call_renorm_forward, METH_FASTCALL, NULL},
    {"renorm_backward", (PyCFunction)(void (*)(void))call_renorm_backward, METH_FASTCALL, NULL},
    {"use", call_use, METH_O, NULL},
    {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, methods};

PyMODINIT_FUNC PyInit__kernel(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "CALLS", CALLS) < 0) Py_CLEAR(module);
    return module;
}
