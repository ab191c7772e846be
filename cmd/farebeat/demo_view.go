package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// demoScreen is what the demo shows at one moment. Rendering it is pure.
type demoScreen struct {
	City       string
	Now        time.Time // simulated
	Speed      float64
	Address    string // where an MQTT client may look
	Topic      string // what it may subscribe to
	Online     int
	Expected   int
	OpenFaults int
	Closed     int
	Home       int64 // minor units in the ledger
	AtRisk     int64 // minor units stored and not in the ledger
	Currency   string
	Routes     []demoRoute
	Recoveries []schemas.Recovery
	Events     []demoEvent // newest last
}

type demoRoute struct {
	Route                       string
	Online, Expected, Threshold int
	Since                       time.Time
	Kind                        string
}

type demoEvent struct {
	At   time.Time
	Text string
}

const (
	demoListRows = 6  // rows of each list, so that the screen fits a small terminal
	demoBarWidth = 24 // characters of a progress bar
)

// render returns the screen as lines without a trailing line feed.
func (s demoScreen) render() []string {
	lines := []string{
		fmt.Sprintf("Farebeat demo: %s, %s, %gx speed", s.City, s.Now.Format("Mon 15:04:05"), s.Speed),
		fmt.Sprintf("Look at it with any MQTT client: %s, topic %s", s.Address, s.Topic),
		"",
		fmt.Sprintf("  online %d of %d expected   open faults %d, closed %d   money home %s, still inside machines %s",
			s.Online, s.Expected, s.OpenFaults, s.Closed, money(s.Home, s.Currency), money(s.AtRisk, s.Currency)),
		"",
		"Routes with a fault",
	}
	for _, r := range s.Routes[:min(len(s.Routes), demoListRows)] {
		lines = append(lines, fmt.Sprintf("  route %-6s %2d online of %2d expected, fault below %2d, since %s  %s", r.Route, r.Online, r.Expected, r.Threshold, r.Since.Format("15:04"), r.Kind))
	}
	lines = append(lines, more(len(s.Routes))...)
	lines = append(lines, "", "Recoveries over BLE")
	for _, r := range s.Recoveries[:min(len(s.Recoveries), demoListRows)] {
		lines = append(lines, "  "+recoveryLine(r))
	}
	lines = append(lines, more(len(s.Recoveries))...)
	lines = append(lines, "", "Latest")
	for _, e := range s.Events[max(0, len(s.Events)-demoListRows):] {
		lines = append(lines, fmt.Sprintf("  %s  %s", e.At.Format("15:04:05"), e.Text))
	}
	return append(lines, "", "Ctrl-C ends it.")
}

func more(n int) []string {
	switch {
	case n == 0:
		return []string{"  none"}
	case n > demoListRows:
		return []string{fmt.Sprintf("  and %d more", n-demoListRows)}
	}
	return nil
}

// recoveryLine shows one recovery with a bar over what the ledger has of it.
func recoveryLine(r schemas.Recovery) string {
	filled := 0
	if r.Total > 0 {
		filled = int(uint64(demoBarWidth) * uint64(min(r.Receipted, r.Total)) / uint64(r.Total))
	}
	bar := strings.Repeat("#", filled) + strings.Repeat(".", demoBarWidth-filled)
	line := fmt.Sprintf("%-12s [%s] %4d of %4d home  %s", r.Machine, bar, r.Receipted, r.Total, r.State)
	if r.LastError != "" && r.State == schemas.RecoveryFailed {
		line += ": " + r.LastError
	}
	return line
}

// money writes an amount of minor units with two decimals, which all currencies of the demo have.
func money(minor int64, currency string) string {
	sign := ""
	if minor < 0 {
		sign, minor = "-", -minor
	}
	return strings.TrimSpace(fmt.Sprintf("%s%d.%02d %s", sign, minor/100, minor%100, currency))
}

// screenWriter draws screens over each other on a terminal.
type screenWriter struct {
	out   io.Writer
	lines int // of the screen before
}

func (w *screenWriter) draw(lines []string) error {
	var b strings.Builder
	if w.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", w.lines)
	}
	for _, l := range lines {
		b.WriteString("\x1b[2K" + l + "\n")
	}
	b.WriteString("\x1b[0J") // what a taller screen left below
	w.lines = len(lines)
	_, err := io.WriteString(w.out, b.String())
	return err
}
