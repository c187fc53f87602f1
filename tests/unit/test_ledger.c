/* server/ledger: exactly once. The window of bits against a plain set of sequences. */
#include "tests/test.h"

#include <string.h>

#include "common/rng.h"
#include "server/ledger.h"

enum { A = 0xa, B = 0xb };

static void hello(struct ledger_entry *entry, uint64_t attempt, uint64_t incarnation,
                  uint64_t lowest, uint64_t lost) {
    uint64_t got = 77;
    ck_assert(ledger_hello(entry, attempt, incarnation, lowest, &got));
    ck_assert_uint_eq(got, lost);
}

/* Promise: a push is admitted once, however often and in whatever order it comes. */
START_TEST(repeat_and_reorder) {
    struct ledger_entry entry = {0};
    ck_assert_int_eq(ledger_push(&entry, A, 1), LEDGER_FENCED); /* nobody said hello */
    hello(&entry, 1, A, 1, 0);
    ck_assert_int_eq(ledger_push(&entry, A, 3), LEDGER_ADMIT);
    ck_assert_int_eq(ledger_push(&entry, A, 1), LEDGER_ADMIT);
    ck_assert_int_eq(ledger_push(&entry, A, 3), LEDGER_PENDING);
    ledger_apply(&entry, A, 3);
    ck_assert_int_eq(ledger_push(&entry, A, 3), LEDGER_APPLIED);
    ck_assert_int_eq(ledger_push(&entry, A, 1), LEDGER_PENDING);
    ck_assert_int_eq(ledger_push(&entry, A, 2), LEDGER_ADMIT);
    ledger_apply(&entry, A, 1);
    ledger_apply(&entry, A, 2);
    ck_assert_uint_eq(entry.floor, 3);
    for (uint64_t sequence = 1; sequence <= 3; sequence++)
        ck_assert_int_eq(ledger_push(&entry, A, sequence), LEDGER_APPLIED);
    ck_assert_uint_eq(entry.counted, 3);
}
END_TEST

/* Promise: what is beyond the window is refused, and it becomes admissible as the floor rises. */
START_TEST(window) {
    struct ledger_entry entry = {0};
    hello(&entry, 1, A, 1, 0);
    ck_assert_int_eq(ledger_push(&entry, A, LEDGER_WINDOW + 1), LEDGER_AHEAD);
    ck_assert_int_eq(ledger_push(&entry, A, UINT64_MAX), LEDGER_AHEAD);
    for (uint64_t sequence = LEDGER_WINDOW; sequence >= 2; sequence--) {
        ck_assert_int_eq(ledger_push(&entry, A, sequence), LEDGER_ADMIT);
        ledger_apply(&entry, A, sequence);
    }
    ck_assert_uint_eq(entry.floor, 0);
    ck_assert_int_eq(ledger_push(&entry, A, LEDGER_WINDOW + 1), LEDGER_AHEAD);
    ck_assert_int_eq(ledger_push(&entry, A, 1), LEDGER_ADMIT);
    ledger_apply(&entry, A, 1);
    ck_assert_uint_eq(entry.floor, LEDGER_WINDOW);
    ck_assert_int_eq(ledger_push(&entry, A, 2 * LEDGER_WINDOW), LEDGER_ADMIT);
}
END_TEST

/* Promise: a newer process takes the rank; the older one's pushes in flight count, but cannot pass
 * for the newer one's, and the older one is out for good. */
START_TEST(fencing) {
    struct ledger_entry entry = {0};
    uint64_t lost = 77;
    hello(&entry, 5, A, 1, 0);
    ck_assert(!ledger_hello(&entry, 5, B, 1, &lost));
    ck_assert(!ledger_hello(&entry, 4, B, 1, &lost));
    ck_assert_uint_eq(lost, 77);
    ck_assert_int_eq(ledger_push(&entry, A, 1), LEDGER_ADMIT);
    hello(&entry, 6, B, 1, 0);
    ck_assert_int_eq(ledger_push(&entry, A, 2), LEDGER_FENCED);
    ledger_apply(&entry, A, 1);
    ck_assert_uint_eq(entry.counted, 1);
    ck_assert_int_eq(ledger_push(&entry, B, 1), LEDGER_ADMIT);
    ledger_apply(&entry, B, 1);
    ck_assert_uint_eq(entry.counted, 2);
    ck_assert(!ledger_hello(&entry, 5, A, 1, &lost));
    /* A number given anew to the process that holds the rank loses nothing. */
    hello(&entry, 9, B, 1, 0);
    ck_assert_int_eq(ledger_push(&entry, B, 1), LEDGER_APPLIED);
    ck_assert(!ledger_hello(&entry, 8, A, 1, &lost));
}
END_TEST

/* Promise: a restored shard counts what it lost, and takes what the worker still has. */
START_TEST(restored) {
    struct ledger_entry entry = {0};
    hello(&entry, 1, A, 1, 0);
    for (uint64_t sequence = 1; sequence <= 10; sequence++)
        ledger_push(&entry, A, sequence);
    for (uint64_t sequence = 1; sequence <= 10; sequence++)
        if (sequence != 4)
            ledger_apply(&entry, A, sequence);
    struct ledger_entry saved = entry; /* 4 waits: the checkpoint does not know it */
    saved.pending = 0;
    for (uint64_t sequence = 11; sequence <= 30; sequence++) {
        ledger_push(&entry, A, sequence);
        ledger_apply(&entry, A, sequence);
    }
    entry = saved;
    hello(&entry, 1, A, 29, 1 + 18); /* 4, and 11 to 28 */
    ck_assert_uint_eq(entry.floor, 28);
    ck_assert_int_eq(ledger_push(&entry, A, 28), LEDGER_APPLIED);
    ck_assert_int_eq(ledger_push(&entry, A, 29), LEDGER_ADMIT);
    hello(&entry, 1, A, 1000, 970); /* 30 to 999; 29 waits here */
    ck_assert_int_eq(ledger_push(&entry, A, 1000), LEDGER_ADMIT);
}
END_TEST

/* The same rules on plain sets, no window of bits. */
enum { SEQUENCES = 700 };
struct model {
    uint64_t attempt, incarnation, given, counted;
    bool applied[SEQUENCES], pending[SEQUENCES];
};

static uint64_t model_floor(const struct model *m) {
    uint64_t floor = m->given;
    while (m->applied[floor + 1])
        floor++;
    return floor;
}

static uint64_t model_hello(struct model *m, uint64_t attempt, uint64_t incarnation,
                            uint64_t lowest) {
    if (m->incarnation != incarnation) {
        memset(m->applied, 0, sizeof m->applied);
        memset(m->pending, 0, sizeof m->pending);
        m->given = 0;
    }
    m->attempt = attempt;
    m->incarnation = incarnation;
    uint64_t lost = 0;
    for (uint64_t sequence = model_floor(m) + 1; sequence < lowest; sequence++)
        lost += !m->applied[sequence] && !m->pending[sequence];
    if (lowest > 0 && lowest - 1 > model_floor(m))
        m->given = lowest - 1;
    return lost;
}

static enum ledger_verdict model_push(struct model *m, uint64_t incarnation, uint64_t sequence) {
    if (m->incarnation != incarnation)
        return LEDGER_FENCED;
    if (sequence <= model_floor(m) || m->applied[sequence])
        return LEDGER_APPLIED;
    if (sequence > model_floor(m) + LEDGER_WINDOW)
        return LEDGER_AHEAD;
    if (m->pending[sequence])
        return LEDGER_PENDING;
    m->pending[sequence] = true;
    return LEDGER_ADMIT;
}

struct flight {
    uint64_t incarnation, sequence;
};

static void random_life(uint64_t seed) {
    uint64_t key = rng_key(seed, 0), draws = 0;
    struct ledger_entry entry = {0}, saved = {0};
    struct model m = {.incarnation = 0}, m_saved = m;
    struct flight flights[1024];
    size_t flying = 0;
    uint64_t incarnation = 1, attempt = 1;
#define DRAW(n) rng_below(rng_at(key, draws++), (n))
    hello(&entry, attempt, incarnation, 1, model_hello(&m, attempt, incarnation, 1));
    for (int i = 0; i < 200; i++) {
        uint64_t floor = model_floor(&m);
        switch (DRAW(12)) {
        case 0: { /* back to the checkpoint, and the worker comes again */
            entry = saved;
            m = m_saved;
            flying = 0;
            uint64_t lowest = DRAW(2) ? floor + 1 : model_floor(&m) + DRAW(90);
            if (lowest > SEQUENCES - 150)
                return;
            hello(&entry, attempt, incarnation, lowest,
                  model_hello(&m, attempt, incarnation, lowest));
            break;
        }
        case 1: /* a checkpoint, only of a ledger that somebody holds */
            saved = entry;
            saved.pending = 0;
            m_saved = m;
            memset(m_saved.pending, 0, sizeof m_saved.pending);
            break;
        case 2: /* a new process, now and then */
            if (DRAW(4) == 0) {
                attempt++;
                incarnation++;
                hello(&entry, attempt, incarnation, 1, model_hello(&m, attempt, incarnation, 1));
            }
            break;
        case 3:
        case 4:
        case 5: /* something in flight is applied */
            if (flying > 0) {
                size_t at = DRAW(flying);
                struct flight flight = flights[at];
                flights[at] = flights[--flying];
                ledger_apply(&entry, flight.incarnation, flight.sequence);
                m.counted++;
                if (flight.incarnation == m.incarnation) {
                    m.applied[flight.sequence] = true;
                    m.pending[flight.sequence] = false;
                }
            }
            break;
        default: {
            uint64_t who = DRAW(10) == 0 ? incarnation - 1 : incarnation;
            uint64_t spread = DRAW(4) ? 12 : 90;
            uint64_t sequence = 1 + (floor > 3 ? floor - 3 : 0) + DRAW(spread);
            if (sequence > SEQUENCES - 150)
                return;
            enum ledger_verdict verdict = ledger_push(&entry, who, sequence);
            ck_assert_msg(verdict == model_push(&m, who, sequence),
                          "seed %llu, step %d: sequence %llu: verdict %d", (unsigned long long)seed,
                          i, (unsigned long long)sequence, verdict);
            if (verdict == LEDGER_ADMIT)
                flights[flying++] = (struct flight){who, sequence};
        }
        }
        ck_assert_uint_eq(entry.floor, model_floor(&m));
        ck_assert_uint_eq(entry.counted, m.counted);
        ck_assert_uint_eq(entry.applied & entry.pending, 0);
    }
#undef DRAW
}

/* Promise: over thousands of lives with repeats, reordering, restores and new processes the window
 * says what plain sets say. */
START_TEST(random_lives) {
    for (uint64_t seed = 0; seed < TEST_REPEATS(5000); seed++)
        random_life(seed);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("ledger");
    TCase *tcase = tcase_create("ledger");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, repeat_and_reorder);
    tcase_add_test(tcase, window);
    tcase_add_test(tcase, fencing);
    tcase_add_test(tcase, restored);
    tcase_add_test(tcase, random_lives);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
