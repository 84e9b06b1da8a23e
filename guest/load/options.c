#include "load.h"

#include <stdio.h>
#include <string.h>

int load_parse_number(const char *text, uint64_t *ret)
{
    static const char units[] = "KMG";
    uint64_t value = 0;
    const char *c = text;
    for (; *c >= '0' && *c <= '9'; c++) {
        value = value * 10 + (uint64_t)(*c - '0');
        if (value > UINT32_MAX)
            return -1; /* with a unit it is still far from overflowing */
    }
    const char *unit = *c ? strchr(units, *c) : NULL;
    if (c == text || (*c && (!unit || c[1])))
        return -1;
    *ret = unit ? value << (10 * (unit - units + 1)) : value;
    return 0;
}

static const struct load *find(const struct load *loads, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(loads[i].name, name) == 0)
            return &loads[i];
    return NULL;
}

/* Takes one KEY=VALUE. 0, or -1 with what is wrong in `why`. */
static int take(const struct load *load, char *word, uint64_t value[LOAD_OPTIONS_MAX],
                unsigned *seen, char *why, size_t size)
{
    char *number = strchr(word, '=');
    if (number)
        *number++ = '\0';
    for (unsigned i = 0; i < LOAD_OPTIONS_MAX && load->option[i].key; i++) {
        const struct load_option *option = &load->option[i];
        if (strcmp(option->key, word) != 0)
            continue;
        if (*seen & 1u << i) {
            snprintf(why, size, "%s is there twice", word);
            return -1;
        }
        *seen |= 1u << i;
        if (!number || load_parse_number(number, &value[i]) < 0 || value[i] < option->min ||
            value[i] > option->max) {
            snprintf(why, size, "%s: want %llu to %llu, perhaps with K, M or G", word,
                     (unsigned long long)option->min, (unsigned long long)option->max);
            return -1;
        }
        return 0;
    }
    snprintf(why, size, "%s has no option %s", load->name, word);
    return -1;
}

const struct load *load_parse(const struct load *loads, size_t count, const char *text,
                              uint64_t value[LOAD_OPTIONS_MAX], char *why, size_t size)
{
    char copy[256], *rest = copy;
    unsigned seen = 0;
    if (strlen(text) >= sizeof(copy)) {
        snprintf(why, size, "too long");
        return NULL;
    }
    strcpy(copy, text);
    const char *name = strsep(&rest, ",");
    const struct load *load = find(loads, count, name);
    if (!load) {
        snprintf(why, size, "there is no load %s", name);
        return NULL;
    }
    for (unsigned i = 0; i < LOAD_OPTIONS_MAX; i++)
        value[i] = load->option[i].fallback;
    while (rest)
        if (take(load, strsep(&rest, ","), value, &seen, why, size) < 0)
            return NULL;
    return load;
}
