package hci

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-ble/ble/linux/hci/cmd"
)

// Times of the link layer. Units are those of the commands.
const (
	scanInterval      = 96  // 60 ms, in 0.625 ms
	scanWindow        = 80  // 50 ms of each: some time is left for links
	intervalMin       = 12  // 15 ms between connection events, in 1.25 ms
	intervalMax       = 12  // no longer: the machine is read as fast as it goes, one at a time
	supervision       = 400 // 4 s without a packet end a link, in 10 ms
	advertisingMin    = 160 // 100 ms, in 0.625 ms
	advertisingMax    = 240 // 150 ms
	reasonRemoteEnded = 0x13
	allChannels       = 7
)

// take waits for the turn to scan or dial.
func (h *Host) take(ctx context.Context) (release func(), err error) {
	select {
	case h.radio <- struct{}{}:
		return func() { <-h.radio }, nil
	case <-h.done:
		return nil, h.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// aside is a context for what must be undone though ctx is over. A command has a timeout of its own.
func aside(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// Scan calls hear for each connectable advertisement and scan response until ctx ends, and returns nil then. hear is called
// from one goroutine; it must not block, and the report's data is valid within only.
func (h *Host) Scan(ctx context.Context, hear func(Report)) (err error) {
	release, err := h.take(ctx)
	if err != nil {
		if ctx.Err() != nil && h.Err() == nil {
			return nil
		}
		return err
	}
	defer release()
	listen := func(f func(Report)) {
		h.mu.Lock()
		h.listening = f
		h.mu.Unlock()
	}
	listen(hear)
	defer listen(nil)
	if _, err := h.command(aside(ctx), &cmd.LESetScanParameters{LEScanType: 1, LEScanInterval: scanInterval, LEScanWindow: scanWindow, OwnAddressType: h.addressType()}); err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	if _, err := h.command(aside(ctx), &cmd.LESetScanEnable{LEScanEnable: 1}); err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	select {
	case <-h.done:
		return h.Err()
	case <-ctx.Done():
	}
	if _, err := h.command(aside(ctx), &cmd.LESetScanEnable{}); err != nil {
		return fmt.Errorf("stop scanning: %w", err)
	}
	return nil
}

// Dial connects to a device. It returns ctx's error if nobody answers until ctx ends.
func (h *Host) Dial(ctx context.Context, a Address) (*Conn, error) {
	release, err := h.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := h.ended(ctx, a); err != nil {
		return nil, err
	}
	result := make(chan dialled, 1)
	h.mu.Lock()
	h.dialling = result
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.dialling = nil
		h.mu.Unlock()
	}()
	c := &cmd.LECreateConnection{
		LEScanInterval: scanInterval, LEScanWindow: scanWindow, PeerAddress: a.Bytes, OwnAddressType: h.addressType(),
		ConnIntervalMin: intervalMin, ConnIntervalMax: intervalMax, SupervisionTimeout: supervision,
	}
	if a.Random {
		c.PeerAddressType = 1
	}
	if _, err := h.command(aside(ctx), c); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	select {
	case d := <-result:
		return d.conn, d.err
	case <-h.done:
		return nil, h.Err()
	case <-ctx.Done():
		return nil, h.cancelDial(ctx, result)
	}
}

// cancelDial ends an attempt to connect. Whether it was too late is for the controller to say.
func (h *Host) cancelDial(ctx context.Context, result <-chan dialled) error {
	var refused StatusError
	if _, err := h.command(aside(ctx), &cmd.LECreateConnectionCancel{}); err != nil && !errors.As(err, &refused) {
		return err
	}
	timer := time.NewTimer(commandTimeout)
	defer timer.Stop()
	select {
	case d := <-result:
		if d.conn != nil {
			d.conn.Close()
		}
		return ctx.Err()
	case <-h.done:
		return h.Err()
	case <-timer.C:
		h.fail(fmt.Errorf("%w: a connection is neither made nor cancelled", ErrStuck))
		return h.Err()
	}
}

// ended waits until an earlier connection to a device is gone, which a controller would take for the one that is asked for.
func (h *Host) ended(ctx context.Context, a Address) error {
	for {
		h.mu.Lock()
		var earlier *Conn
		for _, c := range h.conns {
			if c.peer == a {
				earlier = c
			}
		}
		h.mu.Unlock()
		switch {
		case earlier == nil:
			return nil
		case !earlier.closing():
			return fmt.Errorf("connect to %s: %w", a, StatusConnectionExists)
		}
		select {
		case <-earlier.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// connected takes a new connection, or one that failed.
func (h *Host) connected(e connected) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return
	}
	if e.status != 0 {
		if h.dialling != nil { // of a connection that failed, the role says nothing
			h.dialling <- dialled{err: fmt.Errorf("connect: %w", e.status)}
			h.dialling = nil
		}
		return
	}
	if old := h.conns[e.handle]; old != nil {
		h.drop(old, StatusUnknownConnection) // the controller lost it without a word
	}
	c := newConn(h, e)
	h.conns[e.handle] = c
	if e.central && h.dialling != nil {
		h.dialling <- dialled{conn: c}
		h.dialling = nil
		return
	}
	if !e.central {
		select {
		case h.accepted <- c:
			return
		default:
		}
	}
	c.close() // nobody waits for it
}

// Advertise sets what is advertised, each part at most MaxAdvertising bytes, and begins to. It goes on until a device connects.
func (h *Host) Advertise(ctx context.Context, advertising, scanResponse []byte) error {
	var refused StatusError
	// The parameters cannot be set while it advertises. A controller that does not may refuse to stop.
	if _, err := h.command(ctx, &cmd.LESetAdvertiseEnable{}); err != nil && !errors.As(err, &refused) {
		return fmt.Errorf("advertise: %w", err)
	}
	params := &cmd.LESetAdvertisingParameters{
		AdvertisingIntervalMin: advertisingMin, AdvertisingIntervalMax: advertisingMax, AdvertisingChannelMap: allChannels, OwnAddressType: h.addressType(),
	}
	if _, err := h.command(ctx, params); err != nil {
		return fmt.Errorf("advertise: %w", err)
	}
	if err := h.SetAdvertising(ctx, advertising, scanResponse); err != nil {
		return err
	}
	if _, err := h.command(ctx, &cmd.LESetAdvertiseEnable{AdvertisingEnable: 1}); err != nil {
		return fmt.Errorf("advertise: %w", err)
	}
	return nil
}

// Check has the controller answer. One that does not ends the host.
func (h *Host) Check(ctx context.Context) error {
	_, err := h.command(ctx, &cmd.ReadBDADDR{})
	return err
}

// SetAdvertising changes what is advertised.
func (h *Host) SetAdvertising(ctx context.Context, advertising, scanResponse []byte) error {
	if len(advertising) > MaxAdvertising || len(scanResponse) > MaxAdvertising {
		return fmt.Errorf("advertise %d and %d bytes: at most %d each", len(advertising), len(scanResponse), MaxAdvertising)
	}
	ad := &cmd.LESetAdvertisingData{AdvertisingDataLength: uint8(len(advertising))}
	copy(ad.AdvertisingData[:], advertising)
	sr := &cmd.LESetScanResponseData{ScanResponseDataLength: uint8(len(scanResponse))}
	copy(sr.ScanResponseData[:], scanResponse)
	for _, c := range []command{ad, sr} {
		if _, err := h.command(ctx, c); err != nil {
			return fmt.Errorf("set the advertising data: %w", err)
		}
	}
	return nil
}

// Accepted gives the connections of devices that dialled this one. One that nobody takes is closed.
func (h *Host) Accepted() <-chan *Conn { return h.accepted }
