/*
 * Making the short time in which a guest stands still shorter: code that has not run yet and heap that has not been
 * touched cost a page fault each, 100 us and more in all.
 */
#pragma once

/* Brings in the code of this program and its libraries, and some heap for the calling thread. Costs some 100 us. Where
 * the kernel cannot (before Linux 5.14) or a library is large, pages come when they are used, as ever. */
void warm_up(void);
