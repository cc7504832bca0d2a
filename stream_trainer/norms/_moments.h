/* The first sweep over a batch: the mean and 1/std of each record, and decay-weighted moments of each channel.

   Statistics are sums in float32 over at most BLOCK records or CHUNK values, about a value from their middle, merged in
   double: no cut of the stream shows. */

#ifndef STREAM_TRAINER_MOMENTS_H
#define STREAM_TRAINER_MOMENTS_H

#include <string.h>

#include "_records.h"

/* Decay-weighted moments of a batch, one row of channels for each horizon; the last counts every record alike. */
typedef struct {
    double weight[HORIZONS_MAX + 1];
    double *mean, *scatter; /* (rows, c); scatter ends as variance */
} Moments;

#define MOMENT_ROWS (2 * (HORIZONS_MAX + 1)) /* of doubles, for each segment */

/* What each thread of a pass needs for itself while it runs: two blocks of u and its variance, the rows of sums. */
#define SUM_ROWS (MOMENT_ROWS + 1)
static size_t work_floats(Shape s) { return (size_t)(2 * BLOCK + SUM_ROWS) * s.c; }

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

/* Four records at once, `next` apart: each sum is read and written once for all. share: (4, HORIZONS_MAX). */
SWEEP void add_records(const float *restrict u, ptrdiff_t next, const float *restrict var_u,
                       const float *restrict centre, ptrdiff_t c, const float *share, const int horizons, float *restrict sum_1,
                       float *restrict squares_1, float *restrict sum_2, float *restrict squares_2,
                       float *restrict sum, float *restrict squares) {
    const float a_1 = share[0], a_2 = share[2], a_3 = share[4], a_4 = share[6];
    const float b_1 = share[1], b_2 = share[3], b_3 = share[5], b_4 = share[7];
    for (ptrdiff_t i = 0; i < c; i++) {
        const float middle = centre[i];
        float d_1 = u[i] - middle, d_2 = u[next + i] - middle, d_3 = u[2 * next + i] - middle, d_4 = u[3 * next + i] - middle;
        float s_1 = d_1 * d_1, s_2 = d_2 * d_2, s_3 = d_3 * d_3, s_4 = d_4 * d_4;
        if (var_u) {
            s_1 += var_u[i];
            s_2 += var_u[next + i];
            s_3 += var_u[2 * next + i];
            s_4 += var_u[3 * next + i];
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

/* Take some channels of up to BLOCK records, `next` apart, into the moments. share: of the first of them, a row of n for
   each horizon. */
SWEEP void merge_block(const float *restrict u, ptrdiff_t next, const float *restrict var_u, ptrdiff_t records, Shape s,
                       Part channels, const float *restrict share, const int horizons, float *restrict work,
                       Moments *moments) {
    const ptrdiff_t c = channels.to - channels.from;
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
    for (ptrdiff_t r = 1, rows; r < records; r += rows) {
        const float *restrict u_1 = u + r * next, *restrict u_2 = u_1 + next, *restrict u_3 = u_2 + next;
        rows = r + 3 <= records ? 3 : 1;
        if (rows == 3)
            for (ptrdiff_t i = 0; i < c; i++) centre[i] = ((centre[i] + (u_1[i] - u[i])) + (u_2[i] - u[i])) + (u_3[i] - u[i]);
        else
            for (ptrdiff_t i = 0; i < c; i++) centre[i] += u_1[i] - u[i];
    }
    for (ptrdiff_t i = 0; i < c; i++) centre[i] = u[i] + centre[i] * (1.0f / records);

    float *alike = sums + 2 * horizons * c;
    for (ptrdiff_t r = 0, rows; r < records; r += rows) {
        rows = r + 4 <= records ? 4 : 1;
        const float *u_r = u + r * next, *var_r = var_u ? var_u + r * next : NULL, *share_r = share_of[r];
#define SUMS centre, c, share_r, horizons, sums, sums + c, sums + 2 * c, sums + 3 * c, alike, alike + c
        if (rows == 4 && var_u)
            add_records(u_r, next, var_r, SUMS);
        else if (rows == 4)
            add_records(u_r, next, NULL, SUMS);
        else if (var_u)
            add_record(u_r, var_r, SUMS);
        else
            add_record(u_r, NULL, SUMS);
#undef SUMS
    }
    for (int h = 0; h <= horizons; h++) {
        if (weight[h] == 0) continue; /* forgotten within the batch */
        const float *restrict sum = sums + 2 * h * c, *restrict sum2 = sum + c;
        double *restrict mean = moments->mean + h * s.c + channels.from;
        double *restrict scatter = moments->scatter + h * s.c + channels.from;
        double before = moments->weight[h], part = weight[h] / (before + weight[h]), inverse = 1 / weight[h];
        for (ptrdiff_t i = 0; i < c; i++) {
            double off = sum[i] * inverse, step = centre[i] + off - mean[i];
            mean[i] += step * part;
            scatter[i] += sum2[i] - sum[i] * off + step * step * before * part;
        }
        moments->weight[h] = before + weight[h];
    }
}

/* The moments of segment k, in the rows that are there for it. */
SWEEP Moments segment_moments(double *rows, ptrdiff_t c, ptrdiff_t k) {
    double *mine = rows + k * MOMENT_ROWS * c;
    return (Moments){.mean = mine, .scatter = mine + (HORIZONS_MAX + 1) * c};
}

/* Moments of this thread's segments of a dense batch, each in rows of its own, and what each weighs in `weights`. */
SWEEP void measure_segments(const float *restrict x, Shape s, double eps, float *record, const float *share,
                            const int horizons, float *restrict work, double *rows,
                            double (*weights)[HORIZONS_MAX + 1], Team team) {
    const ptrdiff_t length = segment_records(s);
    const Part records = records_of(s, team), all = {0, s.c};
    float *restrict u = work, *restrict rest = work + BLOCK * s.c;
    for (ptrdiff_t first = records.from; first < records.to; first += length) {
        const ptrdiff_t k = first / length, end = first + length < records.to ? first + length : records.to;
        Moments moments = segment_moments(rows, s.c, k);
        memset(moments.mean, 0, sizeof(double) * MOMENT_ROWS * s.c);
        for (ptrdiff_t from = first; from < end; from += BLOCK) {
            const ptrdiff_t count = end - from < BLOCK ? end - from : BLOCK;
            const float *x_block = x + from * s.c;
            for (ptrdiff_t r = 0; record && r < count; r++) {
                measure_record(x_block + r * s.c, s.c, eps, record + 2 * (from + r));
                normalise_record(x_block + r * s.c, s.c, record + 2 * (from + r), u + r * s.c);
            }
            merge_block(record ? u : x_block, s.c, NULL, count, s, all, share + from, horizons, rest, &moments);
        }
        memcpy(weights[k], moments.weight, sizeof moments.weight);
    }
}

/* Some channels of all segments, one after the other, into the first. */
SWEEP void merge_segments(double *rows, double (*weights)[HORIZONS_MAX + 1], Shape s, Part channels, const int horizons,
                          Moments *moments) {
    memcpy(moments->weight, weights[0], sizeof moments->weight);
    for (ptrdiff_t k = 1; k < segments_in(s); k++) {
        const Moments next = segment_moments(rows, s.c, k);
        for (int h = 0; h <= horizons; h++) {
            if (weights[k][h] == 0) continue; /* forgotten within the batch */
            const double before = moments->weight[h], part = weights[k][h] / (before + weights[k][h]);
            double *restrict mean = moments->mean + h * s.c, *restrict scatter = moments->scatter + h * s.c;
            const double *restrict new_mean = next.mean + h * s.c, *restrict new_scatter = next.scatter + h * s.c;
            for (ptrdiff_t i = channels.from; i < channels.to; i++) {
                double step = new_mean[i] - mean[i];
                mean[i] += step * part;
                scatter[i] += new_scatter[i] + step * step * before * part;
            }
            moments->weight[h] = before + weights[k][h];
        }
    }
}

/* The moments of images, some channels of them. */
SWEEP void measure_images(const float *restrict x, Shape s, double eps, float *record, const float *share,
                          const int horizons, float *restrict work, Moments *moments, Part mine, Team team) {
    float *means = work, *vars = work + BLOCK * s.c, *rest = vars + BLOCK * s.c + SUM_ROWS * mine.from;
    for (ptrdiff_t from = 0; from < s.n; from += BLOCK) {
        const ptrdiff_t records = s.n - from < BLOCK ? s.n - from : BLOCK;
        const Part part = part_of(records, 1, team);
        for (ptrdiff_t r = part.from; r < part.to; r++)
            reduce_record(x + (from + r) * s.c * s.p, s, eps, record ? record + 2 * (from + r) : NULL, means + r * s.c,
                          vars + r * s.c);
        meet(team);
        merge_block(means + mine.from, s.c, vars + mine.from, records, s, mine, share + from, horizons, rest, moments);
        meet(team); /* before the next block takes its place */
    }
}

/* Sweep 1: record[n][2] (or NULL) and the moments of u, in the first of `rows`, which comes with zeros for images. `work` is
   the first thread's, all are one after another. Each thread leaves its channels. */
SWEEP void measure(const float *restrict x, Shape s, double eps, float *record, const float *share, const int horizons,
                   float *restrict work, double *rows, double (*weights)[HORIZONS_MAX + 1], Moments *moments,
                   Team team) {
    const Part mine = channels_of(s, team);
    *moments = segment_moments(rows, s.c, 0);
    if (s.p > 1) {
        measure_images(x, s, eps, record, share, horizons, work, moments, mine, team);
    } else {
        measure_segments(x, s, eps, record, share, horizons, work + team.rank * work_floats(s), rows, weights, team);
        meet(team);
        merge_segments(rows, weights, s, mine, horizons, moments);
    }
    for (int h = 0; h <= horizons; h++)
        for (ptrdiff_t i = mine.from; i < mine.to; i++) {
            double var = moments->scatter[h * s.c + i] / moments->weight[h];
            moments->scatter[h * s.c + i] = var < 0 ? 0 : var; /* this way round a nan stays a nan */
        }
}

#endif
