/* worker/row_plan: rows dealt out as the shards want them. */
#include "tests/test.h"

#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "proto/layout.h"
#include "worker/row_plan.h"

enum { COUNT_MAX = 5000 };

/* Promise: each node is in just the stripe of the shard where its row lives, and the rows of a
 * stripe ascend; whatever was planned before. */
START_TEST(dealt_out) {
    static const struct {
        size_t count, shards;
        int64_t stretch;
    } rows[] = {{COUNT_MAX, 3, 1}, {7, 3, 1 << 16}, {0, 3, 1}, {COUNT_MAX, 256, 107001}, {1, 1, 1}};
    static int64_t nodes[COUNT_MAX];
    struct row_plan plan = {0};
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        size_t count = rows[r].count, shards = rows[r].shards;
        for (size_t i = 0; i < count; i++) /* 7919 is prime: a permutation */
            nodes[i] = (int64_t)(i * 7919 % COUNT_MAX) * rows[r].stretch;
        row_plan_make(&plan, nodes, count, shards);
        ck_assert_uint_eq(plan.starts[0], 0);
        ck_assert_uint_eq(plan.starts[shards * LAYOUT_STRIPES], count);
        _cleanup_(mem_free_p) bool *seen = mem_array(count, sizeof *seen);
        for (uint32_t s = 0; s < shards * LAYOUT_STRIPES; s++) {
            int64_t last = -1;
            for (uint32_t i = plan.starts[s]; i < plan.starts[s + 1]; i++) {
                int64_t node = nodes[plan.order[i]];
                uint32_t shard = layout_row_shard((uint64_t)node, (uint32_t)shards);
                bool right = shard * LAYOUT_STRIPES + layout_row_stripe((uint64_t)node) == s &&
                             node > last && !seen[plan.order[i]];
                ck_assert_msg(right, "row %zu: node %lld in stripe %u after %lld", r,
                              (long long)node, s, (long long)last);
                seen[plan.order[i]] = true;
                last = node;
            }
        }
    }
    row_plan_done(&plan);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("row_plan");
    TCase *tests = tcase_create("row_plan");
    tcase_add_test(tests, dealt_out);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
