/* How many bytes of frames a process may hold, received and not done with or on their way out. Each
 * connection has an account; one that holds nothing may always begin one frame, so that nobody
 * starves; any other reads on only while its account and the whole are below their bounds, and is
 * woken when they are again. The bytes of a buffer count until its last reference goes, wherever
 * that is: a push that waits for its batch is still its connection's. From any thread. */
#pragma once

#include <stdbool.h>

#include "common/mem.h"

struct budget;
/* Bounds in bytes for all connections and for each. */
struct budget *budget_new(size_t max_bytes, size_t each_max_bytes);
struct budget *budget_unref(struct budget *budget); /* takes NULL; accounts hold references */
size_t budget_received_bytes(const struct budget *budget);
size_t budget_queued_bytes(const struct budget *budget);

struct account;
/* wake is called, with the budget's lock held, when a refused account should ask again. */
struct account *account_new(struct budget *budget, void (*wake)(void *ctx), void *ctx);
/* wake is not called any more. Buffers still alive keep their bytes counted. Takes NULL. */
struct account *account_close(struct account *account);
/* A buffer of that size to read into, or NULL: not now, wake follows. own_bytes: of the buffer that
 * it will replace, which do not count as something held. */
struct buf *account_buf(struct account *account, size_t len_bytes, size_t own_bytes);
/* Bytes queued to be sent; those are never refused. */
void account_queue(struct account *account, size_t bytes);
void account_sent(struct account *account, size_t bytes);
