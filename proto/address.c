/* Addresses: parsing, printing, listening. Resolves names while it waits, so it is for the start of
 * a process; conn.c resolves on the loop. */
#include "proto/address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int address_split(const char *address, char host[ADDRESS_HOST_MAX], uint16_t *ret_port,
                  struct error *reterr) {
    const char *colon = strrchr(address, ':');
    const char *start = address, *end = colon;
    if (colon && address[0] == '[') {
        start = address + 1;
        end = strchr(start, ']');
        if (!end || end + 1 != colon)
            colon = NULL;
    } else if (colon && memchr(address, ':', (size_t)(colon - address))) {
        return error_set(reterr, ERR_CONFIG,
                         "'%s' is ambiguous: write an IPv6 address as [address]:port", address);
    }
    if (!colon || end == start || end - start >= ADDRESS_HOST_MAX)
        return error_set(reterr, ERR_CONFIG, "'%s' is no address of the form host:port", address);

    unsigned long port = 0;
    size_t digits = strspn(colon + 1, "0123456789");
    if (digits > 0 && digits <= 5 && colon[1 + digits] == 0)
        port = strtoul(colon + 1, NULL, 10);
    else
        port = UINT16_MAX + 1ul;
    if (port > UINT16_MAX)
        return error_set(reterr, ERR_CONFIG, "'%s': the port must be a number from 0 to 65535",
                         address);
    memcpy(host, start, (size_t)(end - start));
    host[end - start] = 0;
    *ret_port = (uint16_t)port;
    return 0;
}

void address_print(const struct sockaddr *address, char ret_text[ADDRESS_TEXT_MAX]) {
    char host[INET6_ADDRSTRLEN] = "?";
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;
        uv_ip6_name(v6, host, sizeof host);
        snprintf(ret_text, ADDRESS_TEXT_MAX, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;
        uv_ip4_name(v4, host, sizeof host);
        snprintf(ret_text, ADDRESS_TEXT_MAX, "%s:%u", host, ntohs(v4->sin_port));
    }
}

int address_listen(uv_loop_t *loop, const char *address, uv_tcp_t *listener, uv_connection_cb cb,
                   char ret_address[ADDRESS_TEXT_MAX], struct error *reterr) {
    uv_tcp_init(loop, listener);
    char host[ADDRESS_HOST_MAX], service[8];
    uint16_t port;
    int r = address_split(address, host, &port, reterr);
    if (r < 0)
        return r;

    snprintf(service, sizeof service, "%u", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    r = getaddrinfo(host, service, &hints, &found);
    if (r != 0)
        return error_set(reterr, ERR_UNREACHABLE, "cannot listen on %s: the name '%s': %s", address,
                         host, gai_strerror(r));
    r = uv_tcp_bind(listener, found->ai_addr, 0);
    freeaddrinfo(found);
    if (r == 0)
        r = uv_listen((uv_stream_t *)listener, 128, cb); /* reports what bind found in use */
    if (r == UV_EADDRINUSE)
        return error_set(reterr, ERR_IN_USE,
                         "cannot listen on %s: another process listens there; stop it or choose "
                         "another port (servers.listen, servers.addresses)",
                         address);
    if (r == UV_EACCES)
        return error_set(reterr, ERR_NOT_ALLOWED,
                         "cannot listen on %s: %s; ports below 1024 need a privilege", address,
                         uv_strerror(r));
    if (r < 0)
        return error_set(reterr, ERR_CONFIG, "cannot listen on %s: %s", address, uv_strerror(r));

    struct sockaddr_storage bound;
    int len = sizeof bound;
    uv_tcp_getsockname(listener, (struct sockaddr *)&bound, &len);
    address_print((const struct sockaddr *)&bound, ret_address);
    return 0;
}
