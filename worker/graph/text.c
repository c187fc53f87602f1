/* Numbers in text. Floats take the way of Clinger, "How to read floating point numbers accurately",
 * PLDI 1990: a few digits and a small power of ten are exact in a double, and so is one operation
 * on them; everything else is the C library's. */
#include "worker/graph/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool text_int(const char *text, int64_t *ret) {
    bool negative = *text == '-';
    const char *at = text + (*text == '-' || *text == '+');
    int64_t value = 0;
    size_t digits = 0;
    for (; *at >= '0' && *at <= '9'; at++, digits++) {
        if (value > (INT64_MAX - 9) / 10)
            return false;
        value = value * 10 + (*at - '0');
    }
    if (digits == 0)
        return false;
    if (*at == '.') /* NumPy writes integers among NaNs as floats */
        at += 1 + strspn(at + 1, "0");
    if (*at)
        return false;
    *ret = negative ? -value : value;
    return true;
}

/* The digits of a mantissa below 2^53 without its point; returns where it ends. */
static const char *mantissa(const char *at, uint64_t *ret_value, int *ret_scale, int *ret_digits) {
    uint64_t value = 0;
    int scale = 0, digits = 0;
    for (; *at >= '0' && *at <= '9'; at++, digits++)
        value = value * 10 + (uint64_t)(*at - '0');
    if (*at == '.')
        for (at++; *at >= '0' && *at <= '9'; at++, digits++, scale--)
            value = value * 10 + (uint64_t)(*at - '0');
    *ret_value = value;
    *ret_scale = scale;
    *ret_digits = digits;
    return at;
}

static const char *exponent(const char *at, int *scale) {
    const char *start = at;
    if (*at != 'e' && *at != 'E')
        return at;
    at++;
    bool negative = *at == '-';
    at += *at == '-' || *at == '+';
    int value = 0, digits = 0;
    for (; *at >= '0' && *at <= '9' && digits < 4; at++, digits++)
        value = value * 10 + (*at - '0');
    if (digits == 0)
        return start;
    *scale += negative ? -value : value;
    return at;
}

/* A double that lies half-way between two floats may have been rounded there: rounding it again
 * could go the wrong way. */
static bool halfway(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x1fffffff) == 0x10000000;
}

bool text_float(const char *text, float *ret) {
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    uint64_t digits_value;
    int scale, digits;
    const char *at = text + (*text == '-');
    at = mantissa(at, &digits_value, &scale, &digits);
    if (digits > 0 && digits <= 15) {
        at = exponent(at, &scale);
        if (!*at && scale >= -22 && scale <= 22) {
            double value = (double)digits_value;
            value = scale < 0 ? value / powers[-scale] : value * powers[scale];
            if (!halfway(value) && (value == 0 || value > 1.2e-38) && value < 3.4e38) {
                *ret = (float)(*text == '-' ? -value : value);
                return true;
            }
        }
    }
    char *end;
    float value = strtof(text, &end);
    if (end == text || *end)
        return false;
    *ret = value;
    return true;
}

const char *text_printable(const char *text, char *buf, size_t buf_bytes) {
    size_t len = 0;
    for (const unsigned char *at = (const unsigned char *)text; *at && len + 5 < buf_bytes; at++) {
        bool wide = at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0; /* U+0080 to U+009F */
        at += wide;
        if (*at == '\n')
            len += (size_t)snprintf(buf + len, buf_bytes - len, "\\n");
        else if (*at < 0x20 || *at == 0x7f || wide)
            len += (size_t)snprintf(buf + len, buf_bytes - len, "\\x%02x", *at);
        else
            buf[len++] = (char)*at;
    }
    buf[len] = 0;
    return buf;
}
