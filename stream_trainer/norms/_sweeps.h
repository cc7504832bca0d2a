/* The sweeps over a batch that follow its moments (_moments.h): normalise, sum the gradient, project it. Pure C, compiled
   once for each instruction set.

   Names: share = weight of a record in arrival order; u = x after the normalisation of its record, or x itself;
   record = (mean, 1/std) of each record, or NULL where records are not normalised. */

#ifndef STREAM_TRAINER_SWEEPS_H
#define STREAM_TRAINER_SWEEPS_H

#include "_moments.h"

/* y of `count` values; the coefficients move on by `step`, 1 over channels, 0 within one. */
SWEEP void normalise_run(const float *restrict x, ptrdiff_t count, const int step, float mean, float inverse,
                         const float *restrict centre, const float *restrict scale, const float *restrict shift,
                         float *restrict y) {
    for (ptrdiff_t i = 0; i < count; i++)
        y[i] = ((x[i] - mean) * inverse - centre[i * step]) * scale[i * step] + shift[i * step];
}

/* Sweep 2: y = (u - centre) scale + shift. */
SWEEP void normalise(const float *restrict x, Shape s, const float *restrict record, const float *restrict centre,
                     const float *restrict scale, const float *restrict shift, float *restrict y, Team team) {
    const Part records = records_of(s, team);
    for (ptrdiff_t r = records.from; r < records.to; r++) {
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

/* Add `rows` dense records, 1 or 2, `next` apart, to the sums of dy, dy v and v^2: each sum is read and written once for
   both. */
SWEEP void add_gradients(const float *restrict dy, const float *restrict x, ptrdiff_t c, ptrdiff_t next, const int rows,
                         const float *restrict record, const float *restrict centre, const float *restrict inverse_std,
                         float *restrict sum, float *restrict sum_v, float *restrict sum_vv) {
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

/* The sums of some records of a dense batch. */
SWEEP void sum_records(const float *restrict dy, const float *restrict x, ptrdiff_t c, Part records,
                       const float *restrict record, const float *restrict centre, const float *restrict inverse_std,
                       float *restrict work, Sums sums) {
    float *restrict sum = work, *restrict sum_v = work + c, *restrict sum_vv = work + 2 * c;
    for (ptrdiff_t from = records.from; from < records.to; from += BLOCK) {
        const ptrdiff_t to = from + BLOCK < records.to ? from + BLOCK : records.to;
        memset(work, 0, sizeof(float) * 3 * c);
        for (ptrdiff_t r = from, rows; r < to; r += rows) {
            const float *record_r = record ? record + 2 * r : NULL;
            if ((rows = r + 2 <= to ? 2 : 1) == 2)
                add_gradients(dy + r * c, x + r * c, c, c, 2, record_r, centre, inverse_std, sum, sum_v, sum_vv);
            else
                add_gradients(dy + r * c, x + r * c, c, c, 1, record_r, centre, inverse_std, sum, sum_v, sum_vv);
        }
        for (ptrdiff_t i = 0; i < c; i++) {
            sums.dy[i] += sum[i];
            sums.dy_v[i] += sum_v[i];
            sums.v_v[i] += sum_vv[i];
        }
    }
}

/* The sums of images, some channels of them. */
SWEEP void sum_images(const float *restrict dy, const float *restrict x, Shape s, Part mine,
                      const float *restrict record, const float *restrict centre, const float *restrict inverse_std,
                      Sums sums) {
    for (ptrdiff_t r = 0; r < s.n; r++) {
        float mean = record ? record[2 * r] : 0, inverse = record ? record[2 * r + 1] : 1;
        for (ptrdiff_t c = mine.from, at = (r * s.c + c) * s.p; c < mine.to; c++)
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

SWEEP Sums segment_sums(double *rows, ptrdiff_t c, ptrdiff_t k) {
    double *mine = rows + k * MOMENT_ROWS * c;
    return (Sums){mine, mine + c, mine + 2 * c};
}

/* Sweep 3: the sums that a projection needs, in the first of `rows`, as in `measure`; so is `work`. */
SWEEP Sums sum_gradient(const float *restrict dy, const float *restrict x, Shape s, const float *restrict record,
                        const float *restrict centre, const float *restrict inverse_std, float *restrict work,
                        double *rows, Team team) {
    const Sums sums = segment_sums(rows, s.c, 0);
    if (s.p > 1) {
        sum_images(dy, x, s, channels_of(s, team), record, centre, inverse_std, sums);
        return sums;
    }
    const ptrdiff_t length = segment_records(s);
    const Part records = records_of(s, team), channels = channels_of(s, team);
    for (ptrdiff_t from = records.from; from < records.to; from += length) {
        const Part segment = {from, from + length < records.to ? from + length : records.to};
        const Sums mine = segment_sums(rows, s.c, from / length);
        memset(mine.dy, 0, sizeof(double) * 3 * s.c);
        sum_records(dy, x, s.c, segment, record, centre, inverse_std, work + team.rank * work_floats(s), mine);
    }
    meet(team);
    for (ptrdiff_t k = 1; k < segments_in(s); k++) {
        const Sums next = segment_sums(rows, s.c, k);
        for (ptrdiff_t i = channels.from; i < channels.to; i++) {
            sums.dy[i] += next.dy[i];
            sums.dy_v[i] += next.dy_v[i];
            sums.v_v[i] += next.v_v[i];
        }
    }
    return sums;
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
                            const float *restrict slope, float *restrict dx, Team team) {
    const Part records = records_of(s, team);
    for (ptrdiff_t r = records.from; r < records.to; r++) {
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
