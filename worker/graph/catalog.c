/* The catalog's tables and statements. */
#include "worker/graph/catalog.h"

#include <math.h>
#include <sqlite3.h>

#include "common/file.h"
#include "common/mem.h"

#define BUSY_MS 10000

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS snapshots(name TEXT NOT NULL, version TEXT NOT NULL,"
    " digest TEXT NOT NULL, nodes INTEGER NOT NULL, edges INTEGER NOT NULL, dir TEXT NOT NULL,"
    " created TEXT NOT NULL, PRIMARY KEY(name, version));"
    "CREATE TABLE IF NOT EXISTS runs(dir TEXT PRIMARY KEY, job TEXT NOT NULL,"
    " snapshot TEXT NOT NULL, state TEXT NOT NULL, valid_accuracy REAL, test_accuracy REAL,"
    " started TEXT NOT NULL, updated TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS models(path TEXT PRIMARY KEY, job TEXT NOT NULL,"
    " md5 TEXT NOT NULL, valid_accuracy REAL, test_accuracy REAL, created TEXT NOT NULL);";

#define NOW "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')"

/* A statement's parameters in order. */
struct value {
    enum { TEXT, INTEGER, REAL } type;
    const char *text;
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

/* Opens the catalog, runs one statement in its own transaction, closes it. */
static int catalog_run(const char *root, const char *sql, const struct value *values, int count,
                       struct error *reterr) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/catalog.db", root);
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    int r = dir_make(root, reterr);
    if (r < 0)
        return r;
    int code = sqlite3_open(path, &db);
    if (code == SQLITE_OK)
        code = sqlite3_busy_timeout(db, BUSY_MS);
    if (code == SQLITE_OK)
        code = sqlite3_exec(db, schema, NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    for (int i = 0; code == SQLITE_OK && i < count; i++)
        code = bind(statement, i + 1, &values[i]);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code != SQLITE_DONE)
        r = error_set(reterr, ERR_IO, "%s: %s", path, db ? sqlite3_errmsg(db) : "out of memory");
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return r;
}

int catalog_add_snapshot(const char *root, const char *name, const char *version,
                         const char *digest, uint64_t nodes, uint64_t edges, const char *dir,
                         struct error *reterr) {
    const struct value values[] = {
        {TEXT, .text = name},        {TEXT, .text = version},     {TEXT, .text = digest},
        {INTEGER, .integer = nodes}, {INTEGER, .integer = edges}, {TEXT, .text = dir},
    };
    return catalog_run(root,
                       "INSERT OR REPLACE INTO snapshots VALUES(?1, ?2, ?3, ?4, ?5, ?6, " NOW ")",
                       values, ARRAY_LEN(values), reterr);
}

int catalog_put_run(const char *root, const char *job, const char *dir, const char *snapshot,
                    const char *state, double valid_accuracy, double test_accuracy,
                    struct error *reterr) {
    const struct value values[] = {
        {TEXT, .text = dir},
        {TEXT, .text = job},
        {TEXT, .text = snapshot},
        {TEXT, .text = state},
        {REAL, .real = valid_accuracy},
        {REAL, .real = test_accuracy},
    };
    return catalog_run(root,
                       "INSERT INTO runs VALUES(?1, ?2, ?3, ?4, ?5, ?6, " NOW ", " NOW ")"
                       " ON CONFLICT(dir) DO UPDATE SET job = ?2, snapshot = ?3, state = ?4,"
                       " valid_accuracy = ?5, test_accuracy = ?6, updated = " NOW,
                       values, ARRAY_LEN(values), reterr);
}

int catalog_add_model(const char *root, const char *job, const char *path, const char *md5,
                      double valid_accuracy, double test_accuracy, struct error *reterr) {
    const struct value values[] = {
        {TEXT, .text = path},           {TEXT, .text = job},           {TEXT, .text = md5},
        {REAL, .real = valid_accuracy}, {REAL, .real = test_accuracy},
    };
    return catalog_run(root, "INSERT OR REPLACE INTO models VALUES(?1, ?2, ?3, ?4, ?5, " NOW ")",
                       values, ARRAY_LEN(values), reterr);
}
