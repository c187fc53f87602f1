/* A shard that a test plays over a real socket: a thread that accepts one connection after the
 * other, reads frames and lets the test answer. For what a real shard would never do, or not on
 * command. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "proto/wire.h"

struct fake_shard {
    /* Set before the start. Called on the shard's thread; false: hang up. */
    bool (*answer)(struct fake_shard *shard, int fd, const struct frame_in *frame,
                   const ProtobufCMessage *message);
    const char *greeting; /* bytes instead of frames, then it hangs up; "" for only that */
    void *ctx;

    char address[64]; /* on loopback, a port the system chose */
    atomic_int accepted;
    int listener;
    pthread_t thread;
};

void fake_shard_start(struct fake_shard *shard);
/* The peer must have closed its connection. */
void fake_shard_stop(struct fake_shard *shard);
void fake_shard_reply(int fd, enum frame_type type, const void *message, const float *payload,
                      size_t floats);
