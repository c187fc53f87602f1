/* Entropy from the kernel; the counter generator itself is inline in the header. */
#include "common/rng.h"

#include <sys/random.h>
#include <time.h>
#include <unistd.h>

uint64_t rng_entropy(void) {
    uint64_t bits = 0;
    if (getrandom(&bits, sizeof bits, 0) != (ssize_t)sizeof bits) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        bits = rng_mix((uint64_t)now.tv_nsec ^ ((uint64_t)now.tv_sec << 20) ^ (uint64_t)getpid());
    }
    return bits ? bits : 1;
}
