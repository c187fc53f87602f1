/* Addresses as people write them, and listening on one. */
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "common/error.h"

#define ADDRESS_HOST_MAX 256
#define ADDRESS_TEXT_MAX 300

/* "host:port" -> host and port; "[::1]:80" too. ERR_CONFIG. */
int address_split(const char *address, char host[ADDRESS_HOST_MAX], uint16_t *ret_port,
                  struct error *reterr);
/* "127.0.0.1:80", "[::1]:80". */
void address_print(const struct sockaddr *address, char ret_text[ADDRESS_TEXT_MAX]);
/* Binds and listens; port 0 takes a free one; ret_address gets "host:port" as bound. On failure the
 * listener is as after uv_tcp_init: close it. ERR_IN_USE, ERR_UNREACHABLE (the name does not
 * resolve), ERR_NOT_ALLOWED, ERR_CONFIG. */
int address_listen(uv_loop_t *loop, const char *address, uv_tcp_t *listener, uv_connection_cb cb,
                   char ret_address[ADDRESS_TEXT_MAX], struct error *reterr);
