package ledger

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// ErrOverflow says that a sum of money is beyond 64 bits. It is an error and never a wrong number.
var ErrOverflow = errors.New("the sum is beyond 64 bits")

// Money is an amount in minor units of an ISO 4217 currency.
type Money struct {
	Currency string `json:"currency"`
	Minor    int64  `json:"minor"`
}

// String is the amount in the currency's own unit, such as "3.50 EUR".
func (m Money) String() string {
	return strings.TrimSpace(Major(m.Minor, m.Currency) + " " + m.Currency)
}

// addMinor adds two amounts of minor units.
func addMinor(a, b int64) (int64, error) {
	if b > 0 && a > math.MaxInt64-b || b < 0 && a < math.MinInt64-b {
		return 0, fmt.Errorf("%d and %d: %w", a, b, ErrOverflow)
	}
	return a + b, nil
}

// addMoney returns sums with an amount more, by currency.
func addMoney(sums []Money, currency string, minor int64) ([]Money, error) {
	i, there := slices.BinarySearchFunc(sums, currency, func(m Money, c string) int { return strings.Compare(m.Currency, c) })
	if !there {
		return slices.Insert(sums, i, Money{currency, minor}), nil
	}
	sum, err := addMinor(sums[i].Minor, minor)
	if err != nil {
		return sums, fmt.Errorf("add up %s: %w", currency, err)
	}
	sums[i].Minor = sum
	return sums, nil
}

// Decimals is the number of decimals of a currency by ISO 4217: two for one not known to have others.
func Decimals(currency string) int {
	switch currency {
	case "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF":
		return 0
	case "BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND":
		return 3
	case "CLF", "UYW":
		return 4
	}
	return 2
}

// Major writes an amount of minor units as a decimal number of the currency's unit, such as 350 EUR
// cents as 3.50.
func Major(minor int64, currency string) string {
	decimals := Decimals(currency)
	digits, sign := strconv.FormatInt(minor, 10), ""
	if decimals == 0 {
		return digits
	}
	if minor < 0 {
		digits, sign = digits[1:], "-"
	}
	if short := decimals + 1 - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	cut := len(digits) - decimals
	return sign + digits[:cut] + "." + digits[cut:]
}

// ParseMajor reads what Major writes: a decimal number with exactly the decimals of the currency. A number
// with other decimals is an error and not a guess: 350 of a currency with cents may mean 350.00 or 3.50.
func ParseMajor(text, currency string) (int64, error) {
	decimals := Decimals(currency)
	whole, fraction, point := strings.Cut(text, ".")
	if !number(strings.TrimPrefix(whole, "-")) || point && !number(fraction) {
		return 0, fmt.Errorf("amount %.40q: want a number such as %s", text, Major(225, currency))
	}
	if len(fraction) != decimals {
		return 0, fmt.Errorf("amount %.40q: has %d decimals, %s has %d, such as %s", text, len(fraction), currency, decimals, Major(225, currency))
	}
	minor, err := strconv.ParseInt(whole+fraction, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("amount %.40q: %w", text, ErrOverflow)
	}
	return minor, nil
}

// number reports whether text is digits only, and some.
func number(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}
