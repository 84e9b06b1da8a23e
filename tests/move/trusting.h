/* Two hosts that trust each other, for tests of what goes between them. */
#pragma once
#include "trust/trust.h"

/* Each has a directory and a key of its own, and has pinned the other's as 127.0.0.1. */
void trusting_pair(struct trust *ret[2]);

/* One that knows nobody. */
struct trust *trusting_nobody(void);

/* Closes it and removes its directory. */
void trusting_end(struct trust *trust);
