/*
 * virtio-net (virtio 1.2, 5.1) on a tap: receive, transmit and control queue, checksum and
 * segmentation offload in both directions, mergeable receive buffers.
 *
 * The descriptor carries one frame a read or write, each behind a 12-byte virtio header: a tap from
 * tap_open(), or a datagram socket whose peer speaks the same. Offloads towards the guest are
 * offered only on a tap, which can be told which of them the driver accepted.
 */
#pragma once
#include "dev/announce.h"
#include "dev/virtio_mmio.h"

#define VIRTIO_NET_STATE(F, T)             \
    F(T, list, transport, virtio_state, 1) \
    F(T, u8s, mac, 6)                      \
    F(T, u16, link)                        \
    F(T, list, known, announce_state, 1)
SCHEMA_STRUCT(virtio_net_state, VIRTIO_NET_STATE);

/* `fd` is taken, also on failure. announce() sends, in several rounds over a second, frames that
 * claim the guest's MAC and known addresses, and asks a guest that can to announce itself. */
int virtio_net_create(struct dev **ret, uint16_t instance, struct mem *mem, struct loop *loop,
                      int fd, const uint8_t mac[6], struct err *err) MUST_CHECK;
