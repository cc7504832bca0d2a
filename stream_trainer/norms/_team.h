/* The shape of a batch, and the threads that share it.

   A batch is n records of c channels of p positions, float32, contiguous. A dense batch has p = 1, and there the channel
   changes with each value; else it is one and the same for a run of p values. */

#ifndef STREAM_TRAINER_TEAM_H
#define STREAM_TRAINER_TEAM_H

#include <stddef.h>

#define SWEEP static inline __attribute__((always_inline))
#define BLOCK 16   /* records: 16 KiB of 256 channels, they stay in the first cache */
#define CHUNK 1024 /* values that may be added up in float32 */
#define HORIZONS_MAX 2

typedef struct {
    ptrdiff_t n, c, p;
} Shape;

/* The threads that share one batch, and which of them this is. Of a dense batch each takes whole segments of records, of
   which the shape alone says how long they are, and sums of segments are added up in their order; of images each takes
   channels. The numbers do not depend on how many threads there are. */
typedef struct {
    int rank, ranks;
    void (*barrier)(void);
} Team;

#define SEGMENT_VALUES 32768 /* at least, so that a segment is worth a thread; the last one may be shorter */
#define SEGMENTS_MAX 16
#define CHANNELS_TOGETHER 16 /* of a dense batch: no vector, and no line of the cache, is cut in two */

typedef struct {
    ptrdiff_t from, to;
} Part;

/* What this thread does of `count` things, cut between whole groups of `together`. */
static Part part_of(ptrdiff_t count, ptrdiff_t together, Team team) {
    ptrdiff_t groups = (count + together - 1) / together, end = groups * (team.rank + 1) / team.ranks * together;
    return (Part){groups * team.rank / team.ranks * together, end < count ? end : count};
}

/* Records of a segment, whole blocks. */
static ptrdiff_t segment_records(Shape s) {
    ptrdiff_t by_values = (SEGMENT_VALUES + s.c - 1) / s.c, by_count = (s.n + SEGMENTS_MAX - 1) / SEGMENTS_MAX;
    ptrdiff_t records = by_values > by_count ? by_values : by_count;
    return (records + BLOCK - 1) / BLOCK * BLOCK;
}

static ptrdiff_t segments_in(Shape s) {
    return s.p > 1 ? 1 : (s.n + segment_records(s) - 1) / segment_records(s);
}

/* In every sweep the same, so that each finds its records in its own cache. */
static Part records_of(Shape s, Team team) { return part_of(s.n, s.p == 1 ? segment_records(s) : 1, team); }

static Part channels_of(Shape s, Team team) { return part_of(s.c, s.p == 1 ? CHANNELS_TOGETHER : 1, team); }

/* Until all are here. */
static void meet(Team team) {
    if (team.ranks > 1) team.barrier();
}

#endif
