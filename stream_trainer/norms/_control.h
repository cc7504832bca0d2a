/* The scalars of an adaptive layer between batches: what AdaptiveBatchRenorm.observe, damp, trust and learn_floor_from
   do, in double like there. Comparisons are written so that a nan ends as it does in Python. */

#ifndef STREAM_TRAINER_CONTROL_H
#define STREAM_TRAINER_CONTROL_H

#include <math.h>
#include <stddef.h>

/* The fields of _Control, and the constants, of adaptive_batch_renorm.py. */
typedef struct {
    double log_distance, correlation, records_paired, share, usual_n, floor_logit, floor_power;
} Control;

#define SHIFT_MAX 5.0
#define SHRINKAGE 0.75
#define DRIFT_RATIO 2.0
#define SIZE_MEMORY 0.998
#define FLOOR_MEMORY 0.99
#define FLOOR_LOGIT_MIN -5.0
#define FLOOR_LOGIT_MAX 4.0

static double at_most(double high, double value) { return value < high ? value : high; }
static double at_least(double low, double value) { return value > low ? value : low; }

/* Weight of the newest n records in a decaying mean of n_records, these included. */
static double mean_weight(double n, double n_records, double log_q) { return expm1(n * log_q) / expm1(n_records * log_q); }

static void observe(Control *k, double n, double n_records, double log_q, double shift_power, double distance,
                    double learn_floor) {
    if (n >= 2) {
        double z2 = at_most(1, shift_power);
        k->records_paired += n;
        k->correlation += mean_weight(n, k->records_paired, log_q) * ((n * z2 - 1) / (n - 1) - k->correlation);
    }
    k->log_distance += mean_weight(n, n_records, log_q) * (log(distance) - k->log_distance);
    double floor = learn_floor > 0 ? 1 / (1 + exp(-k->floor_logit)) : 0;
    k->share = at_least(floor, 1 - DRIFT_RATIO * exp(k->log_distance) / distance);
}

static double damp(Control *k, double n, int learning) {
    double usual_n = k->usual_n;
    if (learning) k->usual_n = usual_n = usual_n ? usual_n + (1 - pow(SIZE_MEMORY, n)) * (n - usual_n) : n;
    return n / (n + 1) * sqrt(at_most(1, n / (usual_n ? usual_n : n)));
}

static double trust(double n, double positions, double correlation) {
    /* Kish's effective sample size. */
    double effective = n / (1 + (n - 1) * at_most(1, at_least(0, correlation)));
    return 1 - pow(SHRINKAGE, effective * positions);
}

static void learn_floor_from(Control *k, double gradient, double n, double learn_floor) {
    if (!isfinite(gradient)) return;
    k->floor_power += (1 - pow(FLOOR_MEMORY, n)) * (gradient * gradient - k->floor_power);
    double logit = k->floor_logit - learn_floor * sqrt(n) * gradient / sqrt(k->floor_power + 1e-20);
    k->floor_logit = at_most(FLOOR_LOGIT_MAX, at_least(FLOOR_LOGIT_MIN, logit));
}

/* AdaptiveBatchRenorm.drift: distance of the horizons without its noise, share of clipped channels, and the batch's mean
   (root mean square) and standard deviation (geometric mean) in running standard deviations. */
typedef struct {
    double distance, clipped, shift, scale;
} Drift;

static Drift drift_of(const float *mean, const float *var, const float *ratio, const float *shift, ptrdiff_t channels,
                      double eps) {
    Drift sum = {0, 0, 0, 0};
    for (ptrdiff_t i = 0; i < channels; i++) {
        const double slow = var[i] + eps, gap = mean[channels + i] - mean[i];
        const double spread = log((var[channels + i] + eps) / slow);
        sum.distance += gap * gap / slow + spread * spread / 2;
        sum.clipped += fabs(shift[i]) > SHIFT_MAX;
        sum.shift += (double)shift[i] * shift[i];
        sum.scale += log(ratio[i]);
    }
    const double c = (double)channels;
    return (Drift){sum.distance / c, sum.clipped / c, sqrt(sum.shift / c), exp(sum.scale / c)};
}

#endif
