/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <errno.h>
#include <unistd.h>

static int frame_read(int fd, void *buf, size_t len)
{
    uint8_t *at = buf;

    while (len > 0) {
        ssize_t n = read(fd, at, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ECONNRESET;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

static int frame_write(int fd, const void *buf, size_t len)
{
    const uint8_t *at = buf;

    while (len > 0) {
        ssize_t n = write(fd, at, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

static void put_le32(uint8_t *at, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get_le32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

int frame_send(int sock, uint8_t *head, char type, size_t len)
{
    head[0] = (uint8_t)type;
    put_le32(head + 1, (uint32_t)len);
    return frame_write(sock, head, FRAME_HEAD_BYTES + len);
}

int frame_send_u32(int sock, char type, uint32_t value)
{
    uint8_t frame[FRAME_HEAD_BYTES + 4];

    put_le32(frame + FRAME_HEAD_BYTES, value);
    return frame_send(sock, frame, type, 4);
}

int frame_receive(int sock, char *ret_type, uint8_t *buf, size_t *ret_len)
{
    uint8_t head[FRAME_HEAD_BYTES];
    uint32_t len;
    int r;

    r = frame_read(sock, head, sizeof(head));
    if (r < 0)
        return r;
    len = get_le32(head + 1);
    if (len > FRAME_BYTES)
        return -EMSGSIZE;
    r = frame_read(sock, buf, len);
    if (r < 0)
        return r;
    *ret_type = (char)head[0];
    *ret_len = len;
    return 0;
}
