/* virtio-rng (virtio 1.2, 5.4): the host kernel's random bytes. */
#pragma once
#include "dev/virtio_mmio.h"

#define VIRTIO_RNG_STATE(F, T) F(T, list, transport, virtio_state, 1)
SCHEMA_STRUCT(virtio_rng_state, VIRTIO_RNG_STATE);

int virtio_rng_create(struct dev **ret, uint16_t instance, struct mem *mem, struct loop *loop,
                      struct err *err) MUST_CHECK;
