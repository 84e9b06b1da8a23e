/* What this monitor has used so far: the method vm.usage (docs/control.md). */
#pragma once
#include "vmm/monitor.h"

/* A new object. Main thread. */
json_t *usage_json(struct monitor *monitor);
