/* A stranger at a shard's port: a blocking socket that sends frames or any bytes, and looks at what
 * comes back. Fails the test when nothing comes in time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "proto/wire.h"

int peer_connect(const char *address);
/* false: the other end has closed. */
bool peer_send_bytes(int fd, const void *bytes, size_t len);
void peer_send(int fd, enum frame_type type, const ProtobufCMessage *message);
/* The next frame's message; wire_free it. */
ProtobufCMessage *peer_receive(int fd, enum frame_type *ret_type);
/* Reads on, whatever it is, until the other end has closed; closes. */
void peer_wait_closed(int fd);
/* The job's status from shard 0; wire_free(&status->base). */
Graphps__Status *peer_status(const char *address, const char *job);
