/*
 * Everything between the monitor and the inside of its guest that goes over vsock: the host's side
 * of the device, the agent, self-migration. Nothing of it is there, and every function does
 * nothing, for a machine without a vsock device.
 *
 * Main thread, except inside_prepare().
 */
#pragma once
#include "cost/bill.h"
#include "vm/machine.h"
#include "vmm/agent.h"
#include "vmm/self_move.h"

struct monitor;

struct inside {
    struct dev *dev; /* NULL: no vsock, or not attached */
    struct agent agent;
    struct self_move self;
    struct loop_source again; /* timer: to ask for the restoring once more */
    unsigned restores_left;
};

/* Gives the machine's vsock device its host side, in the monitor's directory. On failure the device is
 * there and refuses connections. */
int inside_attach(struct monitor *monitor, struct err *err) MUST_CHECK;
/* Before the machine is freed, when no mover is left. */
void inside_detach(struct monitor *monitor);

/* The mover's thread, while the guest runs: asks the agent to help, for a bounded time, or until
 * `cancel_fd` becomes readable. `on_loop` as in move/arrival.h. */
void inside_prepare(struct monitor *monitor,
                    void (*on_loop)(void *ctx, void (*fn)(void *arg), void *arg), void *ctx,
                    int cancel_fd, bool slow, struct bill_agent *ret);

/* Has the agent restore what it did, several times over if `arrived` (a guest that has just come may
 * not hear the first). Does not wait: the log and the event agent.restored tell. */
void inside_restore(struct monitor *monitor, bool arrived);

/* A guest has arrived (or was restored): its ticket is read, its agent restores. */
void inside_arrived(struct monitor *monitor);

/* A move ended and the guest is still here. */
void inside_stayed(struct monitor *monitor, const struct err *err);

/* For vm.agent: the agent's answer to hello, as JSON, or the reason. */
struct rpc_call;
void inside_hello(struct monitor *monitor, struct rpc_call *call);
