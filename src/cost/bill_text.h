/* The bill as a page for people. */
#pragma once
#include <jansson.h>
#include <stdio.h>

/* Prints a bill (bill_json(), or one read from a file; what is missing or wrong in it shows as 0
 * or "?") within 80 columns. Texts in it come from the peer too: control characters are
 * replaced. */
void bill_text(const json_t *bill, FILE *out);
