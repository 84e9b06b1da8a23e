/*
 * Which guest a monitor has, or expects: so that a host has each guest once, whatever it is called. Each monitor states the
 * uuid of its machine in its runtime directory, in the file `uuid`; all under one BASE are compared and stated under the
 * lock on BASE. A statement counts for as long as its monitor lives, however that ends.
 *
 * Whoever has a BASE of his own (another user, by default) is not seen. Any thread.
 */
#pragma once
#include "ctl/rundir.h"
#include <stdint.h>

/* -EEXIST: another monitor has this guest; the text says which. Otherwise this one has it. */
int identity_claim(const struct rundir *dir, const uint8_t uuid[16], struct err *err) MUST_CHECK;

/* It will not be here. Without a claim, nothing happens. */
void identity_withdraw(const struct rundir *dir);
