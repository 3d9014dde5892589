/* table: columns as wide as what is in them, and times as people say them. */
#include "keyctl/keyctl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

void when_text(long long at, char ret[32])
{
	time_t t = (time_t)at;

	strcpy(ret, "-");
	if (at)
		strftime(ret, 32, "%F %T", localtime(&t));
}

void span_text(long long seconds, char ret[32])
{
	long long minutes = seconds / 60, hours = minutes / 60, days = hours / 24;

	if (days)
		snprintf(ret, 32, "%lldd %lldh", days, hours % 24);
	else if (hours)
		snprintf(ret, 32, "%lldh %lldm", hours, minutes % 60);
	else if (minutes)
		snprintf(ret, 32, "%lldm", minutes);
	else
		snprintf(ret, 32, "%llds", seconds);
}

static void print_row(const json_t *row, const size_t *width, size_t columns)
{
	for (size_t c = 0; c + 1 < columns; c++)
		printf("%-*s  ", (int)width[c], json_string_value(json_array_get(row, c)));
	puts(json_string_value(json_array_get(row, columns - 1)));
}

void table_print(json_t *rows)
{
	size_t width[TABLE_COLUMNS] = {0}, columns = MIN(json_array_size(json_array_get(rows, 0)), TABLE_COLUMNS), k;
	json_t *row;

	json_array_foreach(rows, k, row)
		for (size_t c = 0; c < columns; c++)
			width[c] = MAX(width[c], json_string_length(json_array_get(row, c)));
	json_array_foreach(rows, k, row) print_row(row, width, columns);
	json_decref(rows);
}
