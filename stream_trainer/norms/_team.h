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

#endif
