package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
)

const (
	// certifyEvery is how often the days that are over are looked at.
	certifyEvery = time.Hour
	// certifyAfter is when a service day is over: 36 hours after its date began. Service runs past midnight.
	certifyAfter = 36 * time.Hour
	// certifyDays is how many days back are looked at. What comes later still is a difference that
	// `farebeat ledger certify` shows, and issues on request.
	certifyDays = 45
)

// certify issues the certificates of service days that are over, and new revisions of those that a late record changed.
// It does nothing where the keys cannot sign.
func (f *Fleet) certify(ctx context.Context) {
	if _, ok := f.o.Keys.(keys.Signer); !ok {
		return
	}
	ticker := time.NewTicker(certifyEvery)
	defer ticker.Stop()
	for {
		if n, err := f.certifyOnce(ctx); err != nil && ctx.Err() == nil {
			f.o.Logger.Error("certificates of service days were not issued; it is tried again", "in", certifyEvery, "error", err)
		} else if n > 0 {
			f.o.Logger.Info("certificates of service days were issued", "certificates", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (f *Fleet) certifyOnce(ctx context.Context) (int, error) {
	c, err := f.Certifier(ctx)
	if err != nil {
		return 0, err
	}
	over := f.o.Now().In(f.engine.cfg.Location).Add(-certifyAfter)
	return c.IssueDue(ctx, over.AddDate(0, 0, -certifyDays), over)
}

// ErrNoSigner says that the service's keys cannot sign certificates.
var ErrNoSigner = errors.New("the keys of this service cannot sign")

// Certifier draws up certificates by what machines declared until now. The error is ErrNoSigner, or the store's.
func (f *Fleet) Certifier(ctx context.Context) (*ledger.Certifier, error) {
	signer, ok := f.o.Keys.(keys.Signer)
	if !ok {
		return nil, ErrNoSigner
	}
	declared, err := f.Declared(ctx)
	return f.ledger.Certifier(signer, declared), err
}

// Declared is what machines said last of their journals, as the store has it.
func (f *Fleet) Declared(ctx context.Context) (ledger.Declarations, error) {
	roster, err := f.o.Store.Roster(ctx)
	if err != nil {
		return nil, err
	}
	open, err := f.o.Store.Faults().Open(ctx)
	if err != nil {
		return nil, err
	}
	return Declared(roster, open), nil
}
