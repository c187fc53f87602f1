/* How many processors this process may keep busy. */
#pragma once

/* The smaller of its CPU affinity and the CPU limit of its control group; at least 1. */
int cpus_available(void);
