/* A note in a directory that its files were looked at and found right: their names with length,
 * times and inode. As long as all of that is the same, nobody has to look again. Inside
 * worker/graph only. */
#pragma once

#include <jansson.h>

enum stamp_level {
    STAMP_NONE,
    STAMP_CHECKED,  /* the arrays fit together */
    STAMP_VERIFIED, /* and have the MD5s that the manifest says */
};

/* What lies there now: a line for the manifest and one for each file it names; mem_free it. */
char *stamp_state(const char *dir, const json_t *manifest);
/* What was found the last time, if the files are still in this state. */
enum stamp_level stamp_read(const char *dir, const char *state);
/* Leaves the note, if that can be done: a directory that is read-only is looked at each time. Does
 * nothing when a file was changed in the last seconds: a change yet to come could have the same
 * time. */
void stamp_write(const char *dir, const char *state, enum stamp_level level);
