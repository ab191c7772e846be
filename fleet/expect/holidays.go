package expect

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

// ReadHolidays reads dates, one a line (YYYY-MM-DD or YYYYMMDD). What follows a # is a remark, and empty lines
// are allowed. name stands for the file in errors.
func ReadHolidays(name string, r io.Reader) (map[gtfs.Date]bool, error) {
	holidays := map[gtfs.Date]bool{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "\ufeff"), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		date, err := gtfs.ParseDate(text)
		if err != nil {
			return nil, fmt.Errorf("%s line %d: %w", name, n, err)
		}
		holidays[date] = true
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return holidays, nil
}
