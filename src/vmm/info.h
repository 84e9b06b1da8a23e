/* What a monitor answers to vm.info and vm.balloon (docs/control.md). Loop's thread. */
#pragma once
#include "vmm/monitor.h"

json_t *info_of(struct monitor *monitor);
json_t *info_of_balloon(const struct machine *machine);
