/*
 * Devices: what the machine knows of each, and the order of their lives.
 *
 *     create (src/dev/NAME.h) -> [load] -> resume -> ... -> pause -> save -> (resume | free)
 *
 * A device is created paused. Registers are read and written from vCPU threads; queues are served on
 * the loop's thread; pause, resume, save, load and announce may come from any one thread that drives a
 * move. Each device therefore has a lock of its own and takes it in every entry point; none calls out
 * with the lock held except to `mem`, its own descriptors and the loop.
 *
 * Paused means quiescent, provably: no request is in flight (a counter says so), no byte of guest
 * memory will be written, nothing is taken from a queue, tap or disk until resume(), which then looks at
 * every queue once, since kicks may have come meanwhile.
 *
 * A guest that breaks the rules makes its device set DEVICE_NEEDS_RESET; it never stops the monitor.
 */
#pragma once
#include "base/buf.h"
#include "base/compiler.h"
#include "base/err.h"
#include "state/schema.h"
#include "state/stream.h"
#include <stdint.h>

struct dev;

struct dev_ops {
    const char *name;            /* "virtio-blk" */
    uint16_t section;            /* enum section_type */
    const struct schema *schema; /* of the saved state */

    /* Guest access at `offset` from the device's base; len is 1, 2, 4 or 8. vCPU threads. */
    void (*read)(struct dev *dev, uint64_t offset, void *data, unsigned len);
    void (*write)(struct dev *dev, uint64_t offset, const void *data, unsigned len);

    void (*reset)(struct dev *dev); /* as at power-on */
    int (*pause)(struct dev *dev);  /* blocks until quiescent; 0, or -errno when it cannot */
    void (*resume)(struct dev *dev);
    void (*save)(struct dev *dev, void *state);                       /* paused only */
    int (*load)(struct dev *dev, const void *state, struct err *err); /* checks, then applies */
    void (*announce)(struct dev *dev); /* after a move: tell the network and guest; may be NULL */
    void (*free)(struct dev *dev);     /* paused only; closes what the device owns */
};

struct dev {
    const struct dev_ops *ops;
    uint16_t instance; /* of its section: its number in the machine */
};
