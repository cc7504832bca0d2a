/* Batch Renorm and Adaptive Batch Renorm, one call forward and one backward: what the torch path beside it computes in
   thirty to a hundred small operations. The passes are in _passes.h; here they are chosen by instruction set and given
   to Python. Called by fused.py alone, after kernel.py has asked `takes`: the tensors are then float32, on the CPU,
   contiguous and of the right shape, and their addresses are believed. */

#include "_arguments.h"
#include "_passes.h"
#include "_threads.h"

#define CALLS 8          /* counts up whenever a signature or a formula changes; kernel.py asks for the one it knows */
#define GIL_VALUES 32768 /* batches from here on let other threads of Python run meanwhile */
#define THREAD_VALUES 65536 /* and from here on are shared out: below, threads cost more than they bring */

/* ------------------------------------------------------------ instruction sets */

typedef struct {
    Forward *forward; /* of one of the two, the other is NULL */
    Backward *backward;
    Scratch scratch;
} Batch;

typedef struct {
    const char *name;
    void (*adaptive_forward)(void *, Team), (*renorm_forward)(void *, Team);
    void (*adaptive_backward)(void *, Team), (*renorm_backward)(void *, Team);
    void (*recur)(Shape, const float *, const float *, const float *, float *);
} Path;

#define COMPILE_PASS(pass, path, target, direction)                                                               \
    target static void pass##_##path(void *batch, Team team) {                                                    \
        pass(((Batch *)batch)->direction, &((Batch *)batch)->scratch, team);                                      \
    }

#define COMPILE(path, target)                                                                                     \
    COMPILE_PASS(adaptive_forward, path, target, forward)                                                         \
    COMPILE_PASS(renorm_forward, path, target, forward)                                                           \
    COMPILE_PASS(adaptive_backward, path, target, backward)                                                       \
    COMPILE_PASS(renorm_backward, path, target, backward)                                                         \
    target static void recur_##path(Shape s, const float *start, const float *added, const float *kept,           \
                                    float *states) {                                                              \
        recur(s, start, added, kept, states);                                                                     \
    }                                                                                                             \
    static const Path path_##path = {#path,                                                                       \
                                     adaptive_forward_##path,                                                     \
                                     renorm_forward_##path,                                                       \
                                     adaptive_backward_##path,                                                    \
                                     renorm_backward_##path,                                                      \
                                     recur_##path};

COMPILE(portable, )
#if defined(__x86_64__)
COMPILE(avx2, __attribute__((target("avx2,fma"))))
#define HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#endif

static const Path *path = &path_portable;

/* ------------------------------------------------------------ the calls */

/* torch's, by `introduce`. */
static PyObject *tensor_type, *float32, *increment_version, *get_num_threads;
static int has_openmp;

static int expects(Py_ssize_t count, Py_ssize_t expected) {
    if (count != expected) PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", expected, count);
    return count == expected;
}

/* How many threads torch would take for this batch, where so many find work; -1 on an error. */
static long threads_for(Shape s) {
    if (s.n * s.c * s.p < THREAD_VALUES || !has_openmp) return 1;
    PyObject *threads = PyObject_CallNoArgs(get_num_threads);
    long count = threads ? PyLong_AsLong(threads) : -1;
    Py_XDECREF(threads);
    return s.p == 1 && count > segments_in(s) ? segments_in(s) : count;
}

/* Do a pass over a batch. Returns -1 with an error set, or 0. */
static int run(void (*pass)(void *, Team), Forward *forward, Backward *backward) {
    const Shape shape = forward ? forward->shape : backward->shape;
    const long threads = threads_for(shape);
    Batch batch = {.forward = forward, .backward = backward};
    if (threads < 1) return -1;
    if (scratch_for(shape, threads, &batch.scratch) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    if (shape.n * shape.c * shape.p < GIL_VALUES) {
        share_out(pass, &batch, 1);
    } else {
        Py_BEGIN_ALLOW_THREADS share_out(pass, &batch, threads);
        Py_END_ALLOW_THREADS
    }
    free(batch.scratch.rows_d);
    return 0;
}

/* The buffers of the moments, which autograd is told of if they are about to move. */
static void moments(Arguments *a, Forward *f) {
    if (a->failed) return;
    PyObject *buffers = *a->next++, *mean_tensor = PyDict_GetItemWithError(buffers, mean);
    PyObject *var_tensor = PyDict_GetItemWithError(buffers, var);
    f->mean = address_of(mean_tensor, &a->failed);
    f->var = address_of(var_tensor, &a->failed);
    f->memory = address_of(PyDict_GetItemWithError(buffers, weight), &a->failed);
    f->n_records = address_of(PyDict_GetItemWithError(buffers, n_records), &a->failed);
    if (a->failed || !f->learning) return;
    PyObject *moved = PyTuple_Pack(2, mean_tensor, var_tensor);
    PyObject *done = moved ? PyObject_CallOneArg(increment_version, moved) : NULL;
    a->failed |= !done;
    Py_XDECREF(done);
    Py_XDECREF(moved);
}

/* What both forward passes are given first: 11 arguments. */
#define FORWARD 11

static Forward forward_of(Arguments *a) {
    Forward f = {.shape = shape(a)};
    f.x = address(a);
    f.y = address(a);
    f.weight = address(a);
    f.bias = address(a);
    f.channel = address(a);
    f.share = address(a);
    per_horizon(a, f.mass);
    per_horizon(a, f.kept);
    f.eps = number(a);
    f.learning = truth(a);
    return f;
}

/* adaptive_forward(..., buffers, r_d, per_record, control, log_q, noise, learn_floor) -> (correlation, finite) */
static PyObject *call_adaptive_forward(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!expects(count, FORWARD + 7)) return NULL;
    Arguments a = {args, 0};
    Forward f = forward_of(&a);
    moments(&a, &f);
    f.r_d = address(&a);
    f.record = truth(&a) ? f.channel + 4 * f.shape.c : NULL;
    f.control = address(&a);
    f.log_q = number(&a);
    f.noise = number(&a);
    f.learn_floor = number(&a);
    if (a.failed) return NULL;
    if (run(path->adaptive_forward, &f, NULL) < 0) return NULL;
    /* The correlation as backward will need it, whatever comes between. */
    return Py_BuildValue("dO", f.control->correlation, f.finite ? Py_True : Py_False);
}

/* renorm_forward(..., buffers, r_max, d_max, plain, r_full, d_full) -> (r_max, d_max, finite): the limits of this batch */
static PyObject *call_renorm_forward(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!expects(count, FORWARD + 6)) return NULL;
    Arguments a = {args, 0};
    Forward f = forward_of(&a);
    moments(&a, &f);
    f.r_max = number(&a);
    f.d_max = number(&a);
    double plain = number(&a), r_full = number(&a), d_full = number(&a);
    if (a.failed) return NULL;
    limits_after((double)*f.n_records, plain, r_full, d_full, &f.r_max, &f.d_max);
    if (run(path->renorm_forward, &f, NULL) < 0) return NULL;
    return Py_BuildValue("ddO", f.r_max, f.d_max, f.finite ? Py_True : Py_False);
}

/* What both backward passes are given first: 8 arguments. */
#define BACKWARD 8

static Backward backward_of(Arguments *a) {
    Backward b = {.shape = shape(a)};
    b.dy = address(a);
    b.x = address(a);
    b.weight = address(a);
    b.channel = address(a);
    b.dx = address(a);
    b.dweight = address(a);
    b.dbias = address(a);
    return b;
}

/* adaptive_backward(..., per_record, control, correlation, learn_floor, damps, learning) */
static PyObject *call_adaptive_backward(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!expects(count, BACKWARD + 6)) return NULL;
    Arguments a = {args, 0};
    Backward b = backward_of(&a);
    b.record = truth(&a) ? b.channel + 4 * b.shape.c : NULL;
    b.control = address(&a);
    b.correlation = number(&a);
    b.learn_floor = number(&a);
    b.damps = truth(&a);
    b.learning = truth(&a);
    if (a.failed) return NULL;
    if (run(path->adaptive_backward, NULL, &b) < 0) return NULL;
    Py_RETURN_NONE;
}

/* renorm_backward(..., r_max, d_max) */
static PyObject *call_renorm_backward(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!expects(count, BACKWARD + 2)) return NULL;
    Arguments a = {args, 0};
    Backward b = backward_of(&a);
    b.r_max = number(&a);
    b.d_max = number(&a);
    if (a.failed) return NULL;
    if (run(path->renorm_backward, NULL, &b) < 0) return NULL;
    Py_RETURN_NONE;
}

/* adaptive_drift(shape of r_d, r_d, buffers, eps) -> (distance, clipped, shift, scale), see drift_of */
static PyObject *call_adaptive_drift(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!expects(count, 4)) return NULL;
    Arguments a = {args, 0};
    const Shape s = shape(&a);
    const float *r_d = address(&a);
    PyObject *buffers = *a.next++;
    const float *means = address_of(PyDict_GetItemWithError(buffers, mean), &a.failed);
    const float *vars = address_of(PyDict_GetItemWithError(buffers, var), &a.failed);
    const double eps = number(&a);
    if (a.failed) return NULL;
    const Drift drift = drift_of(means, vars, r_d, r_d + s.c, s.c, eps);
    return Py_BuildValue("dddd", drift.distance, drift.clipped, drift.shift, drift.scale);
}

/* recur(shape, start, added, kept, states (N + 1, C)): s_t = kept_t s_{t-1} + added_t, the start first */
static PyObject *call_recur(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!expects(count, 5)) return NULL;
    Arguments a = {args, 0};
    const Shape s = shape(&a);
    const float *start = address(&a), *added = address(&a), *kept = address(&a);
    float *states = address(&a);
    if (a.failed) return NULL;
    path->recur(s, start, added, kept, states);
    Py_RETURN_NONE;
}

/* takes(x, weight, bias, buffers of the moments) -> whether the passes can work on these */
static PyObject *call_takes(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!expects(count, 4)) return NULL;
    if ((PyObject *)Py_TYPE(args[0]) != tensor_type) Py_RETURN_FALSE;
    int hidden = 0; /* inside vmap or jvp a tensor has no address, and says so by an error */
    address_of(args[0], &hidden);
    if (hidden) {
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    PyObject *all[] = {args[0], args[1], args[2], PyDict_GetItemWithError(args[3], mean),
                       PyDict_GetItemWithError(args[3], var)};
    for (int i = 0; i < 5; i++) {
        int fit = is_plain(all[i], float32);
        if (fit < 0) return NULL;
        if (fit == 0) Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}

/* introduce(torch.Tensor, torch.float32, increment_version, torch.get_num_threads) -> whether torch's threads were found */
static PyObject *call_introduce(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!expects(count, 4)) return NULL;
    PyObject **names[] = {&tensor_type, &float32, &increment_version, &get_num_threads};
    for (int i = 0; i < 4; i++) Py_XSETREF(*names[i], Py_NewRef(args[i]));
    has_openmp = find_openmp();
    return PyBool_FromLong(has_openmp);
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

#define CALL(name) {#name, (PyCFunction)(void (*)(void))call_##name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    CALL(adaptive_forward), CALL(adaptive_backward), CALL(renorm_forward),         CALL(renorm_backward),
    CALL(adaptive_drift),   CALL(recur),             CALL(takes),             CALL(introduce),                 {"use", call_use, METH_O, NULL},
    {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, methods};

PyMODINIT_FUNC PyInit__kernel(void) {
    if (intern_names() < 0) return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "CALLS", CALLS) < 0) Py_CLEAR(module);
    return module;
}
