//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/cmd/ble-guest/air"
	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/ble/hci"
)

// host plugs in a controller with a host in this process.
func host(t *testing.T, r *radio, number int) *ble.Adapter {
	t.Helper()
	end, controller := newPipe()
	r.attach(air.Settings{Address: air.MakeAddress(uint16(number))}, controller)
	h, err := hci.Start(t.Context(), end, hci.Params{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return ble.NewAdapter(h, 0)
}

// counter is a machine that sends numbered notifications when it is written to.
type counter struct{ records int }

func (c counter) Advertise() ble.Advertisement {
	return ble.Advertisement{IDHint: ble.IDHint("m"), Pending: 7}
}

func (c counter) Connect(p ble.Port) ble.Handler { return &counting{c, p} }

type counting struct {
	counter
	port ble.Port
}

func (c *counting) Read(ble.Char) []byte { return []byte("info") }

func (c *counting) Write(ble.Char, []byte) {
	go func() {
		for i := range c.records {
			if err := c.port.Notify(ble.CharData, binary.LittleEndian.AppendUint32(make([]byte, 196), uint32(i))); err != nil {
				return
			}
		}
	}()
}

func (c *counting) Closed() {}

// TestHostsOverTheAir has the real host, GATT client and ATT server talk over the model.
func TestHostsOverTheAir(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRadio(ctx, 1)
		gateway, peripheral := host(t, r, 0), host(t, r, 1)
		served := make(chan error, 1)
		serving, stop := context.WithCancel(ctx)
		go func() { served <- peripheral.Serve(serving, counter{300}) }()

		scanning, seen := context.WithTimeout(ctx, time.Minute)
		var ad ble.Advertisement
		if err := gateway.Scan(scanning, func(a ble.Advertisement) { ad = a; seen() }); err != nil || ad.Pending != 7 {
			t.Fatalf("heard %+v, %v", ad, err)
		}
		link, err := gateway.Dial(ctx, ad.Address)
		if err != nil {
			t.Fatal(err)
		}
		values := make(chan []byte, 300)
		if err := link.Subscribe(ctx, ble.CharData, func(v []byte) { values <- v }); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if err := link.Write(ctx, ble.CharControl, []byte("go")); err != nil {
			t.Fatal(err)
		}
		for i := range 300 {
			if got := binary.LittleEndian.Uint32((<-values)[196:]); int(got) != i {
				t.Fatalf("notification %d has number %d", i, got)
			}
		}
		// 207 bytes with all headers take about 2.15 ms of air and are not begun where 15 ms do not hold them: six an event.
		if took := time.Since(begun); took < 600*time.Millisecond || took > time.Second {
			t.Errorf("300 notifications took %s of the model's time, want about 750 ms", took)
		}
		r.do(func(a *air.Air) { a.LoseNow(air.MakeAddress(1)) })
		<-link.Closed()
		if took := time.Since(begun); took < 4*time.Second {
			t.Errorf("the link was lost and ended after %s, before its supervision timeout", took)
		}
		stop()
		if err := <-served; err != nil {
			t.Errorf("the machine: %v", err)
		}
		for _, a := range []*ble.Adapter{gateway, peripheral} {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
		cancel()
		<-r.done
	})
}

// TestImpostorsOnlyWasteTime has a gateway dial each impostor twice: it gets errors or nonsense, and goes on.
func TestImpostorsOnlyWasteTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRadio(ctx, 1)
		st := &stage{radio: r, seed: 1, machines: []*machine{{id: "m", stock: 9}}}
		gateway := host(t, r, 0)
		if err := plugRogues(ctx, st); err != nil {
			t.Fatal(err)
		}
		for try := range 2 * (breakers + liars) {
			address := air.MakeAddress(uint16(0x100 + try/2)).String()
			dialling, over := context.WithTimeout(ctx, time.Minute)
			link, err := gateway.Dial(dialling, address)
			if err == nil {
				_, _ = link.ReadInfo(dialling)
				_ = link.Subscribe(dialling, ble.CharSession, func([]byte) {})
				_ = link.Write(dialling, ble.CharSession, []byte{0xc0, 1})
				link.Close()
				<-link.Closed()
			}
			over()
			<-time.After(5 * time.Second) // of the model: the impostor advertises again
		}
		if findings := metRogues(st); len(findings) > 0 {
			t.Error(findings)
		}
		select {
		case <-gateway.Done():
			t.Errorf("the gateway's adapter is lost: %v", gateway.Err())
		default:
		}
		if err := gateway.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		<-r.done
		r.close()
	})
}
