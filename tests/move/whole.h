/* Whether a guest of the fake hypervisor is whole, with its two vCPUs. */
#pragma once
#include "vm/machine.h"

/* All of its memory is as its vCPUs left it, and it goes on: a vCPU bursts every 200 us when the machine lets it. */
void whole_check(struct machine *machine);
