/* Semantic versions: validity and order. */
#include "worker/graph/version.h"

#include <ctype.h>
#include <string.h>

#define VERSION_LEN_MAX 48

/* The length of a run of identifiers a.b.c of [0-9A-Za-z-], none empty; 0 when there is none. */
static size_t identifiers_len(const char *text) {
    size_t len = 0, since_dot = 0;
    for (; isalnum((unsigned char)text[len]) || text[len] == '-' || text[len] == '.'; len++) {
        if (text[len] == '.' && since_dot == 0)
            return 0;
        since_dot = text[len] == '.' ? 0 : since_dot + 1;
    }
    return since_dot ? len : 0;
}

bool version_valid(const char *version) {
    if (strlen(version) > VERSION_LEN_MAX)
        return false;
    const char *at = version;
    for (int i = 0; i < 3; i++) {
        size_t digits = strspn(at, "0123456789");
        if (digits == 0 || (digits > 1 && *at == '0') || (i < 2 && at[digits] != '.'))
            return false;
        at += digits + (i < 2);
    }
    for (int i = 0; i < 2; i++)
        if (*at == "-+"[i]) {
            size_t len = identifiers_len(at + 1);
            if (!len)
                return false;
            at += 1 + len;
        }
    return *at == 0;
}

/* Numbers without leading zeros: the longer is the larger. */
static int number_compare(const char *a, size_t a_len, const char *b, size_t b_len) {
    if (a_len != b_len)
        return a_len < b_len ? -1 : 1;
    return memcmp(a, b, a_len);
}

static int identifier_compare(const char *a, size_t a_len, const char *b, size_t b_len) {
    bool a_number = strspn(a, "0123456789") >= a_len, b_number = strspn(b, "0123456789") >= b_len;
    if (a_number && b_number)
        return number_compare(a, a_len, b, b_len);
    if (a_number != b_number)
        return a_number ? -1 : 1;
    int r = memcmp(a, b, a_len < b_len ? a_len : b_len);
    return r ? r : (a_len > b_len) - (a_len < b_len);
}

/* Both point after the patch number. A release comes after its pre-releases. */
static int prerelease_compare(const char *a, const char *b) {
    if (*a != '-' || *b != '-')
        return (*a != '-') - (*b != '-');
    do {
        a++;
        b++;
        size_t a_len = strcspn(a, ".+"), b_len = strcspn(b, ".+");
        int r = identifier_compare(a, a_len, b, b_len);
        if (r)
            return r;
        a += a_len;
        b += b_len;
    } while (*a == '.' && *b == '.');
    return (*a == '.') - (*b == '.');
}

int version_compare(const char *a, const char *b) {
    const char *a_all = a, *b_all = b;
    for (int i = 0; i < 3; i++) {
        size_t a_len = strspn(a, "0123456789"), b_len = strspn(b, "0123456789");
        int r = number_compare(a, a_len, b, b_len);
        if (r)
            return r;
        a += a_len + (i < 2);
        b += b_len + (i < 2);
    }
    int r = prerelease_compare(a, b);
    return r ? r : strcmp(a_all, b_all);
}

bool version_name_valid(const char *name) {
    size_t len = strlen(name);
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)name[i]) && !(i > 0 && strchr("._-", name[i])))
            return false;
    return len >= 1 && len <= 64;
}
