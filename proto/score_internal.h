/* Shared by the files of proto/score.h and by nobody else. */
#pragma once

#include "proto/score.h"

/* A share of 1 in the sums of LinkSums. 2^34 links can be added up. */
#define SCORE_LINK_UNIT 0x1p30
