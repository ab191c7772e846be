package series

import (
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	influxhttp "github.com/influxdata/influxdb-client-go/v2/api/http"
)

// Action is what an answer of InfluxDB asks for.
type Action int

// The actions.
const (
	Advance Action = iota // it was taken
	Partial               // it was taken but for some lines, which never will be: go on
	Split                 // a line of it is refused: try halves, to find which
	Smaller               // it is too large: try halves
	Wait                  // try the same again later
	Refused               // address, token or bucket are wrong: nothing is tried but seldom, until somebody mends it
)

// Answer is what became of a request.
type Answer struct {
	Action     Action
	Dropped    int           // lines that were not taken, of a Partial; -1 where it does not say
	TooOld     bool          // of a Partial: they are older than what is kept there
	RetryAfter time.Duration // as it asks; 0: not said
	Message    string        // what it said, in one line
}

// dropped is how 1.x and 2.x say how many points of a batch they left out.
func droppedOf(message string) int {
	m := regexp.MustCompile(`dropped=(\d+)`).FindStringSubmatch(message)
	if m == nil {
		return -1
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return -1
	}
	return n
}

// Classify reads the answer to a write. err is what the client's blocking WriteRecord returned.
func Classify(err error) Answer {
	if err == nil {
		return Answer{}
	}
	a := Answer{Action: Wait, Message: oneLine(err.Error())}
	var e *influxhttp.Error
	if !errors.As(err, &e) {
		return a // the network, or time ran out
	}
	a.RetryAfter = time.Duration(e.RetryAfter) * time.Second
	switch code := e.StatusCode; {
	case code == http.StatusBadRequest || code == http.StatusUnprocessableEntity:
		a.Action = Split
		if strings.Contains(a.Message, "partial write") {
			a.Action, a.Dropped = Partial, droppedOf(a.Message)
			a.TooOld = strings.Contains(a.Message, "beyond retention policy")
		}
	case code == http.StatusRequestEntityTooLarge:
		a.Action = Smaller
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code == http.StatusTooEarly:
	case code >= 300 && code < 500:
		a.Action = Refused
	}
	return a
}

// oneLine is a message fit for a log and a column.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}

const maxMessage = 400
