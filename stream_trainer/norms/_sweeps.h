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

/* The threads that share one batch, and which of them this is. What one channel adds up over the records, one thread adds
   up, in the order of the records: the numbers do not depend on how many threads there are. */
typedef struct {
    int rank, ranks;
    void (*barrier)(void);
} Team;

#define CHANNELS_TOGETHER 16 /* of a dense batch: no vector, and no line of the cache, is cut in two */

typedef struct {
    ptrdiff_t from, to;
} Part;

/* What this thread does of `count` things, cut between whole groups of `together`. */
static Part part_of(ptrdiff_t count, ptrdiff_t together, Team team) {
    ptrdiff_t groups = (count + together - 1) / together, end = groups * (team.rank + 1) / team.ranks * together;
    return (Part){groups * team.rank / team.ranks * together, end < count ? end : count};
}

static Part channels_of(Shape s, Team team) { return part_of(s.c, s.p == 1 ? CHANNELS_TOGETHER : 1, team); }

/* Until all are here. */
static void meet(Team team) {
    if (team.ranks > 1) team.barrier();
}

/* Decay-weighted moments of a batch, one row of channels for each horizon; the last counts every record alike. */
typedef struct {
    double weight[HORIZONS_MAX + 1];
    double *mean, *scatter; /* (rows, c); scatter ends as variance */
} Moments;

/* What a forward or backward pass needs for itself while it runs: two blocks of u and its variance, the rows of sums. */
#define SUM_ROWS (2 * (HORIZONS_MAX + 1) + 1)
static size_t work_floats(Shape s) { return (size_t)(2 * BLOCK + SUM_ROWS) * s.c; }

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

/* Sweep 1: record[n][2] (or NULL) and the moments of u. `moments` comes with zeros; each thread fills its channels. */
SWEEP void measure(const float *restrict x, Shape s, double eps, float *record, const float *share, const int horizons,
                   float *restrict work, Moments *moments, Team team) {
    const Part mine = channels_of(s, team);
    const ptrdiff_t width = mine.to - mine.from;
    float *rest = work + 2 * BLOCK * s.c + SUM_ROWS * mine.from;
    if (s.p == 1 && record && team.ranks > 1) {
        const Part records = part_of(s.n, 1, team);
        for (ptrdiff_t r = records.from; r < records.to; r++) measure_record(x + r * s.c, s.c, eps, record + 2 * r);
        meet(team);
    }
    for (ptrdiff_t from = 0; from < s.n; from += BLOCK) {
        const ptrdiff_t records = s.n - from < BLOCK ? s.n - from : BLOCK;
        const float *x_block = x + from * s.c * s.p;
        if (s.p > 1) {
            float *means = work, *vars = work + BLOCK * s.c;
            const Part part = part_of(records, 1, team);
            for (ptrdiff_t r = part.from; r < part.to; r++)
                reduce_record(x_block + r * s.c * s.p, s, eps, record ? record + 2 * (from + r) : NULL, means + r * s.c,
                              vars + r * s.c);
            meet(team);
            merge_block(means + mine.from, s.c, vars + mine.from, records, s, mine, share + from, horizons, rest, moments);
            meet(team); /* before the next block takes its place */
        } else if (record) {
            float *u = work + BLOCK * mine.from;
            for (ptrdiff_t r = 0; r < records; r++) {
                float *of_record = record + 2 * (from + r);
                if (team.ranks == 1) measure_record(x_block + r * s.c, s.c, eps, of_record);
                normalise_record(x_block + r * s.c + mine.from, width, of_record, u + r * width);
            }
            merge_block(u, width, NULL, records, s, mine, share + from, horizons, rest, moments);
        } else {
            merge_block(x_block + mine.from, s.c, NULL, records, s, mine, share + from, horizons, rest, moments);
        }
    }
    for (int h = 0; h <= horizons; h++)
        for (ptrdiff_t i = mine.from; i < mine.to; i++) {
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
                     const float *restrict scale, const float *restrict shift, float *restrict y, Team team) {
    const Part records = part_of(s.n, 1, team);
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

/* The sums of a dense batch, for some channels of it. */
SWEEP void sum_dense(const float *restrict dy, const float *restrict x, Shape s, Part channels,
                     const float *restrict record, const float *restrict centre, const float *restrict inverse_std,
                     float *restrict work, Sums sums) {
    const ptrdiff_t width = channels.to - channels.from;
    float *restrict sum = work, *restrict sum_v = work + width, *restrict sum_vv = work + 2 * width;
    centre += channels.from;
    inverse_std += channels.from;
    for (ptrdiff_t from = 0; from < s.n; from += BLOCK) {
        const ptrdiff_t to = from + BLOCK < s.n ? from + BLOCK : s.n;
        memset(work, 0, sizeof(float) * 3 * width);
        for (ptrdiff_t r = from, rows; r < to; r += rows) {
            const float *dy_r = dy + r * s.c + channels.from, *x_r = x + r * s.c + channels.from;
            const float *record_r = record ? record + 2 * r : NULL;
            if ((rows = r + 2 <= to ? 2 : 1) == 2)
                add_gradients(dy_r, x_r, width, s.c, 2, record_r, centre, inverse_std, sum, sum_v, sum_vv);
            else
                add_gradients(dy_r, x_r, width, s.c, 1, record_r, centre, inverse_std, sum, sum_v, sum_vv);
        }
        for (ptrdiff_t i = 0; i < width; i++) {
            sums.dy[channels.from + i] += sum[i];
            sums.dy_v[channels.from + i] += sum_v[i];
            sums.v_v[channels.from + i] += sum_vv[i];
        }
    }
}

/* Sweep 3: the sums that a projection needs. `sums` comes with zeros; each thread fills its channels. */
SWEEP void sum_gradient(const float *restrict dy, const float *restrict x, Shape s, const float *restrict record,
                        const float *restrict centre, const float *restrict inverse_std, float *restrict work,
                        Sums sums, Team team) {
    const Part mine = channels_of(s, team);
    if (s.p == 1) {
        sum_dense(dy, x, s, mine, record, centre, inverse_std, work + 3 * mine.from, sums);
        return;
    }
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
    const Part records = part_of(s.n, 1, team);
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
