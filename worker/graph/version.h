/* Names and versions of snapshots: MAJOR.MINOR.PATCH with an optional -pre.release and +build
 * (https://semver.org, 2.0.0). Pure. */
#pragma once

#include <stdbool.h>

bool version_valid(const char *version);
/* < 0, 0, > 0 by precedence; both valid. Versions that differ only in +build are ordered by it as
 * text, so that there is always one newest. */
int version_compare(const char *a, const char *b);
/* Letters, digits, . _ -, beginning with a letter or digit, at most 64. */
bool version_name_valid(const char *name);
