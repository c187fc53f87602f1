/* Counter-based random numbers: the published sequence, the same at any order, even and apart. */
#include <stdbool.h>

#include "common/rng.h"
#include "tests/test.h"

/* Under key 0 the counter gives SplitMix64's published sequence of seed 0. */
START_TEST(test_known) {
    static const uint64_t wanted[] = {0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f,
                                      0xf88bb8a8724c81ec};
    for (uint64_t i = 4; i-- > 0;)
        ck_assert_uint_eq(rng_at(0, i), wanted[i]);
}
END_TEST

/* Floats lie in [0, 1) and fill it evenly: chi-square over 256 cells (mean 255, deviation 22.6). */
START_TEST(test_float) {
    enum { CELLS = 256, N = 256000 };
    static int cells[CELLS];
    uint64_t key = rng_key(7, 3);
    for (uint64_t i = 0; i < N; i++) {
        float x = rng_float(rng_at(key, i));
        ck_assert(x >= 0 && x < 1);
        cells[(int)(x * CELLS)]++;
    }
    double chi = 0;
    for (int i = 0; i < CELLS; i++) {
        double off = cells[i] - (double)N / CELLS;
        chi += off * off / ((double)N / CELLS);
    }
    ck_assert_msg(chi > 150 && chi < 370, "chi-square %f", chi);
    ck_assert(rng_float(UINT64_MAX) < 1);
    ck_assert(rng_float(0) == 0);
}
END_TEST

/* rng_below stays below, reaches both ends, and is even. */
START_TEST(test_below) {
    int counts[7] = {0};
    uint64_t key = rng_key(7, 4);
    for (uint64_t i = 0; i < 70000; i++)
        counts[rng_below(rng_at(key, i), 7)]++;
    for (int i = 0; i < 7; i++)
        ck_assert_msg(counts[i] > 9600 && counts[i] < 10400, "%d: %d", i, counts[i]);
    ck_assert_uint_eq(rng_below(UINT64_MAX, 1), 0);
    ck_assert_uint_eq(rng_below(UINT64_MAX, UINT64_MAX), UINT64_MAX - 1);
    ck_assert_uint_eq(rng_below(0, UINT64_MAX), 0);
}
END_TEST

/* Neighbouring seeds and streams share nothing: each bit of their numbers agrees half of the time.
 */
START_TEST(test_streams) {
    const uint64_t keys[] = {rng_key(0, 0), rng_key(0, 1), rng_key(1, 0), rng_key(1, 1),
                             rng_key(UINT64_MAX, UINT64_MAX)};
    enum { KEYS = sizeof keys / sizeof keys[0], N = 4096 };
    for (int a = 0; a < KEYS; a++)
        for (int b = 0; b < a; b++) {
            int same = 0;
            for (uint64_t i = 0; i < N; i++)
                same += 64 - __builtin_popcountll(rng_at(keys[a], i) ^ rng_at(keys[b], i));
            /* Mean 131072, deviation 256. */
            ck_assert_msg(same > 131072 - 1500 && same < 131072 + 1500, "%d, %d: %d", a, b, same);
        }
}
END_TEST

/* Incarnations are never 0, and two are never the same. */
START_TEST(test_entropy) {
    uint64_t before = rng_entropy();
    for (int i = 0; i < 100; i++) {
        uint64_t now = rng_entropy();
        ck_assert(now != 0 && now != before);
        before = now;
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("rng");
    TCase *tcase = tcase_create("rng");
    tcase_add_test(tcase, test_known);
    tcase_add_test(tcase, test_float);
    tcase_add_test(tcase, test_below);
    tcase_add_test(tcase, test_streams);
    tcase_add_test(tcase, test_entropy);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
