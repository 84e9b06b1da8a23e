#include "wws/report.h"

#include <inttypes.h>

static double seconds(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key)) / 1e9;
}

static json_int_t count(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static void series(const json_t *list, const char *name, const char *x, double scale, FILE *out)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *point = json_array_get(list, i);
        (void)fprintf(out, "%s,%.9g,%" JSON_INTEGER_FORMAT ",,,,,,,\n", name,
                      json_number_value(json_object_get(point, x)) / scale, count(point, "pages"));
    }
}

void report_csv(const json_t *report, FILE *out)
{
    const json_t *list = json_object_get(report, "predictions");
    (void)fprintf(out,
                  "series,x,pages,bytes_per_s,mode,total_s,downtime_s,bytes,rounds,last_pages\n");
    series(json_object_get(report, "dirty_rate"), "dirty_until_s", "until_ns", 1e9, out);
    series(json_object_get(report, "unique"), "unique_in_window_s", "window_ns", 1e9, out);
    series(json_object_get(report, "times_written"), "written_in_intervals", "intervals", 1, out);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *p = json_array_get(list, i);
        const char *mode = json_string_value(json_object_get(p, "mode"));
        (void)fprintf(out,
                      "prediction,,,%" JSON_INTEGER_FORMAT ",%s,%.9f,%.9f,%" JSON_INTEGER_FORMAT
                      ",%" JSON_INTEGER_FORMAT ",%" JSON_INTEGER_FORMAT "\n",
                      count(p, "bytes_per_s"), mode ? mode : "", seconds(p, "total_ns"),
                      seconds(p, "downtime_ns"), count(p, "bytes"), count(p, "rounds"),
                      count(p, "last_pages"));
    }
}
