/* A container's CPU limit does not show in the affinity mask: a worker that starts a thread for
 * each of the machine's processors is stopped most of the time by the quota. So both are read. */
#include "worker/cpus.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Reads one small file into buf; false when it is not there. */
static bool read_text(const char *path, char *buf, size_t buf_bytes) {
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    size_t len = fread(buf, 1, buf_bytes - 1, file);
    buf[len] = 0;
    fclose(file);
    return len > 0;
}

/* Processors' worth of time per period, 0 for no limit. Inside a container its own group is mounted
 * at /sys/fs/cgroup, in the form of version 2 or 1. */
static double cgroup_cpus(void) {
    char text[64];
    double quota = 0, period = 0;
    if (read_text("/sys/fs/cgroup/cpu.max", text, sizeof text)) {
        if (sscanf(text, "%lf %lf", &quota, &period) != 2) /* "max 100000" */
            return 0;
    } else if (read_text("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", text, sizeof text) &&
               sscanf(text, "%lf", &quota) == 1 &&
               read_text("/sys/fs/cgroup/cpu/cpu.cfs_period_us", text, sizeof text)) {
        if (sscanf(text, "%lf", &period) != 1)
            return 0;
    }
    return quota > 0 && period > 0 ? quota / period : 0;
}

int cpus_available(void) {
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    double limit = cgroup_cpus();
    if (limit > 0 && limit < count)
        count = (int)limit;
    return count > 0 ? count : 1;
}

void cpus_yield_when_idle(char **argv) {
    char self[PATH_MAX];
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
        return;
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (len < 0 || setenv("OMP_WAIT_POLICY", "passive", 1) < 0)
        return;
    self[len] = 0;
    /* Its path, not /proc/self/exe: the process would be listed as "exe". On failure it is only
     * slower. */
    execv(self, argv);
}
