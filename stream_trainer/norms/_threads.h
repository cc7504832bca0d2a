/* Threads for one large batch: torch's own, whose OpenMP library is in the process already, found by name when the kernel
   is loaded. Nothing is linked against it; where it is not found, one thread does all. A second set of threads beside
   torch's would fight with it for the cores. */

#ifndef STREAM_TRAINER_THREADS_H
#define STREAM_TRAINER_THREADS_H

#if defined(__linux__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

#include "_team.h"

/* What compilers call for `#pragma omp parallel` and `barrier`, and two functions of OpenMP's own. */
static struct {
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
    void (*barrier)(void);
    int (*rank)(void);
    int (*ranks)(void);
} openmp;

/* Whether there is an OpenMP library in this process. */
static int find_openmp(void) {
#if defined(__linux__) || defined(__APPLE__)
    *(void **)&openmp.parallel = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    *(void **)&openmp.barrier = dlsym(RTLD_DEFAULT, "GOMP_barrier");
    *(void **)&openmp.rank = dlsym(RTLD_DEFAULT, "omp_get_thread_num");
    *(void **)&openmp.ranks = dlsym(RTLD_DEFAULT, "omp_get_num_threads");
#endif
    return openmp.parallel && openmp.barrier && openmp.rank && openmp.ranks;
}

typedef struct {
    void (*work)(void *, Team);
    void *on;
} Task;

static void take_part(void *task) {
    const Task *t = task;
    t->work(t->on, (Team){openmp.rank(), openmp.ranks(), openmp.barrier});
}

/* work(on, team), by one thread or, where OpenMP was found, by several. */
static void share_out(void (*work)(void *, Team), void *on, long threads) {
    if (threads > 1) {
        Task task = {work, on};
        openmp.parallel(take_part, &task, (unsigned)threads, 0);
    } else {
        work(on, (Team){0, 1, NULL});
    }
}

#endif
