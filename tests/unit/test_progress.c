/* The progress of long commands, in a log; the bar needs a terminal and is the same numbers. */
#include <stdio.h>
#include <string.h>

#include "cli/progress.h"
#include "tests/test.h"

static const char *read_back(FILE *file) {
    static char text[2000];
    rewind(file);
    size_t len = fread(text, 1, sizeof text - 1, file);
    text[len] = 0;
    return text;
}

/* What ends within two seconds says nothing. */
START_TEST(test_short) {
    FILE *file = tmpfile();
    struct progress progress;
    progress_begin(&progress, file, "graphps import", "bytes", 1000);
    for (uint64_t now = 1000; now < 3000; now += 10)
        progress_tell(&progress, "edges", now, 10000, now);
    progress_end(&progress);
    ck_assert_str_eq(read_back(file), "");
    fclose(file);
}
END_TEST

/* What lasts gets a line every ten seconds, with rate and time to go of the stage it is in. */
START_TEST(test_lines) {
    FILE *file = tmpfile();
    struct progress progress;
    progress_begin(&progress, file, "graphps import", "bytes", 0);
    for (uint64_t now = 0; now <= 25000; now += 100) {
        if (now <= 20000) /* 50 kB a second of 2 MB */
            progress_tell_rows(&progress, "features", now * 50, 2000000, now * 3, now);
        else /* 1 kB a second, of unknown length */
            progress_tell(&progress, "edges", now - 20100, 0, now);
    }
    progress_tell(&progress, "edges", 12000, 0, 32100);
    progress_end(&progress);
    ck_assert_str_eq(read_back(file),
                     "graphps import: features  5 %  100.0 kB  50.0 kB/s  3.0k rows/s  ETA 0:38\n"
                     "graphps import: features  30 %  600.0 kB  50.0 kB/s  3.0k rows/s  ETA 0:28\n"
                     "graphps import: edges  1.9 kB  1.0 kB/s\n"
                     "graphps import: edges  12.0 kB  1.0 kB/s\n");
    fclose(file);
}
END_TEST

/* A stage that cannot tell how far it is. */
START_TEST(test_time) {
    FILE *file = tmpfile();
    struct progress progress;
    progress_begin(&progress, file, "graphps partition", "bytes", 0);
    for (uint64_t now = 0; now <= 15000; now += 100)
        progress_tell_time(&progress, "METIS is cutting", now);
    for (uint64_t now = 15100; now <= 30000; now += 100)
        progress_tell_time(&progress, "checksums", now);
    progress_end(&progress);
    ck_assert_str_eq(read_back(file), "graphps partition: METIS is cutting  0:02\n"
                                      "graphps partition: METIS is cutting  0:12\n"
                                      "graphps partition: checksums  0:07\n");
    fclose(file);
}
END_TEST

/* Other units, hours to go, and a count beyond what was expected. */
START_TEST(test_numbers) {
    FILE *file = tmpfile();
    struct progress progress;
    progress_begin(&progress, file, "x", "nodes", 0);
    progress_tell(&progress, "all", 0, 4000000, 0);
    progress_tell(&progress, "all", 1000, 4000000, 10000);
    progress_tell(&progress, "all", 5000000, 4000000, 20000);
    progress_end(&progress);
    ck_assert_str_eq(read_back(file), "x: all  0 %  1.0k nodes  100 nodes/s  ETA 11:06:30\n"
                                      "x: all  100 %  5.0M nodes  250.0k nodes/s  ETA 0:00\n");
    fclose(file);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("progress");
    TCase *tcase = tcase_create("progress");
    tcase_add_test(tcase, test_short);
    tcase_add_test(tcase, test_lines);
    tcase_add_test(tcase, test_time);
    tcase_add_test(tcase, test_numbers);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
