/* Tap interfaces of the host (Linux Documentation/networking/tuntap.rst). */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <stdint.h>

#define TAP_HEADER_BYTES 12u /* struct virtio_net_hdr_mrg_rxbuf before every frame */

/* Opens the existing tap `name`, one frame a read or write, each with a TAP_HEADER_BYTES header.
 * Needs the tap's owner or CAP_NET_ADMIN. Errors name the tap and what to do. */
int tap_open(const char *name, int *ret_fd, struct err *err) MUST_CHECK;

/* Sets that header size on an open tap; -ENOTTY: no tap. */
int tap_set_header(int fd) MUST_CHECK;

/* Says what the reader of the tap can take: TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6. */
int tap_set_offload(int fd, unsigned flags) MUST_CHECK;
