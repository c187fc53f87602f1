/* The catalog: what it keeps, how an older one becomes today's, many processes at once; and the
 * claims that keep a snapshot from being removed. */
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/file.h"
#include "common/mem.h"
#include "tests/graphs.h"
#include "tests/test.h"
#include "worker/graph/catalog.h"
#include "worker/graph/claim.h"
#include "worker/graph/snapshot.h"

#define ROWS_MAX 4000

static int expect_row(void *ctx, int columns, char **values, char **names) {
    char *text = ctx;
    for (int i = 0; i < columns; i++)
        sprintf(text + strlen(text), "%s%s", i ? "|" : "", values[i] ? values[i] : "NULL");
    strcat(text, ";");
    return 0;
}

/* What SQL finds, rows ended by ; */
static const char *query(const char *root, const char *sql) {
    static char text[ROWS_MAX];
    sqlite3 *db;
    text[0] = 0;
    ck_assert_int_eq(sqlite3_open(test_path(root, "catalog.db"), &db), SQLITE_OK);
    ck_assert_msg(sqlite3_exec(db, sql, expect_row, text, NULL) == SQLITE_OK, "%s: %s", sql,
                  sqlite3_errmsg(db));
    sqlite3_close(db);
    return text;
}

static void put_run(const char *root, const char *dir, const char *state, double valid,
                    double test) {
    const struct catalog_run run = {.job = "it's",
                                    .dir = dir,
                                    .snapshot = "g@1.0.0",
                                    .digest = "d1",
                                    .partition = "2x1",
                                    .state = state,
                                    .valid_score = valid,
                                    .test_score = test,
                                    .metric = isnan(valid) ? NULL : "micro_f1"};
    struct error err = {0};
    ck_assert_msg(catalog_put_run(root, &run, &err) == 0, "%s", err.text);
}

static void read_all(const char *root, struct catalog *ret) {
    struct error err = {0};
    ck_assert_msg(catalog_read(root, ret, &err) == 0, "%s", err.text);
}

/* One row for each snapshot, partitioning, run and model; a later state replaces the earlier; what
 * is unknown is NULL; paths below the root are kept without it. */
START_TEST(test_rows) {
    const char *root = test_tmpdir();
    struct error err = {0};
    struct catalog catalog;
    const char *dir = graphs_partitioned(root, "g", 40, 4, 4, 5, 1, 2, 1);
    struct snapshot *s = NULL;
    ck_assert_int_eq(snapshot_open(dir, false, &s, &err), 0);
    _cleanup_(mem_free_p) char *row =
        mem_printf("g|1.0.0|%s|40|%d|snapshots/g@1.0.0|NULL|NULL;", s->digest, (int)s->edges);
    ck_assert_str_eq(query(root, "SELECT name, version, digest, nodes, edges, dir, parent,"
                                 " parent_digest FROM snapshots"),
                     row);
    _cleanup_(mem_free_p) char *part = mem_printf("%s/partitions/2x1", dir);
    ck_assert_int_eq(catalog_add_partition(root, part, &err), 0);
    query(root, "UPDATE partitions SET created = 'then'");
    ck_assert_int_eq(catalog_add_partition(root, part, &err), 0);
    _cleanup_(mem_free_p) char *cut =
        mem_printf("g|1.0.0|2x1|%s|2|1|1|snapshots/g@1.0.0/partitions/2x1|then;", s->digest);
    ck_assert_str_eq(query(root, "SELECT name, version, partition, digest, parts, halo, seed, dir,"
                                 " created FROM partitions"),
                     cut);
    /* One outside of the root is none of its business. */
    ck_assert_int_eq(catalog_add_partition(test_tmpdir(), part, &err), 0);
    snapshot_close(s);

    _cleanup_(mem_free_p) char *run_dir = mem_printf("%s/runs/a", root);
    ck_assert_int_eq(dir_make(run_dir, &err), 0);
    put_run(root, run_dir, "running", NAN, NAN);
    const char *runs = "SELECT dir, job, snapshot, digest, partition, state, valid_score,"
                       " test_score, metric, ended IS NULL FROM runs";
    ck_assert_str_eq(query(root, runs), "runs/a|it's|g@1.0.0|d1|2x1|running|NULL|NULL|NULL|1;");
    query(root, "UPDATE runs SET started = 'then'");
    put_run(root, run_dir, "interrupted", NAN, NAN);
    put_run(root, run_dir, "running", NAN, NAN); /* resumed: it is the same run */
    put_run(root, run_dir, "done", 0.5, 0.25);
    ck_assert_str_eq(query(root, runs), "runs/a|it's|g@1.0.0|d1|2x1|done|0.5|0.25|micro_f1|0;");
    ck_assert_str_eq(query(root, "SELECT started FROM runs"), "then;");
    _cleanup_(mem_free_p) char *path = mem_printf("%s/m", run_dir);
    const struct catalog_model model = {.path = path,
                                        .job = "it's",
                                        .md5 = "00ff",
                                        .snapshot = "g@1.0.0",
                                        .valid_score = 0.5,
                                        .test_score = NAN};
    ck_assert_int_eq(catalog_add_model(root, &model, &err), 0);
    ck_assert_str_eq(query(root, "SELECT path, md5, snapshot, digest, valid_score,"
                                 " test_score FROM models"),
                     "runs/a/m|00ff|g@1.0.0|NULL|0.5|NULL;");

    /* A run that is moved aside makes room for another. */
    _cleanup_(mem_free_p) char *aside = mem_printf("%s/runs/a.old", root);
    ck_assert_int_eq(catalog_move_run(root, run_dir, aside, &err), 0);
    put_run(root, run_dir, "running", NAN, NAN);
    ck_assert_str_eq(query(root, "SELECT dir, state FROM runs ORDER BY dir"),
                     "runs/a|running;runs/a.old|done;");
    ck_assert_str_eq(query(root, "SELECT path FROM models"), "runs/a.old/m;");
    ck_assert_str_eq(query(root, "SELECT started = 'then' FROM runs ORDER BY dir"), "0;1;");
    put_run(root, run_dir, "done", 1, 1);
    query(root, "UPDATE runs SET started = 'then'");
    put_run(root, run_dir, "running", NAN, NAN); /* done, so this is another run */
    ck_assert_str_eq(query(root, "SELECT started = 'then' FROM runs ORDER BY dir"), "0;1;");

    read_all(root, &catalog);
    ck_assert_uint_eq(catalog.snapshot_count, 1);
    ck_assert_str_eq(catalog.snapshots[0].dir, dir);
    ck_assert_uint_eq(catalog.partition_count, 1);
    ck_assert_str_eq(catalog.partitions[0].dir, part);
    ck_assert_uint_eq(catalog.run_count, 2);
    ck_assert_uint_eq(catalog.model_count, 1);
    ck_assert_str_eq(catalog.models[0].path, test_path(aside, "m"));
    ck_assert(isnan(catalog.models[0].test_score) && catalog.models[0].valid_score == 0.5);
    catalog_done(&catalog);

    ck_assert_int_eq(catalog_forget(root, "g", "1.0.0", "3x1", &err), 0);
    ck_assert_str_eq(query(root, "SELECT count(*) FROM partitions"), "1;");
    ck_assert_int_eq(catalog_forget(root, "g", "1.0.0", "2x1", &err), 0);
    ck_assert_str_eq(query(root, "SELECT (SELECT count(*) FROM partitions), count(*) FROM "
                                 "snapshots"),
                     "0|1;");
    ck_assert_int_eq(catalog_add_partition(root, part, &err), 0);
    ck_assert_int_eq(catalog_forget(root, "g", "1.0.0", NULL, &err), 0);
    ck_assert_str_eq(query(root, "SELECT (SELECT count(*) FROM partitions), (SELECT count(*) FROM "
                                 "snapshots), count(*) FROM runs"),
                     "0|0|2;");
    test_write_file(test_path(root, "catalog.db"), "no database at all, but long enough to see",
                    42);
    ck_assert_int_eq(catalog_add_model(root, &model, &err), ERR_IO);
    ck_assert_ptr_nonnull(strstr(err.text, "catalog.db: "));
    ck_assert_int_eq(catalog_read(root, &catalog, &err), ERR_IO);
}
END_TEST

/* A catalog as it was written before schemas had numbers. */
static const char old_schema[] =
    "CREATE TABLE snapshots(name TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL,"
    " nodes INTEGER NOT NULL, edges INTEGER NOT NULL, dir TEXT NOT NULL, created TEXT NOT NULL,"
    " PRIMARY KEY(name, version));"
    "CREATE TABLE runs(dir TEXT PRIMARY KEY, job TEXT NOT NULL, snapshot TEXT NOT NULL,"
    " state TEXT NOT NULL, valid_accuracy REAL, test_accuracy REAL, started TEXT NOT NULL,"
    " updated TEXT NOT NULL);"
    "CREATE TABLE models(path TEXT PRIMARY KEY, job TEXT NOT NULL, md5 TEXT NOT NULL,"
    " valid_accuracy REAL, test_accuracy REAL, created TEXT NOT NULL);";

/* In the working directory, where data.root is "data", as it is by default. */
static void make_old(void) {
    struct error err = {0};
    const char *dir = test_tmpdir();
    ck_assert_int_eq(chmod(dir, 0755), 0);
    ck_assert_int_eq(chdir(dir), 0);
    ck_assert_int_eq(dir_make("data/runs/a", &err), 0);
    ck_assert_int_eq(dir_make("outside", &err), 0);
    query("data", old_schema);
    query("data",
          "INSERT INTO snapshots VALUES('g', '1.0.0', 'd1', 40, 80, 'data/snapshots/g@1.0.0',"
          " '2024-02-01T00:00:00Z');"
          "INSERT INTO runs VALUES('data/runs/a', 'j', 'g@1.0.0', 'done', 0.5, 0.25,"
          " '2024-03-01T00:00:00Z', '2024-03-02T00:00:00Z');"
          /* of what was there under that name before it was replaced in February */
          "INSERT INTO runs VALUES('outside', 'j', 'g@1.0.0', 'running', NULL, NULL,"
          " '2024-01-01T00:00:00Z', '2024-01-01T00:00:00Z');"
          "INSERT INTO models VALUES('data/runs/a/model.safetensors', 'j', 'ff', 0.5, NULL,"
          " '2024-03-02T00:00:00Z');");
}

static void check_upgraded(void) {
    struct catalog catalog;
    read_all("data", &catalog);
    ck_assert_uint_eq(catalog.snapshot_count, 1);
    ck_assert_str_eq(catalog.snapshots[0].digest, "d1");
    ck_assert_ptr_null(catalog.snapshots[0].parent);
    ck_assert_str_eq(catalog.snapshots[0].dir, "data/snapshots/g@1.0.0");
    ck_assert_uint_eq(catalog.run_count, 2);
    ck_assert_int_eq(catalog.runs[0].dir[0], '/');
    ck_assert_str_eq(strrchr(catalog.runs[0].dir, '/'), "/outside");
    ck_assert_ptr_null(catalog.runs[0].digest);
    ck_assert_ptr_null(catalog.runs[0].ended);
    ck_assert_str_eq(catalog.runs[1].dir, "data/runs/a");
    ck_assert_str_eq(catalog.runs[1].digest, "d1");
    ck_assert_str_eq(catalog.runs[1].ended, "2024-03-02T00:00:00Z");
    ck_assert(catalog.runs[1].valid_score == 0.5);
    ck_assert_str_eq(catalog.runs[1].metric, "accuracy");
    ck_assert_ptr_null(catalog.runs[0].metric);
    ck_assert_uint_eq(catalog.model_count, 1);
    ck_assert_str_eq(catalog.models[0].path, "data/runs/a/model.safetensors");
    ck_assert_str_eq(catalog.models[0].snapshot, "g@1.0.0");
    ck_assert_str_eq(catalog.models[0].digest, "d1");
    ck_assert_uint_eq(catalog.partition_count, 0);
    catalog_done(&catalog);
}

/* It is upgraded once, by whoever comes first, and says the same from then on. */
START_TEST(test_old_catalog) {
    make_old();
    check_upgraded();
    ck_assert_str_eq(query("data", "PRAGMA user_version"), "3;");
    check_upgraded();
    put_run("data", "data/runs/a", "running", NAN, NAN);
    ck_assert_str_eq(query("data", "SELECT count(*) FROM runs"), "2;");

    struct error err = {0};
    struct catalog catalog;
    query("data", "PRAGMA user_version = 4");
    ck_assert_int_eq(catalog_read("data", &catalog, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text,
                                 "data/catalog.db: was written by a newer graphps (schema "
                                 "4, this one knows up to 3)"));
    ck_assert_int_eq(catalog_forget("data", "g", "1.0.0", NULL, &err), ERR_FORMAT);
    ck_assert_str_eq(query("data", "SELECT count(*) FROM snapshots"), "1;");
}
END_TEST

/* Where it cannot be written it is read all the same, and stays as it is. */
START_TEST(test_old_catalog_read_only) {
    make_old();
    ck_assert_int_eq(chmod("data/catalog.db", 0444), 0);
    ck_assert_int_eq(chmod("data", 0555), 0);
    pid_t pid = fork();
    if (pid == 0) {
        /* Root may write everywhere. */
        if (geteuid() == 0 && setuid(65534) != 0)
            _exit(2);
        struct catalog catalog;
        struct error err = {0};
        if (catalog_forget("data", "g", "1.0.0", NULL, &err) != ERR_IO)
            _exit(3);
        if (catalog_read("data", &catalog, &err) < 0) {
            fprintf(stderr, "%s\n", err.text);
            _exit(4);
        }
        bool right = catalog.run_count == 2 && catalog.models[0].digest &&
                     strcmp(catalog.models[0].digest, "d1") == 0;
        _exit(right ? 0 : 5);
    }
    int status = 0;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(chmod("data", 0755), 0);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    ck_assert_str_eq(query("data", "PRAGMA user_version"), "0;");
}
END_TEST

/* Many processes upgrade, write and read at once: nothing is lost, and nobody is told to go away.
 */
START_TEST(test_many_processes) {
    enum { PROCESSES = 6, RUNS = 15 };
    make_old();
    pid_t pids[PROCESSES];
    for (int p = 0; p < PROCESSES; p++) {
        pids[p] = fork();
        if (pids[p] != 0)
            continue;
        for (int k = 0; k < RUNS; k++) {
            char dir[64];
            struct catalog catalog;
            snprintf(dir, sizeof dir, "/nowhere/%d-%d", p, k);
            put_run("data", dir, "running", NAN, NAN);
            read_all("data", &catalog);
            ck_assert_uint_ge(catalog.run_count, 3 + (size_t)k);
            catalog_done(&catalog);
        }
        _exit(0);
    }
    for (int p = 0; p < PROCESSES; p++) {
        int status = 0;
        ck_assert_int_eq(waitpid(pids[p], &status, 0), pids[p]);
        ck_assert_int_eq(status, 0);
    }
    ck_assert_str_eq(query("data", "SELECT count(*) FROM runs"), "92;");
    query("data", "DELETE FROM runs WHERE dir LIKE '/nowhere/%'");
    check_upgraded();
}
END_TEST

/* Whoever uses a directory keeps it from who wants it alone, and the other way round, until it lets
 * go; to ask takes nothing. */
START_TEST(test_claims) {
    const char *dir = test_tmpdir();
    struct error err = {0};
    int one, two, alone;
    test_write_file(test_path(dir, "manifest.json"), "{}", 2);
    ck_assert(!claim_held(dir));
    ck_assert_int_eq(claim_take(dir, &one, &err), 0);
    ck_assert_int_eq(claim_take(dir, &two, &err), 0);
    ck_assert_int_ge(one, 0);
    ck_assert(claim_held(dir));
    ck_assert_int_eq(claim_take_alone(dir, &alone, &err), ERR_IN_USE);
    close(one);
    ck_assert_int_eq(claim_take_alone(dir, &alone, &err), ERR_IN_USE);
    close(two);
    ck_assert(!claim_held(dir));
    ck_assert_int_eq(claim_take_alone(dir, &alone, &err), 0);
    ck_assert_int_eq(claim_take(dir, &one, &err), ERR_IN_USE);
    ck_assert_ptr_nonnull(strstr(err.text, "is just being removed"));
    close(alone);
    ck_assert_int_eq(claim_take(dir, &one, &err), 0);
    ck_assert_int_eq(remove(test_path(dir, "manifest.json")), 0);
    ck_assert_int_eq(claim_take(dir, &two, &err), ERR_NOT_FOUND);
    close(one);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("catalog");
    TCase *tcase = tcase_create("catalog");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_rows);
    tcase_add_test(tcase, test_old_catalog);
    tcase_add_test(tcase, test_old_catalog_read_only);
    tcase_add_test(tcase, test_many_processes);
    tcase_add_test(tcase, test_claims);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
