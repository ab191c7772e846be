package view

import (
	"slices"
	"strings"
)

// only keeps the rows whose text contains find, case ignored.
func only[T any](rows []T, find string, text func(T) string) []T {
	if find == "" {
		return rows
	}
	find = strings.ToLower(find)
	return slices.DeleteFunc(rows, func(row T) bool { return !strings.Contains(strings.ToLower(text(row)), find) })
}

// pageOf cuts a page, counted from 1, out of all rows. A page behind the last is the last.
func pageOf[T any](rows []T, page, limit int) (on []T, all, number, pages int) {
	all = len(rows)
	pages = max(1, (all+limit-1)/limit)
	number = min(max(page, 1), pages)
	return append([]T{}, rows[min(all, (number-1)*limit):min(all, number*limit)]...), all, number, pages
}
