#include "whole.h"
#include "kvm/fake.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static uint64_t steps_of(struct machine *machine, unsigned vcpu)
{
    struct hv_vcpu_state *state = calloc(1, sizeof(*state));
    assert_int_equal(machine->hv->ops->vcpu_save(machine->vcpus.vcpu[vcpu].hv, state, NULL), 0);
    uint64_t steps = state->gpr[0];
    free(state);
    return steps;
}

/* Every page holds what its vCPUs' steps left there; returns how many steps that were. */
static uint64_t check_memory(struct machine *machine)
{
    struct err err;
    uint64_t steps = 0;
    assert_int_equal(machine_pause(machine, &err), 0);
    for (unsigned id = 0; id < 2; id++) {
        uint64_t page;
        if (!hv_fake_verify(machine->mem.host, machine->mem.pages, id, steps_of(machine, id),
                            &page))
            fail_msg("vCPU %u: page %llu is wrong", id, (unsigned long long)page);
        steps += steps_of(machine, id);
    }
    machine_resume(machine);
    return steps;
}

void whole_check(struct machine *machine)
{
    assert_non_null(machine);
    uint64_t before = check_memory(machine), now = before;
    for (int tries = 0; tries < 2000 && now == before; tries++) {
        (void)poll(NULL, 0, 5);
        now = check_memory(machine);
    }
    assert_true(now > before);
}
