/* The table of a partitioning's parts. */
#include "cli/partition_print.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

/* The largest part's count over the mean, of the count that lies there in struct part_info. */
static double ratio(const struct partition_info *info, size_t offset) {
    uint64_t most = 0, sum = 0;
    for (uint32_t k = 0; k < info->parts; k++) {
        uint64_t count = *(const uint64_t *)(const void *)((const char *)&info->part[k] + offset);
        most = count > most ? count : most;
        sum += count;
    }
    return sum ? (double)most * info->parts / (double)sum : 1;
}

void partition_print(const struct snapshot *snapshot, const struct partition_info *info) {
    double share = snapshot->edges ? 100.0 * (double)info->edge_cut / (double)snapshot->edges : 0;
    printf("partitioning %" PRIu32 "x%" PRIu32 ": %" PRIu32 " parts, halo of %" PRIu32
           " hops, seed %" PRIu64 ", edge cut %" PRIu64 " of %" PRIu64 " (%.2f %%)\n",
           info->parts, info->halo, info->parts, info->halo, info->seed, info->edge_cut,
           snapshot->edges, share);
    printf("  method %s; the largest part over the mean: nodes %.3f, edges %.3f, training nodes "
           "%.3f\n",
           info->method, ratio(info, offsetof(struct part_info, owned)),
           ratio(info, offsetof(struct part_info, owned_edges)),
           ratio(info, offsetof(struct part_info, train)));
    printf("  %4s %10s %10s %10s %12s", "part", "owned", "train", "halo", "edges");
    for (uint32_t h = 0; h < info->halo; h++)
        printf("   hop %" PRIu32 " nodes", h + 1);
    if (info->halo)
        printf("  halo share");
    putchar('\n');
    for (uint32_t k = 0; k < info->parts; k++) {
        const struct part_info *part = &info->part[k];
        uint64_t halo = 0;
        for (uint32_t h = 0; h < info->halo; h++)
            halo += part->halo[h];
        printf("  %4" PRIu32 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %12" PRIu64, k,
               part->owned, part->train, halo, part->edges);
        for (uint32_t h = 0; h < info->halo; h++)
            printf(" %13" PRIu64, part->halo[h]);
        if (info->halo)
            printf("  %8.2f %%", 100.0 * (double)halo / (double)(halo + part->owned));
        putchar('\n');
    }
}
