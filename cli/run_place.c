/* The run's directory and what it was made from. */
#include "cli/run_place.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/job_plan.h"
#include "cli/model_file.h"
#include "cli/partition_cut.h"
#include "common/file.h"
#include "common/mem.h"
#include "common/model_spec.h"
#include "server/coordinator.h"
#include "worker/graph/catalog.h"
#include "worker/graph/claim.h"

void run_place_init(struct run_place *place, const struct config *config, const char *command) {
    *place =
        (struct run_place){.config = config, .command = command, .lock_fd = -1, .claims = {-1, -1}};
}

void run_place_done(struct run_place *place, bool begun) {
    const char *dir = place->config->job_dir;
    _cleanup_(mem_free_p) char *path = mem_printf("%s.lock", dir);
    if (!begun && place->made_dir && rmdir(dir) == 0)
        unlink(path);
    mem_free(place->snapshot);
    mem_free(place->digest);
    mem_free(place->partition);
    for (size_t i = 0; i < ARRAY_LEN(place->claims); i++)
        if (place->claims[i] >= 0)
            close(place->claims[i]);
    if (place->lock_fd >= 0)
        close(place->lock_fd);
}

/* A disk that fails or is full is one thing, a directory that cannot be ours another. */
static int lock_fault(const char *dir, int why, const char *text, struct error *reterr) {
    if (why == EIO || why == ENOSPC || why == EDQUOT || why == ENOMEM || why == EMFILE ||
        why == ENFILE)
        return error_set(reterr, ERR_IO, "%s", text);
    return error_set(reterr, ERR_CONFIG,
                     "%s; the run's directory is %s: set job.dir to one that you can write to, "
                     "with room for a .lock file beside it",
                     text, dir);
}

/* Did another launcher remove, as run_place_done does, what we have locked since? */
static bool lock_is_stale(int fd, const char *path) {
    struct stat locked, named;
    return fstat(fd, &locked) == 0 && (stat(path, &named) < 0 || named.st_ino != locked.st_ino ||
                                       named.st_dev != locked.st_dev);
}

int run_place_lock(struct run_place *place, struct error *reterr) {
    const char *dir = place->config->job_dir;
    struct error err = {0};
    errno = 0;
    bool made_dir = !file_exists(dir);
    if (dir_make(dir, &err) < 0)
        return lock_fault(dir, errno, error_text(&err), reterr);
    _cleanup_(mem_free_p) char *path = mem_printf("%s.lock", dir);
    place->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (place->lock_fd < 0 || access(dir, W_OK | X_OK) < 0) {
        int why = errno;
        error_set(&err, ERR_IO, "cannot write %s: %s", place->lock_fd < 0 ? path : dir,
                  strerror(why));
        return lock_fault(dir, why, error_text(&err), reterr);
    }
    if (flock(place->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return error_set(reterr, ERR_IN_USE, "another graphps train runs this job (%s is locked)",
                         path);
    if (lock_is_stale(place->lock_fd, path)) {
        close(place->lock_fd);
        return run_place_lock(place, reterr);
    }
    place->made_dir = made_dir;
    return 0;
}

/* A run knows the contents it was trained on, not only their name. */
static int check_resumed(const struct run_place *place, const char *digest, struct error *reterr) {
    const struct config *config = place->config;
    struct catalog catalog;
    char was[128] = "";
    if (!digest[0] || strcmp(digest, place->digest) == 0)
        return 0;
    char *dir = realpath(config->job_dir, NULL);
    if (catalog_read(config->data_root, &catalog, NULL) == 0) {
        for (size_t i = 0; i < catalog.run_count; i++) {
            const struct catalog_run *row = &catalog.runs[i];
            char *at = realpath(row->dir, NULL);
            if (dir && at && strcmp(at, dir) == 0 && row->digest &&
                strcmp(row->digest, digest) == 0)
                snprintf(was, sizeof was, "%s, ", row->snapshot);
            free(at);
        }
        catalog_done(&catalog);
    }
    free(dir);
    return error_set(reterr, ERR_CONFIG,
                     "the interrupted run in %s was trained on another snapshot (%sdigest %s) than "
                     "data.snapshot \"%s\" is now (%s, digest %s); name the one it began with, or "
                     "give --fresh to begin anew",
                     config->job_dir, was, digest, config->data_snapshot, place->snapshot,
                     place->digest);
}

static bool has_files(const char *dir) {
    char **names = NULL;
    size_t count = 0;
    if (dir_list(dir, &names, &count, NULL) < 0)
        return false;
    dir_list_free(names, count);
    return count > 0;
}

/* Goes an earlier run on, or is what it left in the way? */
static int look_at_dir(struct run_place *place, bool fresh, struct error *reterr) {
    const char *dir = place->config->job_dir;
    _cleanup_(mem_free_p) char *result = mem_printf("%s/result.json", dir);
    _cleanup_(mem_free_p) char *checkpoints = mem_printf("%s/checkpoints", dir);
    if (!file_exists(checkpoints) && !file_exists(result))
        return 0;
    if (file_exists(result) || fresh) {
        place->to_begin = true;
        return 0;
    }
    uint64_t generation = 0;
    char digest[64] = "";
    struct error why = {0};
    json_t *state = NULL;
    int r = model_file_generation(dir, &generation, digest, &state, &why);
    if (r == 0) {
        r = check_resumed(place, digest, reterr);
        if (r == 0)
            r = coordinator_check_model(place->config, state, reterr);
        json_decref(state);
        if (r < 0)
            return r;
    }
    if (r == ERR_NOT_FOUND)
        printf("the interrupted run in %s left no complete checkpoint to resume: it begins anew\n",
               dir);
    else if (r < 0)
        fprintf(stderr,
                "%s: warning: no checkpoint of the interrupted run in %s can be used, it begins "
                "anew: %s\n",
                place->command, dir, error_text(&why));
    else
        printf("resuming the interrupted run in %s from checkpoint %lu (--fresh starts anew)\n",
               dir, (unsigned long)generation);
    place->resumed = r == 0;
    /* Half of a generation may be what another machine's half is to be brought to. */
    place->to_begin = r < 0 && has_files(checkpoints);
    if (r == 0)
        model_file_warn(place->command, dir, false, generation);
    return 0;
}

/* A run that has a result, or one that shall not be resumed, is moved aside, never deleted; the
 * catalog's record goes with it. */
static int move_aside(const struct run_place *place, struct error *reterr) {
    const char *dir = place->config->job_dir;
    char stamp[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%S", gmtime_r(&now, &utc));
    _cleanup_(mem_free_p) char *aside = NULL;
    for (int i = 0; !aside || file_exists(aside); i++) {
        mem_free(aside);
        aside = i == 0 ? mem_printf("%s.%s", dir, stamp) : mem_printf("%s.%s.%d", dir, stamp, i);
    }
    if (rename(dir, aside) < 0)
        return error_set(reterr, ERR_IO, "cannot move %s to %s: %s", dir, aside, strerror(errno));
    printf("the previous run was moved to %s\n", aside);
    int r = dir_make(dir, reterr);
    struct error catalog = {0};
    if (r == 0 && catalog_move_run(place->config->data_root, dir, aside, &catalog) < 0)
        fprintf(stderr, "%s: warning: the catalog was not updated: %s\n", place->command,
                error_text(&catalog));
    return r;
}

/* Each worker logs it too, but who reads that while the run does well? */
static void warn_of_halo(const struct run_place *place) {
    const struct config *config = place->config;
    size_t hops = model_spec_hops(config);
    if (config->workers_count == 1 || config->data_halo >= (int64_t)hops)
        return;
    fprintf(stderr,
            "%s: warning: data.halo is %ld, but %zu layers of the model propagate: nodes at the "
            "border of a "
            "part see only some of their neighbours\n",
            place->command, (long)config->data_halo, hops);
}

static int cut(struct run_place *place, const struct snapshot *snapshot, struct error *reterr) {
    const struct config *config = place->config;
    uint32_t parts = (uint32_t)config->workers_count, halo = (uint32_t)config->data_halo;
    const struct partition_options cut = {
        .parts = parts, .halo = halo, .seed = (uint64_t)config->job_seed};
    struct partition_outcome outcome;
    warn_of_halo(place);
    _cleanup_(mem_free_p) char *made = partition_dir(snapshot->dir, parts, halo);
    place->partition = mem_strdup(strrchr(made, '/') + 1);
    if (!file_exists(made)) {
        printf("cutting %s@%s into %u parts with %u hops of halo\n", snapshot->name,
               snapshot->version, parts, halo);
        fflush(stdout);
    }
    int r = partition_cut(place->command, snapshot, &cut, &outcome, reterr);
    if (r == 0 && outcome.why[0])
        printf("cut with %s: %s\n", assign_method_name(outcome.method), outcome.why);
    if (r == 0)
        r = claim_take(made, &place->claims[1], reterr);
    struct error catalog = {0};
    if (r == 0 && catalog_add_partition(config->data_root, made, &catalog) < 0)
        fprintf(stderr, "%s: warning: the catalog was not updated: %s\n", place->command,
                error_text(&catalog));
    return r;
}

/* Rather a sentence now than a process that the kernel kills. */
static int check_memory(const struct run_place *place, const char *snapshot_dir,
                        struct error *reterr) {
    struct job_plan plan;
    int r = job_plan_make(place->config, snapshot_dir, &plan, reterr);
    if (r == 0) {
        r = job_plan_check(&plan, place->config, reterr);
        job_plan_done(&plan);
    }
    return r;
}

int run_place_prepare(struct run_place *place, bool fresh, struct error *reterr) {
    const struct config *config = place->config;
    _cleanup_(mem_free_p) char *dir = NULL;
    struct snapshot *snapshot = NULL;
    int r = snapshot_find(config->data_root, config->data_snapshot, &dir, reterr);
    if (r == 0)
        r = claim_take(dir, &place->claims[0], reterr);
    if (r == 0)
        r = snapshot_open(dir, false, &snapshot, reterr);
    if (r < 0)
        return r;
    place->snapshot = mem_printf("%s@%s", snapshot->name, snapshot->version);
    place->digest = mem_strdup(snapshot->digest);
    r = snapshot_trainable(snapshot, config->model_embedding > 0, config->train_task == TASK_LINKS,
                           reterr);
    if (r == 0)
        r = look_at_dir(place, fresh, reterr);
    if (r == 0)
        r = cut(place, snapshot, reterr);
    if (r == 0)
        r = check_memory(place, dir, reterr);
    if (r == 0 && place->to_begin)
        r = move_aside(place, reterr);
    snapshot_close(snapshot);
    return r;
}

int run_place_record(const struct run_place *place, const char *state,
                     const struct model_facts *facts, struct error *reterr) {
    const struct config *config = place->config;
    const struct catalog_run record = {
        .job = config->job_name,
        .dir = config->job_dir,
        .snapshot = place->snapshot ? place->snapshot : config->data_snapshot,
        .digest = place->digest,
        .partition = place->partition,
        .state = state,
        .valid_score = facts ? facts->scores[SCORE_VALID][facts->metric] : NAN,
        .test_score = facts ? facts->scores[SCORE_TEST][facts->metric] : NAN,
        .metric = facts ? score_name(facts->metric) : NULL,
    };
    return catalog_put_run(config->data_root, &record, reterr);
}
