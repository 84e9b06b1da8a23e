#include "cmd/python.h"

const struct command cmd_report = {
    .name = "report",
    .summary = "make a measurement's report again, or compare two",
    .text =
        "Makes the page, tables and figures of what 'godwit measure' kept in REPORT/raw, and prints the verdict and the "
        "table. Nothing is measured.\n\n"
        "With the word diff for REPORT, compares the reports BEFORE and AFTER, and says which differences exceed the noise.",
    .example = "  godwit report web/\n"
               "  godwit report web/ --png --csv\n"
               "  godwit report diff before/ after/\n",
    .arguments =
        (const struct cmd_option[]){
            { .name = "REPORT",
              .kind = CMD_DIR,
              .help =
                  "the folder that 'godwit measure' wrote to, report if not given; or the word diff" },
            { .name = "BEFORE", .kind = CMD_DIR, .help = "with diff: the report to compare with" },
            { .name = "AFTER", .kind = CMD_DIR, .help = "with diff: the report to compare" },
            { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "png", .kind = CMD_FLAG, .help = "each figure as PNG, too" },
            { .name = "csv", .kind = CMD_FLAG, .help = "the data of each figure as CSV, too" },
            { .name = "json",
              .kind = CMD_FLAG,
              .help = "print the summary as JSON instead of the table" },
            { 0 } },
    .fn = python_run,
};
