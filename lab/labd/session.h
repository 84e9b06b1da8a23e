/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LABD_SESSION_H
#define LABD_SESSION_H

/*
 * Serves one command over the connected stream socket @sock and returns when it is over; takes
 * @sock. Called in a process of its own, single-threaded, with SIGCHLD unblocked and SIGPIPE
 * ignored.
 *
 * The protocol, both ways: frames (frame.h), of these types.
 *
 *   client: 'r' the command, first and once: a flag byte (1 = detach), then strings, each closed
 *               by a zero byte: the file for a detached command's output ("" for none), then argv
 *           'i' bytes for standard input      'c' no more of them
 *           's' one byte: a signal for the command's process group
 *   server: 'o' standard output   'e' standard error
 *           'p' 32 bits: process id of the detached command, which is also its group
 *           'x' 32 bits: exit status, last of all; 128 + n after signal n, 127 if it cannot start
 *
 * When the client goes away first, the process group gets SIGTERM, and SIGKILL 2 s later; a
 * detached command stays.
 */
void session_serve(int sock);

#endif
