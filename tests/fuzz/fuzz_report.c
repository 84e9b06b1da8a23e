/* The forms of a working set's report, made from JSON that another version's monitor, or anything, may have sent. */
#include "fuzz.h"
#include "wws/report.h"

static char *printed(const json_t *report, void (*form)(const json_t *, FILE *))
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    FUZZ_CHECK(out);
    form(report, out);
    FUZZ_CHECK(fclose(out) == 0);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = json_loadb((const char *)data, size, 0, NULL);
    if (!json)
        return 0;
    char *svg = printed(json, report_svg);
    FUZZ_CHECK(strstr(svg, "</svg>"));
    const char *end = strstr(svg, "</text>"); /* the name is up to here */
    FUZZ_CHECK(end && !strstr(end, "nan") && !strstr(end, "inf"));
    free(svg);
    free(printed(json, report_csv));
    free(printed(json, report_text));
    json_decref(json);
    return 0;
}
