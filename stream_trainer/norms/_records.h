/* Statistics of one record: its mean and 1/std, and of images the mean and variance of each channel over its positions.

   Sums in float32 over at most CHUNK values, merged in double; squares about a mean that is known before. */

#ifndef STREAM_TRAINER_RECORDS_H
#define STREAM_TRAINER_RECORDS_H

#include <math.h>

#include "_team.h"

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

/* Mean and 1/std of one dense record. */
SWEEP void measure_record(const float *restrict x, ptrdiff_t c, double eps, float *restrict record) {
    float mean = mean_of(x, c);
    set_record(record, mean, variance_about(x, c, mean), eps);
}

/* u of some channels of one dense record. */
SWEEP void normalise_record(const float *restrict x, ptrdiff_t count, const float *restrict record, float *restrict u) {
    const float mean = record[0], inverse = record[1];
    for (ptrdiff_t i = 0; i < count; i++) u[i] = (x[i] - mean) * inverse;
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

#endif
