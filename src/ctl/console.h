/*
 * The console hub: between the guest's serial port and whoever watches it.
 *
 * The last CONSOLE_SCROLLBACK bytes the guest wrote are one ring. Every watcher (a client of the
 * console socket, and the log file) has a place of its own in it, beginning at the oldest byte
 * kept. A watcher that falls a whole ring behind loses the oldest bytes and is told how many; the
 * guest never waits. Watchers see raw bytes; what any of them types goes to the guest, and waits
 * when the guest does not read.
 *
 * Threads: console_output() and console_input_ready() from any thread, never blocking, callable
 * with a device's lock held; the input function runs on the loop's thread; everything else on the
 * loop's thread.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "base/loop.h"
#include <stddef.h>
#include <stdint.h>

#define CONSOLE_SCROLLBACK (64u << 10)
#define CONSOLE_CLIENTS_MAX 16

struct console;

/* Offers bytes to the serial port; returns how many it took, 0 to `len`. After fewer than `len`,
 * nothing is offered until console_input_ready(). */
typedef size_t console_input_fn(void *ctx, const uint8_t *bytes, size_t len);

/* Serves `listen_fd` (rundir_listen(); -1: no clients). `log_fd` (-1: none) gets everything the
 * guest writes. Both are the console's from here on, also on failure. */
int console_new(struct loop *loop, int listen_fd, int log_fd, console_input_fn *input, void *ctx,
                struct console **ret, struct err *err) MUST_CHECK;

/* Adds a client that did not come over the socket: whoever started the monitor, and must see all
 * the guest writes from its first byte on. `fd` is a connected stream socket, non-blocking, the
 * console's from here on. */
int console_attach(struct console *console, int fd, struct err *err) MUST_CHECK;

/* Writes what is kept of the past to a file. 0 or -errno. No thread may be in console_output(). */
int console_save(const struct console *console, int fd) MUST_CHECK;

/* Writes out what is left as far as it goes without waiting. No thread may be in
 * console_output(). */
void console_free(struct console *console);

/* The guest wrote these bytes. */
void console_output(struct console *console, const uint8_t *bytes, size_t len);

/* The serial port, having refused input, has room again. */
void console_input_ready(struct console *console);
