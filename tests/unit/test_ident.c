/* Who am I: every source of a shard's or rank's number, in its order, strictly read. */
#include <stdlib.h>
#include <string.h>

#include "common/ident.h"
#include "tests/test.h"

static void expect(enum ident_kind kind, const char *argument, const char *host_name, int number) {
    struct error err = {0};
    int got = -1;
    ck_assert_msg(ident_find(kind, argument, host_name, 4, &got, &err) == 0, "%s", err.text);
    ck_assert_int_eq(got, number);
}

static void refuse(enum ident_kind kind, const char *argument, const char *host_name,
                   const char *cause) {
    struct error err = {0};
    int got = -7;
    ck_assert_int_eq(ident_find(kind, argument, host_name, 4, &got, &err), ERR_USAGE);
    ck_assert_msg(strstr(err.text, cause), "%s\nwithout %s", err.text, cause);
    ck_assert_int_eq(got, -7); /* untouched */
}

static void clear_variables(void) {
    unsetenv("GRAPHPS_SHARD");
    unsetenv("GRAPHPS_RANK");
    unsetenv("JOB_COMPLETION_INDEX");
}

/* Command line, own variable, JOB_COMPLETION_INDEX (ranks only), host name: the first there counts.
 */
START_TEST(sources_in_their_order) {
    clear_variables();
    expect(IDENT_SHARD, NULL, "graphps-server-3", 3);
    expect(IDENT_RANK, NULL, "graphps-worker-2.graphps.ns.svc", 2);
    setenv("JOB_COMPLETION_INDEX", "1", 1);
    expect(IDENT_SHARD, NULL, "graphps-server-3", 3);
    expect(IDENT_RANK, NULL, "graphps-worker-2", 1);
    setenv("GRAPHPS_SHARD", "2", 1);
    setenv("GRAPHPS_RANK", "0", 1);
    expect(IDENT_SHARD, NULL, "graphps-server-3", 2);
    expect(IDENT_RANK, NULL, "graphps-worker-2", 0);
    expect(IDENT_SHARD, "1", "graphps-server-3", 1);
    expect(IDENT_RANK, "3", "graphps-worker-2", 3);
}
END_TEST

/* A wrong number is refused naming where it came from; a later source never hides it. */
START_TEST(wrong_numbers_name_their_source) {
    static const char *const wrong[] = {"4",   "-1",  "",    " 1",         "1 ",
                                        "one", "0x1", "1.0", "99999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        clear_variables();
        setenv("JOB_COMPLETION_INDEX", wrong[i], 1);
        refuse(IDENT_RANK, NULL, "pod-1", "JOB_COMPLETION_INDEX: expected a number from 0 to 3");
        setenv("GRAPHPS_RANK", wrong[i], 1);
        setenv("JOB_COMPLETION_INDEX", "1", 1);
        refuse(IDENT_RANK, NULL, "pod-1", "GRAPHPS_RANK: expected a number from 0 to 3");
        setenv("GRAPHPS_SHARD", wrong[i], 1);
        refuse(IDENT_SHARD, NULL, "pod-1", "GRAPHPS_SHARD: expected a number from 0 to 3");
        setenv("GRAPHPS_RANK", "1", 1);
        refuse(IDENT_RANK, wrong[i], "pod-1", "--rank: expected a number from 0 to 3");
        refuse(IDENT_SHARD, wrong[i], "pod-1", "--shard: expected a number from 0 to 3");
    }
    clear_variables();
    refuse(IDENT_SHARD, NULL, "pod-4",
           "found \"pod-4\"; give --shard or the variable GRAPHPS_SHARD");
}
END_TEST

/* A host name that is no pod's gives no number by accident; the error names every way. */
START_TEST(no_number_at_all) {
    static const char *const names[] = {"",      "host",    "-1",   "host1",
                                        "host-", "host-01", "a-1b", "host.b-1"};
    clear_variables();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        refuse(IDENT_SHARD, NULL, names[i], "give --shard or the variable GRAPHPS_SHARD (");
        refuse(IDENT_RANK, NULL, names[i],
               "give --rank or the variable GRAPHPS_RANK or JOB_COMPLETION_INDEX");
    }
}
END_TEST

/* The public pair reads the same sources. */
START_TEST(public_functions) {
    int number = -1;
    clear_variables();
    ck_assert_int_eq(ident_shard("1", 2, &number, NULL), 0);
    ck_assert_int_eq(number, 1);
    setenv("GRAPHPS_RANK", "0", 1);
    ck_assert_int_eq(ident_rank(NULL, 1, &number, NULL), 0);
    ck_assert_int_eq(number, 0);
    ck_assert_int_eq(ident_rank("1", 1, &number, NULL), ERR_USAGE);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("ident");
    TCase *tests = tcase_create("ident");
    tcase_add_test(tests, sources_in_their_order);
    tcase_add_test(tests, wrong_numbers_name_their_source);
    tcase_add_test(tests, no_number_at_all);
    tcase_add_test(tests, public_functions);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
