/* The catalog's tables and statements, and how older ones become today's. */
#include "worker/graph/catalog.h"

#include <limits.h>
#include <math.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "common/mem.h"
#include "worker/graph/manifest.h"
#include "worker/graph/version.h"

#define BUSY_MS 10000
#define NOW "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')"

/* Step k leads from schema k to schema k + 1; a file without tables has schema 0, and so have
 * those of the time before schemas were numbered, which is why the first step asks. */
static const char *const steps[] = {
    "CREATE TABLE IF NOT EXISTS snapshots(name TEXT NOT NULL, version TEXT NOT NULL,"
    " digest TEXT NOT NULL, nodes INTEGER NOT NULL, edges INTEGER NOT NULL, dir TEXT NOT NULL,"
    " created TEXT NOT NULL, PRIMARY KEY(name, version));"
    "CREATE TABLE IF NOT EXISTS runs(dir TEXT PRIMARY KEY, job TEXT NOT NULL,"
    " snapshot TEXT NOT NULL, state TEXT NOT NULL, valid_accuracy REAL, test_accuracy REAL,"
    " started TEXT NOT NULL, updated TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS models(path TEXT PRIMARY KEY, job TEXT NOT NULL,"
    " md5 TEXT NOT NULL, valid_accuracy REAL, test_accuracy REAL, created TEXT NOT NULL);",

    /* A run of before used what its snapshot holds now if that was imported before it began. */
    "ALTER TABLE snapshots ADD COLUMN parent TEXT;"
    "ALTER TABLE snapshots ADD COLUMN parent_digest TEXT;"
    "ALTER TABLE runs ADD COLUMN digest TEXT;"
    "ALTER TABLE runs ADD COLUMN partition TEXT;"
    "ALTER TABLE runs ADD COLUMN ended TEXT;"
    "ALTER TABLE models ADD COLUMN snapshot TEXT;"
    "ALTER TABLE models ADD COLUMN digest TEXT;"
    "CREATE TABLE partitions(name TEXT NOT NULL, version TEXT NOT NULL, partition TEXT NOT NULL,"
    " digest TEXT NOT NULL, parts INTEGER NOT NULL, halo INTEGER NOT NULL, method TEXT NOT NULL,"
    " seed INTEGER NOT NULL, edge_cut INTEGER NOT NULL, created TEXT NOT NULL, dir TEXT NOT NULL,"
    " PRIMARY KEY(name, version, partition));"
    "UPDATE runs SET ended = updated WHERE state <> 'running';"
    "UPDATE runs SET digest = (SELECT digest FROM snapshots AS s WHERE"
    " s.name || '@' || s.version = runs.snapshot AND s.created <= runs.started);"
    "UPDATE models SET (snapshot, digest) = (SELECT r.snapshot, r.digest FROM runs AS r WHERE"
    " r.dir || '/model.safetensors' = models.path);"
    "UPDATE snapshots SET dir = kept_path(dir);"
    "UPDATE OR REPLACE runs SET dir = kept_path(dir);"
    "UPDATE OR REPLACE models SET path = kept_path(path);",

    /* Which score it is that is kept; before there was a choice it was the accuracy. */
    "ALTER TABLE runs ADD COLUMN metric TEXT;"
    "ALTER TABLE models ADD COLUMN metric TEXT;"
    "UPDATE runs SET metric = 'accuracy' WHERE valid_accuracy IS NOT NULL;"
    "UPDATE models SET metric = 'accuracy' WHERE valid_accuracy IS NOT NULL;"
    "ALTER TABLE runs RENAME COLUMN valid_accuracy TO valid_score;"
    "ALTER TABLE runs RENAME COLUMN test_accuracy TO test_score;"
    "ALTER TABLE models RENAME COLUMN valid_accuracy TO valid_score;"
    "ALTER TABLE models RENAME COLUMN test_accuracy TO test_score;",
};
#define SCHEMA ((int)ARRAY_LEN(steps))

/* --- paths --- */

/* A path as the catalog keeps it; mem_free it. */
static char *kept_path(const char *root, const char *path) {
    char root_full[PATH_MAX], full[PATH_MAX], here[PATH_MAX];
    char *absolute = NULL;
    if (realpath(path, full))
        absolute = mem_strdup(full);
    else if (path[0] == '/' || !getcwd(here, sizeof here))
        absolute = mem_strdup(path);
    else
        absolute = mem_printf("%s/%s", here, path);
    size_t len = realpath(root, root_full) ? strlen(root_full) : 0;
    if (len == 0 || strncmp(absolute, root_full, len) != 0 || absolute[len] != '/')
        return absolute;
    char *below = mem_strdup(absolute + len + 1);
    mem_free(absolute);
    return below;
}

static void sql_kept_path(sqlite3_context *context, int count, sqlite3_value **values) {
    (void)count;
    const char *path = (const char *)sqlite3_value_text(values[0]);
    _cleanup_(mem_free_p) char *kept = kept_path(sqlite3_user_data(context), path ? path : "");
    sqlite3_result_text(context, kept, -1, SQLITE_TRANSIENT);
}

/* --- opening --- */

static int sql_fault(sqlite3 *db, const char *path, struct error *reterr) {
    return error_set(reterr, ERR_IO, "%s: %s", path, db ? sqlite3_errmsg(db) : "out of memory");
}

static int schema_of(sqlite3 *db, int *ret) {
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &statement, NULL);
    if (code == SQLITE_OK && (code = sqlite3_step(statement)) == SQLITE_ROW) {
        *ret = sqlite3_column_int(statement, 0);
        code = SQLITE_OK;
    }
    sqlite3_finalize(statement);
    return code;
}

/* Within one transaction; somebody else may have been first. */
static int upgrade(sqlite3 *db, const char *root) {
    int schema = 0;
    int code = sqlite3_create_function(db, "kept_path", 1, SQLITE_UTF8, (void *)(uintptr_t)root,
                                       sql_kept_path, NULL, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (code != SQLITE_OK)
        return code;
    code = schema_of(db, &schema);
    for (int i = schema; code == SQLITE_OK && i < SCHEMA; i++)
        code = sqlite3_exec(db, steps[i], NULL, NULL, NULL);
    if (code == SQLITE_OK && schema < SCHEMA) {
        _cleanup_(mem_free_p) char *number = mem_printf("PRAGMA user_version = %d", SCHEMA);
        code = sqlite3_exec(db, number, NULL, NULL, NULL);
    }
    if (code == SQLITE_OK)
        code = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    if (code != SQLITE_OK && !sqlite3_get_autocommit(db))
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return code;
}

/* For reading what cannot be upgraded where it lies: a copy that can. Frees *db, also on failure.
 */
static int upgrade_copy(sqlite3 **db, const char *root) {
    sqlite3 *copy = NULL;
    int code = sqlite3_open(":memory:", &copy);
    if (code == SQLITE_OK) {
        sqlite3_backup *backup = sqlite3_backup_init(copy, "main", *db, "main");
        if (backup)
            sqlite3_backup_step(backup, -1);
        code = backup ? sqlite3_backup_finish(backup) : sqlite3_errcode(copy);
    }
    if (code == SQLITE_OK)
        code = upgrade(copy, root);
    sqlite3_close(*db);
    *db = copy;
    return code;
}

static bool is_write_protected(int code) {
    code &= 0xff;
    return code == SQLITE_READONLY || code == SQLITE_CANTOPEN || code == SQLITE_PERM;
}

static int catalog_open(const char *root, const char *path, bool for_reading, sqlite3 **ret,
                        struct error *reterr) {
    sqlite3 *db = NULL;
    int schema = 0;
    int flags = SQLITE_OPEN_READWRITE | (for_reading ? 0 : SQLITE_OPEN_CREATE);
    int code = sqlite3_open_v2(path, &db, flags, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_busy_timeout(db, BUSY_MS);
    if (code == SQLITE_OK)
        code = schema_of(db, &schema);
    if (code == SQLITE_OK && schema > SCHEMA) {
        sqlite3_close(db);
        return error_set(reterr, ERR_FORMAT,
                         "%s: was written by a newer graphps (schema %d, this one knows up to %d); "
                         "use that one for this directory",
                         path, schema, SCHEMA);
    }
    if (code == SQLITE_OK && schema < SCHEMA) {
        code = upgrade(db, root);
        if (for_reading && is_write_protected(code))
            code = upgrade_copy(&db, root);
    }
    if (code == SQLITE_OK) {
        *ret = db;
        return 0;
    }
    int r = sql_fault(db, path, reterr);
    sqlite3_close(db);
    return r;
}

/* --- writing --- */

/* A statement's parameters in order. */
struct value {
    enum { TEXT, INTEGER, REAL } type;
    const char *text; /* NULL is stored as NULL */
    uint64_t integer;
    double real; /* NAN is stored as NULL */
};

static int bind(sqlite3_stmt *statement, int at, const struct value *value) {
    switch (value->type) {
    case TEXT:
        return sqlite3_bind_text(statement, at, value->text, -1, SQLITE_STATIC);
    case INTEGER:
        return sqlite3_bind_int64(statement, at, (sqlite3_int64)value->integer);
    case REAL:
        return isnan(value->real) ? sqlite3_bind_null(statement, at)
                                  : sqlite3_bind_double(statement, at, value->real);
    }
    return SQLITE_MISUSE;
}

/* Opens the catalog, runs statements that share their parameters in one transaction, closes it. */
static int catalog_run(const char *root, const char *const *sql, size_t sql_count,
                       const struct value *values, int count, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/catalog.db", root);
    sqlite3 *db = NULL;
    int r = dir_make(root, reterr);
    if (r == 0)
        r = catalog_open(root, path, false, &db, reterr);
    if (r < 0)
        return r;
    int code = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    for (size_t k = 0; code == SQLITE_OK && k < sql_count; k++) {
        sqlite3_stmt *statement = NULL;
        code = sqlite3_prepare_v2(db, sql[k], -1, &statement, NULL);
        int wanted = statement ? sqlite3_bind_parameter_count(statement) : 0;
        for (int i = 0; code == SQLITE_OK && i < count && i < wanted; i++)
            code = bind(statement, i + 1, &values[i]);
        if (code == SQLITE_OK && (code = sqlite3_step(statement)) == SQLITE_DONE)
            code = SQLITE_OK;
        sqlite3_finalize(statement);
    }
    if (code == SQLITE_OK)
        code = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    if (code != SQLITE_OK)
        r = sql_fault(db, path, reterr);
    sqlite3_close(db); /* rolls back what is open */
    return r;
}

static void json_decref_p(json_t **json) {
    json_decref(*json);
}

/* The newest version below this one, of those that are there; NULL or mem_free it. */
static char *version_below(const char *root, const char *name, const char *version) {
    _cleanup_(mem_free_p) char *snapshots = mem_printf("%s/snapshots", root);
    char **names = NULL;
    size_t count = 0, name_len = strlen(name);
    const char *best = NULL;
    if (dir_list(snapshots, &names, &count, NULL) < 0)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        const char *other = names[i] + name_len + 1;
        if (strncmp(names[i], name, name_len) != 0 || names[i][name_len] != '@' ||
            !version_valid(other) || version_compare(other, version) >= 0)
            continue;
        _cleanup_(mem_free_p) char *manifest =
            mem_printf("%s/%s/manifest.json", snapshots, names[i]);
        if (file_exists(manifest) && (!best || version_compare(other, best) > 0))
            best = other;
    }
    char *ret = best ? mem_strdup(best) : NULL;
    dir_list_free(names, count);
    return ret;
}

int catalog_add_snapshot(const char *root, const char *name, const char *version,
                         const char *digest, uint64_t nodes, uint64_t edges, const char *dir,
                         struct error *reterr) {
    _cleanup_(json_decref_p) json_t *manifest = NULL, *parent_manifest = NULL;
    const char *created = NULL, *parent_digest = NULL;
    if (manifest_read(dir, MANIFEST_ALONE, &manifest, NULL) == 0)
        created = json_string_value(json_object_get(manifest, "created"));
    _cleanup_(mem_free_p) char *below = version_below(root, name, version);
    _cleanup_(mem_free_p) char *parent = below ? mem_printf("%s@%s", name, below) : NULL;
    _cleanup_(mem_free_p) char *parent_dir =
        parent ? mem_printf("%s/snapshots/%s", root, parent) : NULL;
    if (parent_dir && manifest_read(parent_dir, MANIFEST_ALONE, &parent_manifest, NULL) == 0)
        parent_digest = json_string_value(json_object_get(parent_manifest, "digest"));
    _cleanup_(mem_free_p) char *kept = kept_path(root, dir);
    const struct value values[] = {
        {TEXT, .text = name},        {TEXT, .text = version},     {TEXT, .text = digest},
        {INTEGER, .integer = nodes}, {INTEGER, .integer = edges}, {TEXT, .text = kept},
        {TEXT, .text = created},     {TEXT, .text = parent},      {TEXT, .text = parent_digest},
    };
    /* The same contents again have the parent they had; its partitionings went with what was
     * replaced. */
    static const char *const sql[] = {
        "INSERT INTO snapshots(name, version, digest, nodes, edges, dir, created, parent,"
        " parent_digest) VALUES(?1, ?2, ?3, ?4, ?5, ?6, coalesce(?7, " NOW "), ?8, ?9)"
        " ON CONFLICT(name, version) DO UPDATE SET"
        " parent = CASE WHEN digest = ?3 THEN parent ELSE name || '@' || version END,"
        " parent_digest = CASE WHEN digest = ?3 THEN parent_digest ELSE digest END,"
        " digest = ?3, nodes = ?4, edges = ?5, dir = ?6, created = coalesce(?7, " NOW ")",
        "DELETE FROM partitions WHERE name = ?1 AND version = ?2",
    };
    return catalog_run(root, sql, ARRAY_LEN(sql), values, ARRAY_LEN(values), reterr);
}

int catalog_add_partition(const char *root, const char *partition_dir, struct error *reterr) {
    _cleanup_(json_decref_p) json_t *manifest = NULL, *snapshot = NULL;
    _cleanup_(mem_free_p) char *kept = kept_path(root, partition_dir);
    _cleanup_(mem_free_p) char *label = NULL;
    char *name, *version, *partition, *end;
    /* "snapshots/<name>@<version>/partitions/<partition>" */
    if (strncmp(kept, "snapshots/", 10) != 0 || !(label = mem_strdup(kept + 10)) ||
        !(end = strchr(label, '/')) || strncmp(end, "/partitions/", 12) != 0)
        return 0;
    *end = 0;
    name = label;
    partition = end + 12;
    if (!(version = strrchr(label, '@')) || strchr(partition, '/'))
        return 0;
    *version++ = 0;
    _cleanup_(mem_free_p) char *dir = mem_printf("%s/snapshots/%s@%s", root, name, version);
    const char *digest, *method;
    uint64_t parts, halo, seed, edge_cut;
    int r = manifest_read(partition_dir, MANIFEST_ALONE, &manifest, reterr);
    if (r == 0)
        r = manifest_read(dir, MANIFEST_ALONE, &snapshot, reterr);
    if (r == 0)
        r = manifest_text(snapshot, dir, "digest", &digest, reterr);
    if (r == 0)
        r = manifest_uint(manifest, partition_dir, "parts", UINT32_MAX, &parts, reterr);
    if (r == 0)
        r = manifest_uint(manifest, partition_dir, "halo", UINT32_MAX, &halo, reterr);
    if (r == 0)
        r = manifest_uint(manifest, partition_dir, "seed", INT64_MAX, &seed, reterr);
    if (r == 0)
        r = manifest_uint(manifest, partition_dir, "edge_cut", INT64_MAX, &edge_cut, reterr);
    if (r < 0)
        return r;
    method = json_string_value(json_object_get(manifest, "method"));
    const struct value values[] = {
        {TEXT, .text = name},
        {TEXT, .text = version},
        {TEXT, .text = partition},
        {TEXT, .text = digest},
        {INTEGER, .integer = parts},
        {INTEGER, .integer = halo},
        {TEXT, .text = method ? method : "metis"}, /* of before there were others */
        {INTEGER, .integer = seed},
        {INTEGER, .integer = edge_cut},
        {TEXT, .text = kept},
    };
    static const char *const sql[] = {
        "INSERT INTO partitions(name, version, partition, digest, parts, halo, method, seed,"
        " edge_cut, created, dir) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, " NOW ", ?10)"
        " ON CONFLICT(name, version, partition) DO UPDATE SET created ="
        " CASE WHEN digest = ?4 AND method = ?7 AND seed = ?8 AND edge_cut = ?9 THEN created"
        " ELSE " NOW " END, digest = ?4, parts = ?5, halo = ?6, method = ?7, seed = ?8,"
        " edge_cut = ?9, dir = ?10",
    };
    return catalog_run(root, sql, ARRAY_LEN(sql), values, ARRAY_LEN(values), reterr);
}

int catalog_put_run(const char *root, const struct catalog_run *run, struct error *reterr) {
    _cleanup_(mem_free_p) char *kept = kept_path(root, run->dir);
    const struct value values[] = {
        {TEXT, .text = kept},
        {TEXT, .text = run->job},
        {TEXT, .text = run->snapshot},
        {TEXT, .text = run->digest},
        {TEXT, .text = run->partition},
        {TEXT, .text = run->state},
        {REAL, .real = run->valid_score},
        {REAL, .real = run->test_score},
        {TEXT, .text = run->metric},
    };
    /* Within an update the columns are those of before. */
    static const char *const sql[] = {
        "INSERT INTO runs(dir, job, snapshot, digest, partition, state, valid_score,"
        " test_score, metric, started, updated, ended) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,"
        " ?9, " NOW ", " NOW ", CASE WHEN ?6 = 'running' THEN NULL ELSE " NOW " END)"
        " ON CONFLICT(dir) DO UPDATE SET"
        " started = CASE WHEN state = 'done' AND ?6 = 'running' THEN " NOW " ELSE started END,"
        " job = ?2, snapshot = ?3, digest = ?4, partition = ?5, state = ?6, valid_score = ?7,"
        " test_score = ?8, metric = ?9, updated = " NOW
        ", ended = CASE WHEN ?6 = 'running' THEN NULL ELSE " NOW " END",
    };
    return catalog_run(root, sql, ARRAY_LEN(sql), values, ARRAY_LEN(values), reterr);
}

int catalog_move_run(const char *root, const char *from, const char *to, struct error *reterr) {
    _cleanup_(mem_free_p) char *kept_from = kept_path(root, from);
    _cleanup_(mem_free_p) char *kept_to = kept_path(root, to);
    const struct value values[] = {{TEXT, .text = kept_from}, {TEXT, .text = kept_to}};
    static const char *const sql[] = {
        "UPDATE OR REPLACE runs SET dir = ?2 WHERE dir = ?1",
        "UPDATE OR REPLACE models SET path = ?2 || substr(path, length(?1) + 1)"
        " WHERE substr(path, 1, length(?1) + 1) = ?1 || '/'",
    };
    return catalog_run(root, sql, ARRAY_LEN(sql), values, ARRAY_LEN(values), reterr);
}

int catalog_add_model(const char *root, const struct catalog_model *model, struct error *reterr) {
    _cleanup_(mem_free_p) char *kept = kept_path(root, model->path);
    const struct value values[] = {
        {TEXT, .text = kept},
        {TEXT, .text = model->job},
        {TEXT, .text = model->md5},
        {TEXT, .text = model->snapshot},
        {TEXT, .text = model->digest},
        {REAL, .real = model->valid_score},
        {REAL, .real = model->test_score},
        {TEXT, .text = model->metric},
    };
    static const char *const sql[] = {
        "INSERT OR REPLACE INTO models(path, job, md5, snapshot, digest, valid_score,"
        " test_score, metric, created) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, " NOW ")",
    };
    return catalog_run(root, sql, ARRAY_LEN(sql), values, ARRAY_LEN(values), reterr);
}

int catalog_forget(const char *root, const char *name, const char *version, const char *partition,
                   struct error *reterr) {
    const struct value values[] = {
        {TEXT, .text = name}, {TEXT, .text = version}, {TEXT, .text = partition}};
    static const char *const sql[] = {
        "DELETE FROM partitions WHERE name = ?1 AND version = ?2"
        " AND (?3 IS NULL OR partition = ?3)",
        "DELETE FROM snapshots WHERE ?3 IS NULL AND name = ?1 AND version = ?2",
    };
    return catalog_run(root, sql, ARRAY_LEN(sql), values, ARRAY_LEN(values), reterr);
}

/* --- reading --- */

struct reading {
    const char *root;
    struct catalog *catalog;
    sqlite3_stmt *statement;
};

static const char *keep_text(struct catalog *catalog, char *text) {
    size_t count = catalog->text_count;
    if ((count & (count - 1)) == 0) /* grown at every power of two */
        catalog->texts = mem_resize(catalog->texts, count * sizeof(char *),
                                    (count ? 2 * count : 1) * sizeof(char *));
    catalog->texts[catalog->text_count++] = text;
    return text;
}

static const char *read_text(const struct reading *reading, int column) {
    const char *text = (const char *)sqlite3_column_text(reading->statement, column);
    return text ? keep_text(reading->catalog, mem_strdup(text)) : NULL;
}

static const char *read_path(const struct reading *reading, int column) {
    const char *text = (const char *)sqlite3_column_text(reading->statement, column);
    if (!text || text[0] == '/')
        return text ? read_text(reading, column) : NULL;
    return keep_text(reading->catalog, mem_printf("%s/%s", reading->root, text));
}

static uint64_t read_uint(const struct reading *reading, int column) {
    return (uint64_t)sqlite3_column_int64(reading->statement, column);
}

static double read_real(const struct reading *reading, int column) {
    return sqlite3_column_type(reading->statement, column) == SQLITE_NULL
               ? NAN
               : sqlite3_column_double(reading->statement, column);
}

static void read_snapshot(const struct reading *reading, void *item) {
    *(struct catalog_snapshot *)item = (struct catalog_snapshot){
        .name = read_text(reading, 0),
        .version = read_text(reading, 1),
        .digest = read_text(reading, 2),
        .nodes = read_uint(reading, 3),
        .edges = read_uint(reading, 4),
        .dir = read_path(reading, 5),
        .created = read_text(reading, 6),
        .parent = read_text(reading, 7),
        .parent_digest = read_text(reading, 8),
    };
}

static void read_partition(const struct reading *reading, void *item) {
    *(struct catalog_partition *)item = (struct catalog_partition){
        .name = read_text(reading, 0),
        .version = read_text(reading, 1),
        .partition = read_text(reading, 2),
        .digest = read_text(reading, 3),
        .parts = (uint32_t)read_uint(reading, 4),
        .halo = (uint32_t)read_uint(reading, 5),
        .method = read_text(reading, 6),
        .seed = read_uint(reading, 7),
        .edge_cut = read_uint(reading, 8),
        .created = read_text(reading, 9),
        .dir = read_path(reading, 10),
    };
}

static void read_run(const struct reading *reading, void *item) {
    *(struct catalog_run *)item = (struct catalog_run){
        .dir = read_path(reading, 0),
        .job = read_text(reading, 1),
        .snapshot = read_text(reading, 2),
        .digest = read_text(reading, 3),
        .partition = read_text(reading, 4),
        .state = read_text(reading, 5),
        .valid_score = read_real(reading, 6),
        .test_score = read_real(reading, 7),
        .metric = read_text(reading, 8),
        .started = read_text(reading, 9),
        .ended = read_text(reading, 10),
    };
}

static void read_model(const struct reading *reading, void *item) {
    *(struct catalog_model *)item = (struct catalog_model){
        .path = read_path(reading, 0),
        .job = read_text(reading, 1),
        .md5 = read_text(reading, 2),
        .snapshot = read_text(reading, 3),
        .digest = read_text(reading, 4),
        .valid_score = read_real(reading, 5),
        .test_score = read_real(reading, 6),
        .metric = read_text(reading, 7),
        .created = read_text(reading, 8),
    };
}

static int read_rows(sqlite3 *db, struct reading *reading, const char *sql, size_t item_bytes,
                     void (*take)(const struct reading *reading, void *item), void *ret,
                     size_t *ret_count) {
    size_t capacity = 0;
    char **items = ret;
    int code = sqlite3_prepare_v2(db, sql, -1, &reading->statement, NULL);
    while (code == SQLITE_OK && (code = sqlite3_step(reading->statement)) == SQLITE_ROW) {
        if (*ret_count == capacity) {
            size_t grown = capacity ? 2 * capacity : 16;
            *items = mem_resize(*items, capacity * item_bytes, grown * item_bytes);
            capacity = grown;
        }
        take(reading, *items + (*ret_count)++ * item_bytes);
        code = SQLITE_OK;
    }
    sqlite3_finalize(reading->statement);
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

int catalog_read(const char *root, struct catalog *ret, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/catalog.db", root);
    *ret = (struct catalog){0};
    if (!file_exists(path))
        return 0;
    sqlite3 *db = NULL;
    int r = catalog_open(root, path, true, &db, reterr);
    if (r < 0)
        return r;
    struct reading reading = {.root = root, .catalog = ret};
    int code = sqlite3_exec(db, "BEGIN", NULL, NULL, NULL); /* all of one moment */
    if (code == SQLITE_OK)
        code =
            read_rows(db, &reading,
                      "SELECT name, version, digest, nodes, edges, dir, created, parent,"
                      " parent_digest FROM snapshots ORDER BY name, version",
                      sizeof *ret->snapshots, read_snapshot, &ret->snapshots, &ret->snapshot_count);
    if (code == SQLITE_OK)
        code = read_rows(db, &reading,
                         "SELECT name, version, partition, digest, parts, halo, method, seed,"
                         " edge_cut, created, dir FROM partitions ORDER BY name, version, parts,"
                         " halo, partition",
                         sizeof *ret->partitions, read_partition, &ret->partitions,
                         &ret->partition_count);
    if (code == SQLITE_OK)
        code = read_rows(db, &reading,
                         "SELECT dir, job, snapshot, digest, partition, state, valid_score,"
                         " test_score, metric, started, ended FROM runs ORDER BY started, dir",
                         sizeof *ret->runs, read_run, &ret->runs, &ret->run_count);
    if (code == SQLITE_OK)
        code = read_rows(db, &reading,
                         "SELECT path, job, md5, snapshot, digest, valid_score, test_score,"
                         " metric, created FROM models ORDER BY created, path",
                         sizeof *ret->models, read_model, &ret->models, &ret->model_count);
    if (code != SQLITE_OK) {
        r = sql_fault(db, path, reterr);
        catalog_done(ret);
    }
    sqlite3_close(db);
    return r;
}

void catalog_done(struct catalog *catalog) {
    for (size_t i = 0; i < catalog->text_count; i++)
        mem_free(catalog->texts[i]);
    mem_free(catalog->texts);
    mem_free(catalog->snapshots);
    mem_free(catalog->partitions);
    mem_free(catalog->runs);
    mem_free(catalog->models);
    *catalog = (struct catalog){0};
}
