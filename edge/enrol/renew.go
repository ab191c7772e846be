package enrol

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/farebeat/farebeat/schemas"
)

// Renewer gets a device the next certificate before the one it has is over.
type Renewer struct {
	File   string // with key and certificate, see DeviceFile
	CAFile string // the fleet's authority
	URL    string // https://host:port of the fleet
	Files  Files
	Now    func() time.Time
	Logger *slog.Logger
}

// Bounds of a renewer's pauses.
const (
	// A device's clock may jump, and another command may bring another certificate: it is looked at this often.
	lookAgain   = 15 * time.Minute
	renewLeast  = time.Minute
	renewMost   = time.Hour
	renewSpread = 10 // a fleet that was enrolled in a day renews over a tenth of the last third
)

// Run renews until ctx ends. What fails is logged and tried again; a certificate that is over needs the device to be enrolled again.
func (r Renewer) Run(ctx context.Context) {
	spread := rand.Float64() / renewSpread
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval, pause.Multiplier = renewLeast, renewMost, 2
	for {
		wait, due, err := r.due(spread)
		if due {
			var d Device
			if d, err = r.Renew(ctx); err == nil {
				r.Logger.Info("the certificate was renewed", "file", r.File, "until", d.Cert.NotAfter)
				pause.Reset()
				continue
			}
			wait = pause.NextBackOff()
		}
		if err != nil && ctx.Err() == nil {
			r.Logger.Warn("the certificate is not renewed; it is tried again", "file", r.File, "in", wait.Round(time.Second), "error", err)
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// due reports whether it is time, and else for how long to wait before looking again.
func (r Renewer) due(spread float64) (wait time.Duration, due bool, err error) {
	d, err := r.Files.ReadDevice(r.File)
	if err != nil {
		return lookAgain, false, err
	}
	now := r.Now()
	if !now.Before(d.Cert.NotAfter) {
		return lookAgain, false, fmt.Errorf("it expired at %s: join again with another code (farebeat join URL --again)", d.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	from := schemas.RenewFrom(d.Cert.NotBefore, d.Cert.NotAfter)
	from = from.Add(time.Duration(spread * float64(d.Cert.NotAfter.Sub(from))))
	if now.Before(from) {
		return min(from.Sub(now), lookAgain), false, nil
	}
	return 0, true, nil
}

// Renew gets the next certificate, with another key, and puts both in the place of those before at once. The key is kept before it is shown, so that
// after a crash or a lost answer the same one is asked with again. The certificate before stays good until its end.
func (r Renewer) Renew(ctx context.Context) (Device, error) {
	address, err := schemas.ParseEnrolAddress(r.URL)
	if err != nil {
		return Device{}, err
	}
	old, err := r.Files.ReadDevice(r.File)
	if err != nil {
		return Device{}, err
	}
	authority, err := os.ReadFile(r.CAFile)
	if err != nil {
		return Device{}, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return Device{}, fmt.Errorf("%s: has no certificate in PEM form", r.CAFile)
	}
	key, err := r.Files.pendingKey(r.File + nextSuffix)
	if err != nil {
		return Device{}, err
	}
	if key.Equal(old.Key) { // a crash between the last two steps
		if err := remove(r.File + nextSuffix); err != nil {
			return Device{}, err
		}
		if key, err = r.Files.pendingKey(r.File + nextSuffix); err != nil {
			return Device{}, err
		}
	}
	csr, err := request(key)
	if err != nil {
		return Device{}, err
	}
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{old.tls()}, Time: r.Now}
	answer, err := ask(ctx, address, schemas.EnrolRenewPath, config, schemas.EnrolRequest{CSR: csr})
	if err != nil {
		return Device{}, err
	}
	cert, err := certificateOf(answer, key, pool, r.Now())
	if err != nil {
		return Device{}, err
	}
	if err := sameIdentity(old.Cert, cert); err != nil {
		return Device{}, err
	}
	next := Device{key, cert}
	text, err := next.pem()
	if err != nil {
		return Device{}, err
	}
	if err := r.Files.Replace(r.File, text, 0o600); err != nil {
		return Device{}, err
	}
	return next, remove(r.File + nextSuffix)
}

// sameIdentity wants the next certificate to name who the one before names.
func sameIdentity(old, next *x509.Certificate) error {
	if len(old.URIs) != 1 || len(next.URIs) != 1 || old.URIs[0].String() != next.URIs[0].String() {
		return errors.New("the certificate in the answer is for another identity")
	}
	return nil
}
