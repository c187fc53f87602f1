/* The line that `graphps train` draws of a run, as a log gets it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/train_display.h"
#include "tests/test.h"

static char line[1024];

/* What is printed for a status, in `line`. */
static void draw(const Graphps__Status *status) {
    FILE *file = tmpfile();
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    dup2(fileno(file), STDOUT_FILENO);
    struct train_display display;
    train_display_init(&display, 1000);
    train_display_update(&display, status, 2000);
    train_display_break(&display);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    rewind(file);
    line[fread(line, 1, sizeof line - 1, file)] = 0;
    fclose(file);
}

static void expect(const char *part) {
    ck_assert_msg(strstr(line, part), "no \"%s\" in: %s", part, line);
}

/* Promise: an accuracy stands beside the epoch it is of or names its own, and says so when nodes of
 * some workers are missing from it; what was not evaluated has none. */
START_TEST(accuracies_are_of_something) {
    Graphps__EpochStatus last = GRAPHPS__EPOCH_STATUS__INIT;
    Graphps__Status status = GRAPHPS__STATUS__INIT;
    status.state = (char *)"training";
    status.waiting_for = (char *)"";
    status.last = &last;
    status.epochs = 200;
    status.n_workers = 2;
    last.epoch = 110;
    last.train_loss = 0.25;
    last.train_accuracy = 0.9;
    last.workers = 2;
    draw(&status);
    expect("epoch 110/200  loss 0.2500  train 90.0 %  valid -  ");

    last.valid_accuracy = 0.675;
    last.valid_epoch = 104;
    last.valid_workers = 2;
    draw(&status);
    expect("  train 90.0 %  valid 67.5 % (epoch 104)  ");

    last.valid_epoch = 110;
    draw(&status);
    expect("  train 90.0 %  valid 67.5 %  ");

    last.workers = last.valid_workers = 1;
    draw(&status);
    expect("  train 90.0 % (of 1 of 2 workers)  valid 67.5 % (of 1 of 2 workers)  ");

    /* Another score is named; one that is not known is a dash. */
    last.workers = last.valid_workers = 2;
    status.metric = (char *)"macro_f1";
    last.train_macro_f1 = -1;
    last.valid_macro_f1 = 0.5;
    draw(&status);
    expect("  train -  valid 50.0 % (macro-F1)  ");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("train_display");
    TCase *tcase = tcase_create("train_display");
    tcase_add_test(tcase, accuracies_are_of_something);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
