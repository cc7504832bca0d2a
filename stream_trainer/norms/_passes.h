/* The four passes: Batch Renorm and Adaptive Batch Renorm, forward and backward. The formulas are those of batch_renorm.py
   and adaptive_batch_renorm.py; the sweeps over a batch are in _sweeps.h. */

#ifndef STREAM_TRAINER_PASSES_H
#define STREAM_TRAINER_PASSES_H

#include <stdlib.h>

#include "_control.h"
#include "_sweeps.h"

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
    float *channel;          /* out: (4, C) for backward; of batch_renorm the first two are r_d */
    float *r_d;              /* out: (2, C) std and mean of the batch in running standard deviations: r, d unlimited */
    float *y;
    int finite;              /* out: whether the moments of the batch are numbers; if not, nothing was moved */
} Forward;

typedef struct {
    Shape shape;
    const float *dy, *x, *weight, *record, *channel;
    double r_max, d_max;
    Control *control;        /* adaptive: moved if `learning` */
    double correlation, learn_floor;
    int damps, learning;
    float *dx, *dweight, *dbias;
} Backward;

/* Limits of Batch Renorm after n_records: as RenormPreset.limits in batch_renorm.py. */
static void limits_after(double n_records, double plain, double r_full, double d_full, double *r_max, double *d_max) {
    if (n_records < plain || n_records == 0) {
        *r_max = 1;
        *d_max = 0;
        return;
    }
    double done = n_records - plain, r = done >= r_full - plain ? 1 : done / (r_full - plain);
    double d = done >= d_full - plain ? 1 : done / (d_full - plain);
    *r_max = 1 + (*r_max - 1) * r;
    *d_max *= d;
}

/* One allocation a call, cut into rows of doubles, those of each segment, and of floats. */
typedef struct {
    double *rows_d, weights[SEGMENTS_MAX][HORIZONS_MAX + 1];
    float *rows_f, *work;
} Scratch;

static int scratch_for(Shape s, long threads, Scratch *scratch) {
    size_t row = MOMENT_ROWS * (size_t)s.c, doubles = segments_in(s) * row;
    size_t floats = 4 * (size_t)s.c + threads * work_floats(s);
    scratch->rows_d = malloc(doubles * sizeof(double) + floats * sizeof(float));
    if (!scratch->rows_d) return -1;
    if (s.p > 1) memset(scratch->rows_d, 0, row * sizeof(double)); /* of a dense batch each segment clears its own */
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

/* What a channel is normalised by, from the moments before the batch. Returns the power of the batch's mean over channels;
   sets `finite`. */
SWEEP double adaptive_coefficients(Forward *f, const Moments *batch, float *restrict scale, float *restrict offset) {
    const ptrdiff_t c = f->shape.c;
    const double *mean_batch = batch->mean + 2 * c, *var_batch = batch->scatter + 2 * c;
    float *mean_x = f->channel, *centre = mean_x + c, *inverse = centre + c, *gap = inverse + c;
    double power = 0, spread = 0;
    for (ptrdiff_t i = 0; i < c; i++) {
        double apart = (double)f->mean[c + i] - f->mean[i], var = f->var[i];
        var += f->control->share * (f->var[c + i] - var);
        double by_std = 1 / sqrt(var + f->eps), shift = (mean_batch[i] - (f->mean[i] + f->control->share * apart)) * by_std;
        double limited = limit(shift, -SHIFT_MAX, SHIFT_MAX), weight = f->weight ? f->weight[i] : 1;
        power += shift * shift;
        spread += var_batch[i];
        centre[i] = (float)mean_batch[i];
        inverse[i] = (float)by_std;
        mean_x[i] = (float)limited;
        gap[i] = (float)apart;
        f->r_d[i] = (float)(sqrt(var_batch[i] + f->eps) * by_std);
        f->r_d[c + i] = (float)shift;
        scale[i] = (float)(by_std * weight);
        offset[i] = (float)(limited * weight + (f->bias ? f->bias[i] : 0));
    }
    f->finite = isfinite(spread) != 0;
    return power / c;
}

/* How far the horizons are apart, mean over channels, noise included. */
SWEEP double distance_of(const Forward *f) {
    const ptrdiff_t c = f->shape.c;
    double distance = 0;
    for (ptrdiff_t i = 0; i < c; i++) {
        double apart = (double)f->mean[c + i] - f->mean[i], slow = f->var[i] + f->eps, fast = f->var[c + i] + f->eps;
        double spread = log(fast / slow);
        distance += apart * apart / slow + spread * spread / 2;
    }
    return distance / c + f->noise;
}

/* The first thread does what is to be done once for each channel: sums over channels have one order. */
SWEEP void adaptive_forward(Forward *f, Scratch *scratch, Team team) {
    const ptrdiff_t c = f->shape.c;
    Moments batch;
    float *centre = f->channel + c, *scale = scratch->rows_f, *offset = scale + c;
    double power = 0;
    measure(f->x, f->shape, f->eps, f->record, f->share, 2, scratch->work, scratch->rows_d, scratch->weights, &batch, team);
    meet(team);
    if (team.rank == 0) power = adaptive_coefficients(f, &batch, scale, offset);
    meet(team);
    normalise(f->x, f->shape, f->record, centre, scale, offset, f->y, team);
    if (team.rank != 0 || !f->learning || !f->finite) return;
    merge_running(f, &batch, 2);
    observe(f->control, f->shape.n, (double)*f->n_records, f->log_q, power, distance_of(f), f->learn_floor);
}

/* What a gradient is projected by; also the gradients of weight and bias, and the steps of the control. */
SWEEP void adaptive_projection(Backward *b, Sums sums, float *restrict scale, float *restrict off, float *restrict slope) {
    const ptrdiff_t c = b->shape.c;
    const float *mean_x = b->channel, *inverse = mean_x + 2 * c, *gap = inverse + c;
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
}

SWEEP void adaptive_backward(Backward *b, Scratch *scratch, Team team) {
    const ptrdiff_t c = b->shape.c;
    const float *centre = b->channel + c, *inverse = centre + c;
    float *scale = scratch->rows_f, *off = scale + c, *slope = off + c;
    const Sums sums = sum_gradient(b->dy, b->x, b->shape, b->record, centre, inverse, scratch->work, scratch->rows_d, team);
    meet(team);
    if (team.rank == 0) adaptive_projection(b, sums, scale, off, slope);
    meet(team);
    if (b->dx) project_gradient(b->dy, b->x, b->shape, b->record, centre, scale, off, slope, b->dx, team);
}

SWEEP void renorm_coefficients(Forward *f, const Moments *batch, float *restrict scale, float *restrict offset) {
    const ptrdiff_t c = f->shape.c;
    float *r = f->channel, *d = r + c, *centre = d + c, *inverse = centre + c;
    double spread = 0;
    for (ptrdiff_t i = 0; i < c; i++) {
        double mean = batch->mean[c + i], std = sqrt(batch->scatter[c + i] + f->eps), running = sqrt(f->var[i] + f->eps);
        double ratio = std / running, shift = (mean - f->mean[i]) / running, weight = f->weight ? f->weight[i] : 1;
        double r_limited = limit(ratio, 1 / f->r_max, f->r_max), d_limited = limit(shift, -f->d_max, f->d_max);
        centre[i] = (float)mean;
        inverse[i] = (float)(1 / std);
        r[i] = (float)ratio;
        d[i] = (float)shift;
        spread += batch->scatter[c + i];
        scale[i] = (float)(r_limited / std * weight);
        offset[i] = (float)(d_limited * weight + (f->bias ? f->bias[i] : 0));
    }
    f->finite = isfinite(spread) != 0;
}

SWEEP void renorm_forward(Forward *f, Scratch *scratch, Team team) {
    const ptrdiff_t c = f->shape.c;
    Moments batch;
    float *centre = f->channel + 2 * c, *scale = scratch->rows_f, *offset = scale + c;
    measure(f->x, f->shape, f->eps, NULL, f->share, 1, scratch->work, scratch->rows_d, scratch->weights, &batch, team);
    meet(team);
    if (team.rank == 0) renorm_coefficients(f, &batch, scale, offset);
    meet(team);
    normalise(f->x, f->shape, NULL, centre, scale, offset, f->y, team);
    if (team.rank == 0 && f->learning && f->finite) merge_running(f, &batch, 1);
}

SWEEP void renorm_projection(Backward *b, Sums sums, float *restrict scale, float *restrict off, float *restrict slope) {
    const ptrdiff_t c = b->shape.c;
    const float *r = b->channel, *d = r + c, *inverse = d + 2 * c;
    const float r_high = (float)b->r_max, r_low = (float)(1 / b->r_max), d_high = (float)b->d_max;
    const double values = (double)b->shape.n * b->shape.p;
    for (ptrdiff_t i = 0; i < c; i++) {
        const float ratio = (float)limit(r[i], r_low, r_high), shift = (float)limit(d[i], -d_high, d_high);
        if (b->dbias) {
            b->dbias[i] = (float)sums.dy[i];
            b->dweight[i] = (float)(ratio * sums.dy_v[i] + shift * sums.dy[i]);
        }
        scale[i] = (float)((double)inverse[i] * ratio * (b->weight ? b->weight[i] : 1));
        off[i] = (float)(sums.dy[i] / values);
        slope[i] = (float)(inverse[i] * sums.dy_v[i] / values);
    }
}

SWEEP void renorm_backward(Backward *b, Scratch *scratch, Team team) {
    const ptrdiff_t c = b->shape.c;
    const float *centre = b->channel + 2 * c, *inverse = centre + c;
    float *scale = scratch->rows_f, *off = scale + c, *slope = off + c;
    const Sums sums = sum_gradient(b->dy, b->x, b->shape, NULL, centre, inverse, scratch->work, scratch->rows_d, team);
    meet(team);
    if (team.rank == 0) renorm_projection(b, sums, scale, off, slope);
    meet(team);
    if (b->dx) project_gradient(b->dy, b->x, b->shape, NULL, centre, scale, off, slope, b->dx, team);
}

/* s_t = kept_t s_{t-1} + added_t over the records: states (N + 1, C), the start first. See online.py. */
SWEEP void recur(Shape s, const float *start, const float *added, const float *kept, float *states) {
    memcpy(states, start, sizeof(float) * s.c);
    for (ptrdiff_t t = 0; t < s.n; t++) {
        const float *restrict before = states + t * s.c, *restrict kept_t = kept + t * s.c, *restrict new = added + t * s.c;
        float *restrict after = states + (t + 1) * s.c;
        for (ptrdiff_t i = 0; i < s.c; i++) after[i] = new[i] + before[i] * kept_t[i];
    }
}

#endif
