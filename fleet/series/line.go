package series

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/farebeat/farebeat/fleet/counts"
)

// AppendFrame appends a line of line protocol for each route of a frame, with seconds as time.
// (https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/)
func AppendFrame(lines []string, f counts.Frame) []string {
	at := strconv.FormatInt(f.At.Unix(), 10)
	var b strings.Builder
	for _, r := range f.Rows {
		b.Reset()
		begin(&b, "online", r.Route)
		integer(&b, " n=", r.Online)
		integer(&b, ",known=", r.Known)
		integer(&b, ",expected=", r.Expected)
		integer(&b, ",threshold=", r.Threshold)
		integer(&b, ",min=", r.Min)
		integer(&b, ",max=", r.Max)
		if f.Blind {
			integer(&b, ",blind=", 1)
		} else {
			integer(&b, ",blind=", 0)
		}
		b.WriteByte(' ')
		b.WriteString(at)
		lines = append(lines, b.String())
	}
	return lines
}

// AppendHours appends a line for each route and hour of which anything was heard.
func AppendHours(lines []string, rows []counts.HourRow) []string {
	var b strings.Builder
	for _, r := range rows {
		if r.Heard <= 0 {
			continue // no evidence, and no mean
		}
		b.Reset()
		begin(&b, "online_1h", r.Route)
		integer(&b, " c=", r.Distinct)
		integer(&b, ",min=", r.Lowest)
		integer(&b, ",p10=", r.P10)
		integer(&b, ",p50=", r.P50)
		integer(&b, ",p90=", r.P90)
		integer(&b, ",max=", r.Peak)
		b.WriteString(",mean=")
		b.WriteString(strconv.FormatFloat(r.Mean(), 'f', 3, 64))
		b.WriteByte(' ')
		b.WriteString(strconv.FormatInt(r.Start.Unix(), 10))
		lines = append(lines, b.String())
	}
	return lines
}

func begin(b *strings.Builder, measurement, route string) {
	b.WriteString(measurement)
	b.WriteString(",route=")
	tagValue(b, route)
}

// tagValue escapes a tag's value. What would end a line, or the value, cannot be escaped: a control character becomes a
// space, a backslash at the end gets a full stop behind it. An empty value is no value; it becomes "-".
func tagValue(b *strings.Builder, v string) {
	if v == "" {
		b.WriteByte('-')
		return
	}
	for _, r := range v {
		switch {
		case r == utf8.RuneError || r < ' ' || r == 0x7f:
			b.WriteString(`\ `)
		case r == ',' || r == '=' || r == ' ':
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	if strings.HasSuffix(v, `\`) {
		b.WriteByte('.')
	}
}

func integer(b *strings.Builder, name string, v int) {
	b.WriteString(name)
	b.WriteString(strconv.Itoa(v))
	b.WriteByte('i')
}
