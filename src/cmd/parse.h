/*
 * Numbers and places as people write them on a command line. Each refuses what it does not fully
 * understand with a text that says what it wanted (ERR_CALLER, -EINVAL), and never rounds or wraps
 * around.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

/* "256M": a number with K, M, G, T (powers of 1024; "KiB" etc. mean the same), or bytes without
 * one. */
int parse_size(const char *text, uint64_t *ret_bytes, struct err *err) MUST_CHECK;

/* "300ms": a number with ns, us, ms, s, m or h. Zero needs no unit. */
int parse_duration(const char *text, uint64_t *ret_ns, struct err *err) MUST_CHECK;

/* "2Gbit/s": a number with bit/s, B/s, or one of those after k, M, G or T (powers of 1000) or, for bytes, Ki, Mi,
 * Gi. Zero needs no unit. */
int parse_rate(const char *text, uint64_t *ret_bytes_per_s, struct err *err) MUST_CHECK;

/* "4": a plain decimal number. */
int parse_count(const char *text, uint64_t *ret, struct err *err) MUST_CHECK;

/* "HOST:PORT", "[IPV6]:PORT" or ":PORT" (host becomes empty: any). Nothing is resolved. */
#define PARSE_HOST_MAX 256
int parse_address(const char *text, char ret_host[PARSE_HOST_MAX], uint16_t *ret_port,
                  struct err *err) MUST_CHECK;

/* Where a VM is to go: "HOST" or "[IPV6]", which take the default port, "HOST:PORT" or "[IPV6]:PORT". *ret has a port in
 * any case. A bare IPv6 address is refused: its last group might have been meant as a port. */
#define PARSE_PORT_DEFAULT "7000"
#define PARSE_TARGET_MAX (PARSE_HOST_MAX + 8)
int parse_target(const char *text, char ret[PARSE_TARGET_MAX], struct err *err) MUST_CHECK;

/* "02:00:5e:10:00:01" */
int parse_mac(const char *text, uint8_t ret[6], struct err *err) MUST_CHECK;

/* Makes a path absolute by the working directory, resolving nothing. */
int parse_path(const char *text, char *ret, size_t size, struct err *err) MUST_CHECK;

/* The value of a size as a person would have written it ("256M"), for messages and help. */
struct parse_text {
    char text[32];
};
struct parse_text parse_show_size(uint64_t bytes);
struct parse_text parse_show_duration(uint64_t ns);
struct parse_text parse_show_rate(uint64_t bytes_per_s);
