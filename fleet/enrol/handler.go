package enrol

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/farebeat/farebeat/fleet/limit"
	"github.com/farebeat/farebeat/schemas"
)

// How often one host may ask: a depot's machines come through one address.
const (
	asksAtOnce  = 60
	askEvery    = time.Second
	limitHosts  = 4096
	limitShared = 256
)

// Handler answers devices: POST schemas.EnrolJoinPath, and schemas.EnrolRenewPath over a connection whose client certificate was verified against
// the authority. Everything that is refused is counted, and logged once a minute for each host.
func (r *Registry) Handler() http.Handler {
	h := &handler{r: r, asks: limit.New(limit.Options{Every: askEvery, Burst: asksAtOnce, Keys: limitHosts, Shared: limitShared, Sweep: time.Minute})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+schemas.EnrolJoinPath, h.answer(h.join))
	mux.HandleFunc("POST "+schemas.EnrolRenewPath, h.answer(h.renew))
	return mux
}

type handler struct {
	r    *Registry
	asks *limit.Table
}

// answer bounds, reads and answers one request.
func (h *handler) answer(do func(*http.Request, schemas.EnrolRequest, ask) (schemas.EnrolAnswer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		remote := limit.Address(req.RemoteAddr)
		answer, err := h.ask(req, remote, do)
		if err != nil {
			h.refuse(w, remote, err)
			return
		}
		status := http.StatusOK
		if answer.Status == schemas.EnrolWaiting {
			status = http.StatusAccepted
		}
		body, err := schemas.Encode(&answer)
		if err != nil {
			h.refuse(w, remote, err)
			return
		}
		write(w, status, body)
	}
}

func (h *handler) ask(req *http.Request, remote string, do func(*http.Request, schemas.EnrolRequest, ask) (schemas.EnrolAnswer, error)) (schemas.EnrolAnswer, error) {
	if after := h.asks.Take(remote, h.r.o.Now()); after > 0 {
		return schemas.EnrolAnswer{}, tooOften("this address", after)
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, schemas.MaxEnrolMessage+1))
	if err != nil {
		return schemas.EnrolAnswer{}, refuse(http.StatusBadRequest, BadRequest, "the request could not be read: %v", err)
	}
	var m schemas.EnrolRequest
	if err := schemas.DecodeEnrol(body, schemas.NameEnrolRequest, &m); err != nil {
		return schemas.EnrolAnswer{}, refuse(http.StatusBadRequest, BadRequest, "%v", err)
	}
	key, err := ParseRequest(m.CSR)
	if err != nil {
		return schemas.EnrolAnswer{}, refuse(http.StatusBadRequest, BadRequest, "%v", err)
	}
	return do(req, m, ask{key: key, code: sumOf(m.Code), role: m.Role, name: m.Name, remote: remote})
}

func (h *handler) join(req *http.Request, m schemas.EnrolRequest, a ask) (schemas.EnrolAnswer, error) {
	if err := checkClaim(m); err != nil {
		return schemas.EnrolAnswer{}, refuse(http.StatusBadRequest, BadRequest, "%v", err)
	}
	answer, err := h.r.join(req.Context(), a)
	if answer.Reason != "" {
		h.r.stats.refuse(answer.Reason)
	}
	return answer, err
}

// checkClaim wants who a device says that it is to be somebody who may have a certificate.
func checkClaim(m schemas.EnrolRequest) error {
	if m.Role == "" {
		return nil
	}
	for _, role := range Roles() {
		if string(role) == m.Role {
			return checkName(m.Name)
		}
	}
	return fmt.Errorf("role %q: want one of %v", m.Role, Roles())
}

func (h *handler) renew(req *http.Request, _ schemas.EnrolRequest, a ask) (schemas.EnrolAnswer, error) {
	if req.TLS == nil || len(req.TLS.VerifiedChains) == 0 {
		return schemas.EnrolAnswer{}, refuse(http.StatusForbidden, NoCertificate, "a renewal is asked for with the certificate that is to be renewed; a device without one joins with a code")
	}
	return h.r.renew(req.Context(), req.TLS.VerifiedChains[0][0], a)
}

func tooOften(from string, after time.Duration) *tooMany {
	return &tooMany{*refuse(http.StatusTooManyRequests, TooMany, "too many requests from %s; ask again in %s", from, after.Round(time.Second)+time.Second), after}
}

// tooMany is a refusal that ends by itself.
type tooMany struct {
	Refusal
	after time.Duration
}

// Unwrap is the refusal.
func (t *tooMany) Unwrap() error { return &t.Refusal }

// refuse tells a device why it gets nothing. What is our own trouble is logged, and told in general.
func (h *handler) refuse(w http.ResponseWriter, remote string, err error) {
	var many *tooMany
	if errors.As(err, &many) {
		w.Header().Set("Retry-After", strconv.Itoa(int(many.after.Seconds())+1))
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		refusal = refuse(http.StatusServiceUnavailable, Unavailable, "the fleet cannot do this now, see its log; ask again later")
		h.r.complain("unavailable", "a device could not be enrolled", "remote", remote, "error", err)
	} else if h.r.log.Due(remote+"\x00"+refusal.Reason, h.r.o.Now()) {
		h.r.o.Logger.Warn("a device was refused", "remote", remote, "reason", refusal.Reason, "error", refusal.Text)
	}
	h.r.stats.refuse(refusal.Reason)
	text := refusal.Text
	if len(text) > 900 {
		text = text[:900]
	}
	body, err := json.Marshal(schemas.EnrolRefusal{Reason: refusal.Reason, Text: text})
	if err != nil {
		body = nil // two strings always can be written
	}
	write(w, refusal.Status, body)
}

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a device that is gone asks again
}
