/* How many processors this process may keep busy, and letting others have them. */
#pragma once

/* The smaller of its CPU affinity and the CPU limit of its control group; at least 1. */
int cpus_available(void);
/* Threads that wait for work sleep, instead of spinning for milliseconds on a processor that
 * another worker needs, unless the user has chosen (OMP_WAIT_POLICY, GOMP_SPINCOUNT). libgomp reads
 * that when it is loaded, before main: so the program starts itself again, once. To be called
 * first. */
void cpus_yield_when_idle(char **argv);
