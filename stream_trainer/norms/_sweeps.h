/* The four sweeps over a batch that renormalisation is made of. Pure C, compiled once for each instruction set.

   A batch is n records of c channels of p positions, float32, contiguous. A dense batch has p = 1, and there the channel
   changes with each value; else it is one and the same for a run of p values. Statistics are sums in float32 over at
   most BLOCK records or CHUNK values, about a value from their middle, merged in double: no cut of the stream shows.

   Names: share = weight of a record in arrival order; u = x after the normalisation of its record, or x itself;
   record = (mean, 1/std) of each record, or NULL where records are not normalised. */

#ifndef STREAM_TRAINER_SWEEPS_H
#define STREAM_TRAINER_SWEEPS_H

#include <math.h>
#include <stddef.h>
#include <string.h>

#define SWEEP static inline __attribute__((always_inline))
#define BLOCK 16   /* records: 16 KiB of 256 channels, they stay in the first cache */
#define CHUNK 1024 /* values that may be added up in float32 */
#define HORIZONS_MAX 2

typedef struct {
    ptrdiff_t n, c, p;
} Shape;

/* Decay-weighted moments of a batch, one row of channels for each horizon; the last counts every record alike. */
typedef struct {
    double weight[HORIZONS_MAX + 1];
    double *mean, *scatter; /* (rows, c); scatter ends as variance */
} Moments;

/* What a forward or backward pass needs for itself while it runs: `work` takes 2 BLOCK + 2 rows + 1 rows of channels. */
static size_t work_floats(Shape s) { return (size_t)(2 * BLOCK + 2 * (HORIZONS_MAX + 1) + 1) * s.c; }

/* Four sums side by side: each addition need not wait for the one before it. */
SWEEP float sum_of(const float *restrict x, ptrdiff_t count) {
    const ptrdiff_t part = count / 4;
    const float *restrict x_1 = x + part, *restrict x_2 = x_1 + part, *restrict x_3 = x_2 + part;
    float sum = 0, sum_1 = 0, sum_2 = 0, sum_3 = 0;
#pragma omp simd reduction(+ : sum, sum_1, sum_2, sum_3)
    for (ptrdiff_t i = 0; i < part; i++) {
        sum += x[i];
        sum_1 += x_1[i];
        sum_2 += x_2[i];
        sum_3 += x_3[i];
    }
    for (ptrdiff_t i = 4 * part; i < count; i++) sum += x[i];
    return (sum + sum_1) + (sum_2 + sum_3);
}

SWEEP float mean_of(const float *restrict x, ptrdiff_t count) {
    double total = 0;
    for (ptrdiff_t from = 0; from < count; from += CHUNK)
        total += sum_of(x + from, from + CHUNK < count ? CHUNK : count - from);
    return (float)(total / count);
}

/* Biased variance; the mean is known to float32 only, and what it is off by is taken out again. */
SWEEP double variance_about(const float *restrict x, ptrdiff_t count, float mean) {
    double off = 0, squares = 0;
    for (ptrdiff_t from = 0; from < count; from += CHUNK) {
        const ptrdiff_t here = from + CHUNK < count ? CHUNK : count - from, part = here / 2;
        const float *restrict a = x + from, *restrict b = a + part;
        float sum = 0, sum2 = 0, sum_b = 0, sum2_b = 0;
#pragma omp simd reduction(+ : sum, sum2, sum_b, sum2_b)
        for (ptrdiff_t i = 0; i < part; i++) {
            float d = a[i] - mean, d_b = b[i] - mean;
            sum += d;
            sum2 += d * d;
            sum_b += d_b;
            sum2_b += d_b * d_b;
        }
        if (here % 2) {
            float d = a[here - 1] - mean;
            sum += d;
            sum2 += d * d;
        }
        off += sum + sum_b;
        squares += sum2 + sum2_b;
    }
    return (squares - off * off / count) / count;
}

SWEEP void set_record(float *record, double mean, double var, double eps) {
    record[0] = (float)mean;
    record[1] = (float)(1 / sqrt(var + eps));
}

/* u of one dense record. */
SWEEP void normalise_record(const float *restrict x, ptrdiff_t c, double eps, float *restrict record, float *restrict u) {
    float mean = mean_of(x, c);
    set_record(record, mean, variance_about(x, c, mean), eps);
    float inverse = record[1];
    for (ptrdiff_t i = 0; i < c; i++) u[i] = (x[i] - mean) * inverse;
}

/* Mean and variance of u over the positions of each channel of one record. */
SWEEP void reduce_record(const float *restrict x, Shape s, double eps, float *restrict record, float *restrict mean,
                         float *restrict var) {
    for (ptrdiff_t c = 0; c < s.c; c++) {
        mean[c] = mean_of(x + c * s.p, s.p);
        var[c] = (float)variance_about(x + c * s.p, s.p, mean[c]);
    }
    if (!record) return;
    float centre = mean_of(mean, s.c);
    double within = mean_of(var, s.c), between = variance_about(mean, s.c, centre);
    set_record(record, centre, within + between, eps);
    float inverse = record[1];
    for (ptrdiff_t c = 0; c < s.c; c++) {
        mean[c] = (mean[c] - centre) * inverse;
        var[c] *= inverse * inverse;
    }
}

/* Add one record to the weighted sums of d = u - centre and of d^2 (+ var_u): two rows of sums for each horizon, and two
   that count every record alike. */
SWEEP void add_record(const float *restrict u, const float *restrict var_u, const float *restrict centre, ptrdiff_t c,
                      const float *share, const int horizons, float *restrict sum_1,
                      float *restrict squares_1, float *restrict sum_2, float *restrict squares_2,
                      float *restrict sum, float *restrict squares) {
    const float share_1 = share[0], share_2 = share[1];
    for (ptrdiff_t i = 0; i < c; i++) {
        float d = u[i] - centre[i], d2 = d * d;
        if (var_u) d2 += var_u[i];
        sum_1[i] += share_1 * d;
        squares_1[i] += share_1 * d2;
        if (horizons == 2) {
            sum_2[i] += share_2 * d;
            squares_2[i] += share_2 * d2;
        }
        sum[i] += d;
        squares[i] += d2;
    }
}

/* Four records at once: each sum is read and written once for all. share: (4, HORIZONS_MAX). */
SWEEP void add_records(const float *restrict u, const float *restrict var_u, const float *restrict centre, ptrdiff_t c,
                       const float *share, const int horizons, float *restrict sum_1,
                       float *restrict squares_1, float *restrict sum_2, float *restrict squares_2,
                       float *restrict sum, float *restrict squares) {
    const float a_1 = share[0], a_2 = share[2], a_3 = share[4], a_4 = share[6];
    const float b_1 = share[1], b_2 = share[3], b_3 = share[5], b_4 = share[7];
    for (ptrdiff_t i = 0; i < c; i++) {
        const float middle = centre[i];
        float d_1 = u[i] - middle, d_2 = u[c + i] - middle, d_3 = u[2 * c + i] - middle, d_4 = u[3 * c + i] - middle;
        float s_1 = d_1 * d_1, s_2 = d_2 * d_2, s_3 = d_3 * d_3, s_4 = d_4 * d_4;
        if (var_u) {
            s_1 += var_u[i];
            s_2 += var_u[c + i];
            s_3 += var_u[2 * c + i];
            s_4 += var_u[3 * c + i];
        }
        sum_1[i] += (a_1 * d_1 + a_2 * d_2) + (a_3 * d_3 + a_4 * d_4);
        squares_1[i] += (a_1 * s_1 + a_2 * s_2) + (a_3 * s_3 + a_4 * s_4);
        if (horizons == 2) {
            sum_2[i] += (b_1 * d_1 + b_2 * d_2) + (b_3 * d_3 + b_4 * d_4);
            squares_2[i] += (b_1 * s_1 + b_2 * s_2) + (b_3 * s_3 + b_4 * s_4);
        }
        sum[i] += (d_1 + d_2) + (d_3 + d_4);
        squares[i] += (s_1 + s_2) + (s_3 + s_4);
    }
}

/* Take up to BLOCK records into the moments. share: of the first of them, a row of n for each horizon. */
SWEEP void merge_block(const float *restrict u, const float *restrict var_u, ptrdiff_t records, Shape s,
                       const float *restrict share, const int horizons, float *restrict work, Moments *moments) {
    const ptrdiff_t c = s.c;
    float *restrict centre = work, *restrict sums = work + c, share_of[BLOCK][HORIZONS_MAX];
    double weight[HORIZONS_MAX + 1] = {[1] = 0};
    for (ptrdiff_t r = 0; r < records; r++)
        for (int h = 0; h < horizons; h++) {
            float of_record = share[h * s.n + r];
            /* arithmetic with denormals is a hundred times slower */
            weight[h] += share_of[r][h] = of_record < 1e-30f ? 0 : of_record;
        }
    weight[horizons] = (double)records;
    memset(work, 0, sizeof(float) * c * (1 + 2 * (horizons + 1)));
    /* From the first record, not from 0: a constant channel is then constant to the last bit. */
    for (ptrdiff_t r = 1; r < records; r++)
        for (ptrdiff_t i = 0; i < c; i++) centre[i] += u[r * c + i] - u[i];
    for (ptrdiff_t i = 0; i < c; i++) centre[i] = u[i] + centre[i] * (1.0f / records);

    float *alike = sums + 2 * horizons * c;
    for (ptrdiff_t r = 0, rows; r < records; r += rows) {
        rows = r + 4 <= records ? 4 : 1;
        const float *u_r = u + r * c, *var_r = var_u ? var_u + r * c : NULL, *share_r = share_of[r];
#define ADD(records, var) \
    add_##records(u_r, var, centre, c, share_r, horizons, sums, sums + c, sums + 2 * c, sums + 3 * c, alike, alike + c)
        if (rows == 4 && var_u)
            ADD(records, var_r);
        else if (rows == 4)
            ADD(records, NULL);
        else if (var_u)
            ADD(record, var_r);
        else
            ADD(record, NULL);
#undef ADD
    }
    for (int h = 0; h <= horizons; h++) {
        if (weight[h] == 0) continue; /* forgotten within the batch */
        const float *restrict sum = sums + 2 * h * c, *restrict sum2 = sum + c;
        double *restrict mean = moments->mean + h * c, *restrict scatter = moments->scatter + h * c;
        double before = moments->weight[h], part = weight[h] / (before + weight[h]), inverse = 1 / weight[h];
        for (ptrdiff_t i = 0; i < c; i++) {
            double off = sum[i] * inverse, step = centre[i] + off - mean[i];
            mean[i] += step * part;
            scatter[i] += sum2[i] - sum[i] * off + step * step * before * part;
        }
        moments->weight[h] = before + weight[h];
    }
}

/* Sweep 1: record[n][2] (or NULL) and the moments of u. `moments` comes with zeros. */
SWEEP void measure(const float *restrict x, Shape s, double eps, float *record, const float *share, const int horizons,
                   float *restrict work, Moments *moments) {
    float *block = work, *var_block = work + BLOCK * s.c, *rest = work + 2 * BLOCK * s.c;
    for (ptrdiff_t from = 0; from < s.n; from += BLOCK) {
        ptrdiff_t records = s.n - from < BLOCK ? s.n - from : BLOCK;
        const float *x_block = x + from * s.c * s.p;
        for (ptrdiff_t r = 0; r < records; r++) {
            float *of_record = record ? record + 2 * (from + r) : NULL;
            if (s.p > 1)
                reduce_record(x_block + r * s.c * s.p, s, eps, of_record, block + r * s.c, var_block + r * s.c);
            else if (record)
                normalise_record(x_block + r * s.c, s.c, eps, of_record, block + r * s.c);
        }
        merge_block(s.p > 1 || record ? block : x_block, s.p > 1 ? var_block : NULL, records, s, share + from, horizons,
                    rest, moments);
    }
    for (int h = 0; h <= horizons; h++)
        for (ptrdiff_t i = 0; i < s.c; i++) {
            double var = moments->scatter[h * s.c + i] / moments->weight[h];
            moments->scatter[h * s.c + i] = var < 0 ? 0 : var; /* this way round a nan stays a nan */
        }
}

/* y of `count` values; the coefficients move on by `step`, 1 over channels, 0 within one. */
SWEEP void normalise_run(const float *restrict x, ptrdiff_t count, const int step, float mean, float inverse,
                         const float *restrict centre, const float *restrict scale, const float *restrict shift,
                         float *restrict y) {
    for (ptrdiff_t i = 0; i < count; i++)
        y[i] = ((x[i] - mean) * inverse - centre[i * step]) * scale[i * step] + shift[i * step];
}

/* Sweep 2: y = (u - centre) scale + shift. */
SWEEP void normalise(const float *restrict x, Shape s, const float *restrict record, const float *restrict centre,
                     const float *restrict scale, const float *restrict shift, float *restrict y) {
    for (ptrdiff_t r = 0; r < s.n; r++) {
        float mean = record ? record[2 * r] : 0, inverse = record ? record[2 * r + 1] : 1;
        ptrdiff_t at = r * s.c * s.p;
        if (s.p == 1)
            normalise_run(x + at, s.c, 1, mean, inverse, centre, scale, shift, y + at);
        else
            for (ptrdiff_t c = 0; c < s.c; c++, at += s.p)
                normalise_run(x + at, s.p, 0, mean, inverse, centre + c, scale + c, shift + c, y + at);
    }
}

/* Sums over a batch, per channel, of dy, dy v and v^2, for v = (u - centre) inverse_std. */
typedef struct {
    double *dy, *dy_v, *v_v;
} Sums;

/* Add `rows` dense records, 1 or 2, to the sums of dy, dy v and v^2: each sum is read and written once for both. */
SWEEP void add_gradients(const float *restrict dy, const float *restrict x, ptrdiff_t c, const int rows,
                         const float *restrict record, const float *restrict centre, const float *restrict inverse_std,
                         float *restrict sum, float *restrict sum_v, float *restrict sum_vv) {
    const ptrdiff_t next = rows == 2 ? c : 0; /* the second record */
    const float mean = record ? record[0] : 0, inverse = record ? record[1] : 1;
    const float mean_2 = record && rows == 2 ? record[2] : 0, inverse_2 = record && rows == 2 ? record[3] : 1;
    for (ptrdiff_t i = 0; i < c; i++) {
        float middle = centre[i], by_std = inverse_std[i];
        float v = ((x[i] - mean) * inverse - middle) * by_std, g = dy[i];
        if (rows == 1) {
            sum[i] += g;
            sum_v[i] += g * v;
            sum_vv[i] += v * v;
        } else {
            float v_2 = ((x[next + i] - mean_2) * inverse_2 - middle) * by_std, g_2 = dy[next + i];
            sum[i] += g + g_2;
            sum_v[i] += g * v + g_2 * v_2;
            sum_vv[i] += v * v + v_2 * v_2;
        }
    }
}

/* Sweep 3: the sums that a projection needs. `sums` comes with zeros. */
SWEEP void sum_gradient(const float *restrict dy, const float *restrict x, Shape s, const float *restrict record,
                        const float *restrict centre, const float *restrict inverse_std, float *restrict work,
                        Sums sums) {
    float *restrict sum = work, *restrict sum_v = work + s.c, *restrict sum_vv = work + 2 * s.c;
    for (ptrdiff_t from = 0; s.p == 1 && from < s.n; from += BLOCK) {
        const ptrdiff_t to = from + BLOCK < s.n ? from + BLOCK : s.n;
        memset(work, 0, sizeof(float) * 3 * s.c);
        for (ptrdiff_t r = from, rows; r < to; r += rows) {
            const float *dy_r = dy + r * s.c, *x_r = x + r * s.c, *record_r = record ? record + 2 * r : NULL;
            if ((rows = r + 2 <= to ? 2 : 1) == 2)
                add_gradients(dy_r, x_r, s.c, 2, record_r, centre, inverse_std, sum, sum_v, sum_vv);
            else
                add_gradients(dy_r, x_r, s.c, 1, record_r, centre, inverse_std, sum, sum_v, sum_vv);
        }
        for (ptrdiff_t i = 0; i < s.c; i++) {
            sums.dy[i] += sum[i];
            sums.dy_v[i] += sum_v[i];
            sums.v_v[i] += sum_vv[i];
        }
    }
    if (s.p == 1) return;
    for (ptrdiff_t r = 0, at = 0; r < s.n; r++) {
        float mean = record ? record[2 * r] : 0, inverse = record ? record[2 * r + 1] : 1;
        for (ptrdiff_t c = 0; c < s.c; c++)
            for (ptrdiff_t end = at + s.p; at < end;) {
                ptrdiff_t stop = at + CHUNK < end ? at + CHUNK : end;
                float total = 0, total_v = 0, total_vv = 0, of_c = centre[c], by_c = inverse_std[c];
#pragma omp simd reduction(+ : total, total_v, total_vv)
                for (ptrdiff_t i = at; i < stop; i++) {
                    float v = ((x[i] - mean) * inverse - of_c) * by_c, g = dy[i];
                    total += g;
                    total_v += g * v;
                    total_vv += v * v;
                }
                sums.dy[c] += total;
                sums.dy_v[c] += total_v;
                sums.v_v[c] += total_vv;
                at = stop;
            }
    }
}

/* du = scale (dy - off - slope (u - centre)) of `count` values. A single dense record has dy = off, to the last bit. */
SWEEP void project_run(const float *restrict dy, const float *restrict x, ptrdiff_t count, const int step, float mean,
                       float inverse, const float *restrict centre, const float *restrict scale,
                       const float *restrict off, const float *restrict slope, float *restrict du) {
    for (ptrdiff_t i = 0; i < count; i++)
        du[i] = scale[i * step] *
                (dy[i] - off[i * step] - slope[i * step] * ((x[i] - mean) * inverse - centre[i * step]));
}

/* dx of one record from its du, in place: inverse (du - mean(du) - u mean(u du)). */
SWEEP void unnormalise_record(const float *restrict x, ptrdiff_t count, float mean, float inverse, float *restrict du) {
    double total = 0, total_u = 0;
    for (ptrdiff_t from = 0; from < count; from += CHUNK) {
        ptrdiff_t to = from + CHUNK < count ? from + CHUNK : count;
        float sum = 0, sum_u = 0;
#pragma omp simd reduction(+ : sum, sum_u)
        for (ptrdiff_t i = from; i < to; i++) {
            sum += du[i];
            sum_u += du[i] * ((x[i] - mean) * inverse);
        }
        total += sum;
        total_u += sum_u;
    }
    float off = (float)(total / count), slope = (float)(total_u / count);
    for (ptrdiff_t i = 0; i < count; i++) du[i] = inverse * (du[i] - off - slope * ((x[i] - mean) * inverse));
}

/* Sweep 4: dx. */
SWEEP void project_gradient(const float *restrict dy, const float *restrict x, Shape s, const float *restrict record,
                            const float *restrict centre, const float *restrict scale, const float *restrict off,
                            const float *restrict slope, float *restrict dx) {
    for (ptrdiff_t r = 0; r < s.n; r++) {
        float mean = record ? record[2 * r] : 0, inverse = record ? record[2 * r + 1] : 1;
        ptrdiff_t start = r * s.c * s.p, at = start;
        if (s.p == 1)
            project_run(dy + at, x + at, s.c, 1, mean, inverse, centre, scale, off, slope, dx + at);
        else
            for (ptrdiff_t c = 0; c < s.c; c++, at += s.p)
                project_run(dy + at, x + at, s.p, 0, mean, inverse, centre + c, scale + c, off + c, slope + c, dx + at);
        if (record) unnormalise_record(x + start, s.c * s.p, mean, inverse, dx + start);
    }
}

#endif
