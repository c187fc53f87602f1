/* A partitioning as a table, for `graphps partition` and `graphps inspect`. */
#pragma once

#include "worker/graph/partition.h"

void partition_print(const struct snapshot *snapshot, const struct partition_info *info);
