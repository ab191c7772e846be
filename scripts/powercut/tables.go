package powercut

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Tables writes out every row of every table of a database, and an error where SQLite finds that the file does not hold together.
func Tables(query func(query string, args ...any) (*sql.Rows, error)) (string, error) {
	verdict, err := lines(query, `PRAGMA integrity_check`)
	if err != nil {
		return "", err
	}
	if len(verdict) != 1 || verdict[0] != "ok" {
		return "", fmt.Errorf("integrity check: %s", strings.Join(verdict, "; "))
	}
	names, err := lines(query, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name`)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, name := range names {
		rows, err := lines(query, `SELECT * FROM `+name)
		if err != nil {
			return "", err
		}
		slices.Sort(rows)
		for _, row := range rows {
			fmt.Fprintf(&out, "%s|%s\n", name, row)
		}
	}
	return out.String(), nil
}

// lines gives the rows of an answer, values divided by a bar.
func lines(query func(query string, args ...any) (*sql.Rows, error), q string) (out []string, err error) {
	rows, err := query(q)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		values, dest := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			dest[i] = &values[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		row := make([]string, len(values))
		for i, v := range values {
			if b, ok := v.([]byte); ok {
				v = fmt.Sprintf("%q", b)
			}
			row[i] = fmt.Sprint(v)
		}
		out = append(out, strings.Join(row, "|"))
	}
	return out, rows.Err()
}
