/* The table of a partitioning's parts. */
#include "cli/partition_print.h"

#include <inttypes.h>
#include <stdio.h>

void partition_print(const struct snapshot *snapshot, const struct partition_info *info) {
    double share = snapshot->edges ? 100.0 * (double)info->edge_cut / (double)snapshot->edges : 0;
    printf("partitioning %" PRIu32 "x%" PRIu32 ": %" PRIu32 " parts, halo of %" PRIu32
           " hops, seed %" PRIu64 ", edge cut %" PRIu64 " of %" PRIu64 " (%.2f %%)\n",
           info->parts, info->halo, info->parts, info->halo, info->seed, info->edge_cut,
           snapshot->edges, share);
    printf("  %4s %10s %10s %10s %12s", "part", "owned", "train", "halo", "edges");
    for (uint32_t h = 0; h < info->halo; h++)
        printf("   hop %" PRIu32 " nodes", h + 1);
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
        putchar('\n');
    }
}
