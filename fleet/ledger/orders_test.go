package ledger

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drain reads all orders of a reader, and its bad lines.
func drain(r *OrderReader) (orders []Order, bad []string, err error) {
	for {
		o, err := r.Next()
		var line *LineError
		switch {
		case errors.Is(err, io.EOF):
			return orders, bad, nil
		case errors.As(err, &line):
			bad = append(bad, err.Error())
		case err != nil:
			return orders, bad, err
		default:
			orders = append(orders, o)
		}
	}
}

func TestOrderFile(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		want []Order
		bad  []string
	}{
		"minor units": {
			"machine,epoch,seq,amount_minor\nm,1,2,225\nm,1,3,-225\r\n\n\"a,b\",4294967295,4294967295,0",
			[]Order{{2, "m", 1, 2, 225, ""}, {3, "m", 1, 3, -225, ""}, {5, "a,b", 4294967295, 4294967295, 0, ""}},
			nil,
		},
		"amount without a currency is minor units": {"machine,epoch,seq,amount\nm,1,2,225", []Order{{2, "m", 1, 2, 225, ""}}, nil},
		"decimals of the currency": {
			"\ufeffCurrency, Amount ,order,seq,EPOCH,machine\nUSD,2.25,x,2,1,m\nJPY,225,x,3,1,m\nKWD,-0.225,x,4,1,m\n",
			[]Order{{2, "m", 1, 2, 225, "USD"}, {3, "m", 1, 3, 225, "JPY"}, {4, "m", 1, 4, -225, "KWD"}},
			nil,
		},
		"minor units with a currency": {"machine,epoch,seq,amount_minor,currency\nm,1,2,225,USD", []Order{{2, "m", 1, 2, 225, "USD"}}, nil},
		"what is wrong": {
			"machine,epoch,seq,amount,currency\nm,1,2,2.2,USD\nm,1,2,2.250,USD\nm,1,2,+2.25,USD\nm,1,2,2.25,usd\nm,1,2,1e3,USD\nm,1,2,,USD\nm,1,2,.25,USD\nm,1,2,2.-5,USD\n" +
				"m,1,2,99999999999999999999.00,USD\nm,1,2,90000000000000.00,USD\nm,-1,2,2.25,USD\nm,1,4294967296,2.25,USD\nm,1,2,2.25,USD,x\n\xff,1,2,2.25,USD\nm,1,1,2.25,",
			nil,
			[]string{
				`line 2: amount "2.2": has 1 decimals, USD has 2, such as 2.25`, `line 3: amount "2.250": has 3 decimals, USD has 2, such as 2.25`,
				`line 4: amount "+2.25": want a number such as 2.25`, `line 5: currency "usd": want three capitals of ISO 4217`,
				`line 6: amount "1e3": want a number such as 2.25`, `line 7: amount "": want a number such as 2.25`, `line 8: amount ".25": want a number such as 2.25`,
				`line 9: amount "2.-5": want a number such as 2.25`, `line 10: amount "99999999999999999999.00": the sum is beyond 64 bits`,
				`line 11: amount 9000000000000000 in minor units is beyond 1000000000000, which no fare is`, `line 12: epoch "-1": want a whole number from 1 to 4294967295`,
				`line 13: seq "4294967296": want a whole number from 1 to 4294967295`, `line 14: 6 fields, the header has 5`, `line 15: is not UTF-8`,
				`line 16: currency "": want three capitals of ISO 4217`,
			},
		},
		"minor units that are not": {
			"machine,epoch,seq,amount\nm,1,2,2.25\nm,1,2,+5\nm,1,2,x\n", nil,
			[]string{`line 2: amount "2.25": a decimal number needs a column currency`, `line 3: amount "+5": want a whole number of minor units`, `line 4: amount "x": want a whole number of minor units`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := NewOrderReader(strings.NewReader(c.file))
			if err != nil {
				t.Fatal(err)
			}
			orders, bad, err := drain(r)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, orders); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.bad, bad); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOrderFilesThatAreNone(t *testing.T) {
	for file, want := range map[string]string{
		"":                                      "line 1: the file is empty",
		"machine;epoch;seq;amount\n":            "line 1: column machine is missing",
		"machine,epoch,amount\n":                "line 1: column seq is missing",
		"machine,epoch,seq\n":                   "line 1: want one of the columns amount_minor and amount",
		"machine,epoch,seq,amount,amount_minor": "line 1: want one of the columns",
		"machine,epoch,seq,seq,amount":          "line 1: column seq is there twice",
		"machine,\"epoch":                       "line 1: quotes do not match",
		strings.Repeat("x", maxOrderLine+1):     "line 1: longer than 65536 bytes",
	} {
		if _, err := NewOrderReader(strings.NewReader(file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", file, err, want)
		}
	}
	long := "machine,epoch,seq,amount\n" + strings.Repeat("x", maxOrderLine+1)
	if _, err := ReadOrders(strings.NewReader(long), t.TempDir()); err == nil || !strings.Contains(err.Error(), "line 2: longer than") {
		t.Error(err)
	}
	many := "machine,epoch,seq,amount\n" + strings.Repeat("m,1,1\n", 30)
	if _, err := ReadOrders(strings.NewReader(many), t.TempDir()); err == nil || !strings.Contains(err.Error(), "30 lines are wrong") || strings.Count(err.Error(), "fields") != maxLineErrors {
		t.Error(err)
	}
}

// TestOrdersAreSorted: with whatever fits in memory at once, all orders come back once, by key and line, and no file stays.
func TestOrdersAreSorted(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		var file strings.Builder
		file.WriteString("machine,epoch,seq,amount_minor,currency\n")
		n := rapid.IntRange(0, 30).Draw(t, "orders")
		for range n {
			fmt.Fprintf(&file, "%s,%d,%d,%d,%s\n", rapid.SampledFrom([]string{"a", "b", "ü", "b!"}).Draw(t, "machine"), rapid.IntRange(1, 3).Draw(t, "epoch"),
				rapid.SampledFrom([]uint32{1, 2, math.MaxUint32}).Draw(t, "seq"), rapid.IntRange(-5, 5).Draw(t, "amount"), rapid.SampledFrom([]string{"USD", "JPY"}).Draw(t, "currency"))
		}
		r, err := NewOrderReader(strings.NewReader(file.String()))
		if err != nil {
			t.Fatal(err)
		}
		want, _, err := drain(r)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortStableFunc(want, func(a, b Order) int { return a.key().compare(b.key()) })
		orders, err := readOrders(strings.NewReader(file.String()), dir, rapid.IntRange(1, 12).Draw(t, "at once"))
		if err != nil {
			t.Fatal(err)
		}
		var got []Order
		for {
			o, there := orders.peek()
			if !there {
				break
			}
			got = append(got, o)
			if err := orders.take(); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || orders.Count != uint64(n) {
			t.Fatalf("%d orders: %s", orders.Count, diff)
		}
		if err := orders.Close(); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Fatalf("left behind: %v, %v", left, err)
		}
	})
}

// TestTornSpill: a temporary file that lost its end is an error, and not fewer orders.
func TestTornSpill(t *testing.T) {
	orders, err := readOrders(strings.NewReader("machine,epoch,seq,amount\nm,1,1,5\nm,1,2,5\nm,1,3,5\nm,1,4,5\n"), t.TempDir(), 4)
	if err != nil {
		t.Fatal(err)
	}
	defer orders.Close()
	f := orders.files[0]
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for cut := int64(1); cut < 7; cut++ {
		if err := f.Truncate(info.Size() - cut); err != nil {
			t.Fatal(err)
		}
		orders.sources, orders.loose = nil, nil
		err := orders.begin()
		for n := 0; err == nil; n++ {
			if _, there := orders.peek(); !there {
				t.Fatalf("cut by %d bytes: it ended after %d orders", cut, n)
			}
			err = orders.take()
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut by %d bytes: %v", cut, err)
		}
	}
	if _, err := readOrders(strings.NewReader("machine,epoch,seq,amount\nm,1,1,5\n"), t.TempDir()+"/nowhere", 1); err == nil {
		t.Error("spilled to nowhere")
	}
}

func FuzzOrders(f *testing.F) {
	for _, seed := range []string{
		"machine,epoch,seq,amount_minor\nm,1,2,225\n", "machine,epoch,seq,amount,currency\nm,1,2,2.25,USD\n\"m\",1,3,-0.05,EUR\n",
		"\ufeffmachine,epoch,seq,amount\n\n,0,x,\n", "machine,epoch,seq,amount\nm,1,1,\"5\nm,1,1,5\n", "a", "\"", "machine;epoch\n", "machine,epoch,seq,amount\r\nm,1,1,9223372036854775807\r\n",
	} {
		f.Add(seed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, file string) {
		r, err := NewOrderReader(strings.NewReader(file))
		if err != nil {
			return
		}
		orders, bad, err := drain(r)
		for _, o := range orders {
			if o.Machine == "" || o.Epoch == 0 || o.Seq == 0 || o.Minor > MaxAmount || o.Minor < -MaxAmount || o.Line < 2 || o.Currency != "" && !isCurrency(o.Currency) {
				t.Fatalf("accepted %+v", o)
			}
		}
		sorted, readErr := readOrders(strings.NewReader(file), dir, 2)
		if (readErr == nil) != (err == nil && len(bad) == 0) {
			t.Fatalf("%d bad lines and %v, but ReadOrders says %v", len(bad), err, readErr)
		}
		if readErr == nil {
			if sorted.Count != uint64(len(orders)) {
				t.Fatalf("%d orders, want %d", sorted.Count, len(orders))
			}
			if err := sorted.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestMoneyIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		currency := rapid.SampledFrom([]string{"USD", "JPY", "KWD", "CLF", "XXX"}).Draw(t, "currency")
		minor := rapid.Int64().Draw(t, "minor")
		if got, err := ParseMajor(Major(minor, currency), currency); err != nil || got != minor {
			t.Fatalf("%d %s is written %q and read %d, %v", minor, currency, Major(minor, currency), got, err)
		}
		a, b := rapid.Int64().Draw(t, "a"), rapid.Int64().Draw(t, "b")
		sum, err := addMinor(a, b)
		wide := float64(a) + float64(b)
		if err == nil && sum != a+b || err != nil && math.Abs(wide) < math.MaxInt64/2 || err == nil && math.Signbit(wide) != (sum < 0) && math.Abs(wide) > 1e6 {
			t.Fatalf("%d + %d is %d, %v", a, b, sum, err)
		}
	})
	for _, c := range [][2]int64{{math.MaxInt64, 1}, {math.MinInt64, -1}, {math.MaxInt64, math.MaxInt64}} {
		if _, err := addMinor(c[0], c[1]); !errors.Is(err, ErrOverflow) {
			t.Errorf("%d + %d: %v", c[0], c[1], err)
		}
	}
	if sum, err := addMinor(math.MaxInt64, math.MinInt64); err != nil || sum != -1 {
		t.Errorf("%d, %v", sum, err)
	}
	sums, err := addMoney(nil, "USD", math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	if sums, err = addMoney(sums, "EUR", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := addMoney(sums, "USD", 1); !errors.Is(err, ErrOverflow) {
		t.Errorf("an overflow became %v", err)
	}
	if diff := cmp.Diff([]Money{{"EUR", 1}, {"USD", math.MaxInt64}}, sums); diff != "" {
		t.Error(diff)
	}
}
