package rulestest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of one series.
const (
	maxValues = 100_000
	maxNumber = 1_000_000_000
)

// numbers is a series of whole numbers, one for each interval. The last one holds to the end.
type numbers struct {
	values []int
	line   int
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *numbers) UnmarshalYAML(n *yaml.Node) error {
	s.line = n.Line
	err := eachToken(n, func(token string) error {
		v, err := parseRun(token)
		s.values = append(s.values, v...)
		return err
	}, func() int { return len(s.values) })
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	return nil
}

func (s *numbers) given() bool { return len(s.values) > 0 }

// at is the value of the interval with this number; none where the series is not given.
func (s *numbers) at(interval, none int) int {
	if len(s.values) == 0 {
		return none
	}
	return s.values[min(interval, len(s.values)-1)]
}

// least is the smallest value of the intervals from..to.
func (s *numbers) least(from, to int) int {
	low := s.at(to, 0)
	for i := max(from, 0); i < to; i++ {
		low = min(low, s.at(i, 0))
	}
	return low
}

// words is a series of words, such as states or fault codes.
type words struct {
	values []string
	line   int
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *words) UnmarshalYAML(n *yaml.Node) error {
	s.line = n.Line
	err := eachToken(n, func(token string) error {
		word, count := token, 1
		if i := strings.LastIndexByte(token, 'x'); i > 0 && isDigits(token[i+1:]) {
			n, err := parseCount(token, token[i+1:])
			if err != nil {
				return err
			}
			word, count = token[:i], n
		}
		for range count {
			s.values = append(s.values, word)
		}
		return nil
	}, func() int { return len(s.values) })
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	return nil
}

func (s *words) at(interval int, none string) string {
	if len(s.values) == 0 {
		return none
	}
	return s.values[min(interval, len(s.values)-1)]
}

func eachToken(n *yaml.Node, take func(string) error, taken func() int) error {
	if n.Kind != yaml.ScalarNode {
		return errors.New(`a series is one text: "12x10 7" is ten times 12, then 7 to the end`)
	}
	for token := range strings.FieldsSeq(n.Value) {
		if err := take(token); err != nil {
			return err
		}
		if taken() > maxValues {
			return fmt.Errorf("a series has more than %d values", maxValues)
		}
	}
	if taken() == 0 {
		return errors.New("a series without a value; leave the key out, or write a number")
	}
	return nil
}

// parseRun reads "7", "7x15" (fifteen times 7) and "12-1x5" (five values: 12 11 10 9 8).
func parseRun(token string) ([]int, error) {
	wrong := fmt.Errorf(`%q is no part of a series; write 7, 7x15 (fifteen times 7) or 12-1x5 (12 11 10 9 8)`, token)
	ramp, times, repeated := strings.Cut(token, "x")
	digits, by := ramp, ""
	if i := strings.LastIndexAny(ramp, "+-"); i > 0 {
		digits, by = ramp[:i], ramp[i:]
	}
	first, err := strconv.Atoi(digits)
	if err != nil && !errors.Is(err, strconv.ErrRange) || by != "" && !repeated || strings.HasPrefix(digits, "+") {
		return nil, wrong
	}
	step, count := 0, 1
	var errStep error
	if by != "" {
		if step, errStep = strconv.Atoi(by); errStep != nil && !errors.Is(errStep, strconv.ErrRange) {
			return nil, wrong
		}
	}
	if repeated {
		var errCount error
		if count, errCount = parseCount(token, times); errCount != nil {
			return nil, errCount
		}
	}
	if err != nil || errStep != nil || abs(first) > maxNumber || abs(step) > maxNumber || abs(first+step*(count-1)) > maxNumber {
		return nil, fmt.Errorf("%q goes beyond %d", token, maxNumber)
	}
	out := make([]int, count)
	for i := range out {
		out[i] = first + i*step
	}
	return out, nil
}

func parseCount(token, digits string) (int, error) {
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > maxValues {
		return 0, fmt.Errorf("%q: the number after x is not between 1 and %d", token, maxValues)
	}
	return n, nil
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func abs(n int) int { return max(n, -n) }
