package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/mask"
)

const (
	requestTimeout = 30 * time.Second
	maxAnswer      = 64 << 10 // bytes of an answer that are read, so that its connection can be used again
	maxShown       = 200      // bytes of an answer that are shown to a person
	maxRetryAfter  = time.Hour
)

// Answer is what a receiver said.
type Answer struct {
	Status int    // of HTTP
	Text   string // the beginning of its body, printable
}

// sendError is why a receiver did not take what was sent.
type sendError struct {
	answer     Answer        // zero where none came
	retryAfter time.Duration // as the receiver asks; 0: it does not
	cause      error         // where no answer came
}

func (e *sendError) Error() string {
	if e.cause != nil {
		return e.cause.Error()
	}
	text := fmt.Sprintf("it answered %d %s", e.answer.Status, http.StatusText(e.answer.Status))
	if e.answer.Text != "" {
		text += ": " + e.answer.Text
	}
	if e.answer.Status >= 300 && e.answer.Status < 400 {
		text += " (redirects are not followed: configure the address itself)"
	}
	return text
}

func (e *sendError) Unwrap() error { return e.cause }

// refused reports whether the same request is unlikely to be taken later: an answer that is neither success nor a
// passing state.
func (e *sendError) refused() bool {
	switch s := e.answer.Status; {
	case e.cause != nil, s >= 500:
		return false
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusTooManyRequests:
		return false
	}
	return true
}

// poster sends JSON. It follows no redirect: a signed event, or credentials, go only to where they were configured for.
type poster struct {
	client http.Client
	now    func() time.Time
}

func newPoster(transport http.RoundTripper, now func() time.Time) *poster {
	return &poster{now: now, client: http.Client{
		Transport: mask.Transport{Next: transport, Path: true}, Timeout: requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// post sends body; an error other than of ctx is a *sendError.
func (p *poster) post(ctx context.Context, to string, header http.Header, body []byte) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return Answer{}, &sendError{cause: withoutURL(err)}
	}
	req.Header = header
	res, err := p.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return Answer{}, ctx.Err()
		}
		return Answer{}, &sendError{cause: withoutURL(err)}
	}
	defer res.Body.Close()
	// The status is the answer; a body that breaks off changes nothing of it.
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	a := Answer{Status: res.StatusCode, Text: printable(text)}
	if a.Status >= 200 && a.Status < 300 {
		return a, nil
	}
	return a, &sendError{answer: a, retryAfter: retryAfter(res.Header.Get("Retry-After"), p.now())}
}

// withoutURL drops the address, which may hold a secret.
func withoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

func printable(b []byte) string {
	b = b[:min(len(b), maxShown)]
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(b), "?")))
}

// retryAfter reads the header of this name (RFC 9110, section 10.2.3): seconds or a date. 0 where it says nothing, an
// hour at most.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	var d time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
