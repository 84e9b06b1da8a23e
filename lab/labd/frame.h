/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LABD_FRAME_H
#define LABD_FRAME_H

#include <stddef.h>
#include <stdint.h>

/*
 * Frames over a blocking stream socket: one type byte, a 32-bit little-endian length of at most
 * FRAME_BYTES, and that many bytes. All return 0 or -errno.
 */
#define FRAME_BYTES (1U << 17)
#define FRAME_HEAD_BYTES 5

/* @head is room for FRAME_HEAD_BYTES, directly before the @len bytes to send. */
int frame_send(int sock, uint8_t *head, char type, size_t len);

int frame_send_u32(int sock, char type, uint32_t value);

/* Fills @buf, of FRAME_BYTES. -ECONNRESET when the peer is gone, -EMSGSIZE for a longer frame. */
int frame_receive(int sock, char *ret_type, uint8_t *buf, size_t *ret_len);

#endif
