#include "cost/exposition.h"

#include <stdarg.h>

#define NS_PER_S 1000000000u

void exposition_family(FILE *out, const char *name, const char *type, const char *help)
{
    (void)fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* The format knows three escapes, and no other control character is special to it. */
static void put_label_value(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"' || *text == '\n')
            (void)fputc('\\', out);
        (void)fputc(*text == '\n' ? 'n' : *text, out);
    }
}

static void put_name(FILE *out, const char *name, va_list labels)
{
    const char *key, *before = "{";
    (void)fputs(name, out);
    while ((key = va_arg(labels, const char *))) {
        (void)fprintf(out, "%s%s=\"", before, key);
        put_label_value(out, va_arg(labels, const char *));
        (void)fputc('"', out);
        before = ",";
    }
    (void)fputs(*before == ',' ? "} " : " ", out);
}

void exposition_count(FILE *out, const char *name, uint64_t value, ...)
{
    va_list labels;
    va_start(labels, value);
    put_name(out, name, labels);
    va_end(labels);
    (void)fprintf(out, "%llu\n", (unsigned long long)value);
}

void exposition_seconds(FILE *out, const char *name, uint64_t ns, ...)
{
    va_list labels;
    va_start(labels, ns);
    put_name(out, name, labels);
    va_end(labels);
    (void)fprintf(out, "%llu.%09llu\n", (unsigned long long)(ns / NS_PER_S),
                  (unsigned long long)(ns % NS_PER_S));
}

void exposition_ratio(FILE *out, const char *name, uint64_t permille, ...)
{
    va_list labels;
    va_start(labels, permille);
    put_name(out, name, labels);
    va_end(labels);
    (void)fprintf(out, "%llu.%03llu\n", (unsigned long long)(permille / 1000),
                  (unsigned long long)(permille % 1000));
}
